"""Which evaluations a call asks for: the given settings, over those of the run whose model is evaluated.

A run's model is evaluated as the run evaluated it, so that its accuracies before and after training and those of
`prepo eval --model RUN` are of the same prompts, sampled and judged alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from os.path import exists
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from prepo_cli.config import merge, read_yaml
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.settings import EvalConfig
from prepo_cli.ownership import read_marker
from prepo_cli.sections import EMBEDDED, RunConfig
from prepo_cli.terminal import say
from prepo_cli.text import brief
from prepo_cli.validation import validated, validation_message

JUDGES = {"functions", "weights", "verdict", "correct_reward", "timeout_s", "batch_timeout_s", "on_error"}
"""Settings of rewards that come from a run; the others are of the machine."""
DEFAULT_ROOT = "evals"


def resolve_evaluations(given: Mapping[str, Any]) -> list[EvalConfig]:
    """The evaluation of each dataset; one line says what comes from a run.

    Args:
        given: settings as `EvalConfig` names them, None for those that were not given; `dataset_name` may hold several
            names, separated by commas.

    Raises:
        UsageError: bad settings, or datasets that would share a folder.
    """
    model = str(given["model"]["model_name_or_path"])
    run = run_of(model)
    names = dataset_names(given["dataset_name"])
    configs: dict[str, EvalConfig] = {}
    for name in names:
        mine = {**given, "dataset_name": name}
        layers: dict[str, Any] = {} if run is None else settings_of(run, mine)
        merge(layers, _known(mine))
        layers.setdefault("dataset_name", EMBEDDED)
        folder = _folder(given["output_dir"], model, layers["dataset_name"], alone=len(names) == 1)
        if folder in configs:
            raise UsageError(
                f"{configs[folder].dataset_name} and {name} would share the folder {folder}; evaluate them in separate "
                "calls, each with its own --output-dir"
            )
        configs[folder] = validated(EvalConfig, {**layers, "output_dir": folder})
    if run is not None:
        shown = ", ".join(_shown(settings_of(run, {**given, "dataset_name": names[0]}), given))
        say(f"settings from {model} (flags override them): {shown}")
    return list(configs.values())


def dataset_names(text: str | None) -> Sequence[str | None]:
    """The datasets in a comma-separated list, each once; a path that exists is one dataset, commas and all.

    >>> dataset_names("aime24, math500,aime24"), dataset_names(None)
    (['aime24', 'math500'], [None])
    """
    if text is None or exists(text):
        return [text]
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if "" in names:
        raise UsageError(f"--dataset {text}: separate names with single commas, as in aime24,math500")
    return names


def run_of(model: str) -> RunConfig | None:
    """The configuration of the run whose folder, final model or checkpoint this is; None for any other model.

    Raises:
        UsageError: the run's configuration is damaged.
    """
    path = Path(model).absolute()
    if model == EMBEDDED or not path.is_dir():
        return None
    for folder in (path, *path.parents[:3]):  # RUN, RUN/final, RUN/checkpoints/step-000100/model
        marker, file = read_marker(folder), folder / "config.yaml"
        if marker is not None and marker.kind == "run" and file.is_file():
            try:
                return RunConfig.model_validate(read_yaml(file))
            except ValidationError as error:
                message = f"{file}: {validation_message(error)}"
                raise UsageError(f"{message}; correct it, or evaluate a copy of the model elsewhere") from error
    return None


def settings_of(run: RunConfig, given: Mapping[str, Any]) -> dict[str, Any]:
    """A run's settings for the evaluation of its model.

    Its evaluation set or held-out prompts count unless another dataset is given, its columns for its training set, and
    its rewards unless reward functions are given.

    Raises:
        UsageError: no dataset is given, and the run has no evaluation set.
    """
    evaluation, data = run.evaluation, run.data
    found: dict[str, Any] = {}
    if given["dataset_name"] is None:
        if evaluation.holds_out:
            found |= {"dataset_name": data.dataset_name, "split": data.split, "limit": data.limit}
            found |= {"holdout": evaluation.holdout, "holdout_limit": evaluation.limit}
        elif evaluation.dataset_name is None:
            model = given["model"]["model_name_or_path"]
            raise UsageError(f"{model} was trained without an evaluation set; choose a dataset with --dataset")
        else:
            found |= {"dataset_name": evaluation.dataset_name, "split": evaluation.split, "limit": evaluation.limit}
    found |= {
        "k": evaluation.num_samples,
        "temperature": evaluation.temperature,
        "top_p": evaluation.top_p,
        "max_completion_length": run.training.max_completion_length,
        "max_prompt_length": data.max_prompt_length,
        "system_prompt": data.system_prompt,
        "chat_template_kwargs": dict(data.chat_template_kwargs),
        "seed": run.seed,
        "model": {"dtype": run.compute_dtype},
    }
    if data.dataset_name in (given["dataset_name"], found.get("dataset_name")):
        found |= {key: getattr(data, key) for key in ("prompt_column", "answer_column", "skip_bad_rows")}
    if "functions" not in given["rewards"]:
        found["rewards"] = run.rewards.model_dump(include=JUDGES, exclude_defaults=True)
    return found


def short_name(name: str) -> str:
    """The last part of a path or hub name that identifies it, as a folder name."""
    path = Path(name)
    last = path.parent.name if path.name == "final" and path.parent.name else path.name
    stem = Path(last).stem if path.is_file() else last
    return re.sub(r"[^\w.-]+", "_", stem).strip("._") or "here"


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that are None."""
    return {
        key: _known(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        if value is not None
    }


def _shown(settings: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[str]:
    """What comes from the run, for a person to read; sections are spelled out."""
    for key, value in settings.items():
        mine = given.get(key)
        if isinstance(value, Mapping):
            yield from _shown(value, mine or {})
        elif mine is None and value is not None and value is not False:
            yield f"{key}={brief(f'{value:g}' if isinstance(value, float) else str(value))}"


def _folder(given: str | None, model: str, dataset: str, *, alone: bool) -> str:
    """The given folder for a single dataset, and folders in it for several."""
    if given is None:
        return f"{DEFAULT_ROOT}/{short_name(model)}-{short_name(dataset)}"
    return given if alone else str(Path(given) / short_name(dataset))
