"""A run's model is evaluated with the run's settings, and flags win."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.config import resolve, to_yaml
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.run_settings import dataset_names, resolve_evaluations, run_of
from prepo_cli.evaluation.settings import EvalConfig
from prepo_cli.ownership import Marker
from prepo_cli.sections import RunConfig

NOT_GIVEN = dict.fromkeys(name for name in EvalConfig.model_fields if name not in ("model", "engine", "rewards"))


def make_run(folder: Path, sets: Sequence[str] = ()) -> RunConfig:
    config = resolve(flags={"seed": 7}, sets=["training.max_completion_length=40", *sets])
    folder.mkdir()
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    Marker("run").write(folder)
    return config


def evaluation(model: Path | str, rewards: dict[str, Any] | None = None, **flags: Any) -> EvalConfig:
    given = {**NOT_GIVEN, "chat_template_kwargs": {}, "rewards": rewards or {}, "engine": {}}
    given["model"] = {"model_name_or_path": str(model), "dtype": flags.pop("dtype", None)}
    (config,) = resolve_evaluations(given | flags)
    return config


def test_everything_that_an_accuracy_depends_on_comes_from_the_run(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "a",
        [
            "evaluation.temperature=0.6", "evaluation.top_p=0.9", "evaluation.num_samples=4", "evaluation.limit=50",
            "data.system_prompt=Think.", "data.chat_template_kwargs={enable_thinking: false}",
            "data.max_prompt_length=99", "rewards.functions=[exact, math]", "rewards.weights=[1, 2]",
            "rewards.verdict=exact", "rewards.correct_reward=0.5", "rewards.workers=3", "model.dtype=bfloat16",
        ],
    )  # fmt: skip
    config = evaluation(tmp_path / "a")
    assert (config.dataset_name, config.split, config.limit) == ("embedded", "test", 50)
    assert (config.k, config.temperature, config.top_p, config.seed) == (4, 0.6, 0.9, 7)
    assert (config.max_completion_length, config.max_prompt_length) == (40, 99)
    assert (config.system_prompt, config.chat_template_kwargs) == ("Think.", {"enable_thinking": False})
    assert config.rewards == run.rewards.model_copy(update={"workers": None})
    assert config.model.dtype == "bfloat16"


def test_flags_win(tmp_path: Path) -> None:
    make_run(
        tmp_path / "a",
        ["rewards.functions=[exact, math]", "rewards.weights=[1, 2]", "data.chat_template_kwargs={a: 1, b: 2}"],
    )
    config = evaluation(
        tmp_path / "a", {"functions": ["boxed"]}, k=2, temperature=0.0, max_completion_length=8, limit=3, seed=0,
        chat_template_kwargs={"b": 3}, dtype="float16",
    )  # fmt: skip
    assert (config.k, config.temperature, config.max_completion_length, config.limit, config.seed) == (1, 0, 8, 3, 0)
    assert (config.rewards.functions, config.rewards.weights) == (["boxed"], None)
    assert (config.chat_template_kwargs, config.model.dtype) == ({"a": 1, "b": 3}, "float16")
    judged = evaluation(tmp_path / "a", {"verdict": "exact"})
    assert (judged.rewards.functions, judged.rewards.verdict) == (["exact", "math"], "exact")


def test_another_dataset_has_its_own_split_and_columns(tmp_path: Path) -> None:
    own = ["data.dataset_name=mine.jsonl", "data.prompt_column=ask", "data.answer_column=gold", "evaluation.limit=9"]
    make_run(tmp_path / "a", own)
    other = evaluation(tmp_path / "a", dataset_name="other.jsonl")
    assert (other.dataset_name, other.split, other.limit, other.prompt_column) == ("other.jsonl", "test", None, None)
    assert other.max_completion_length == 40
    mine = evaluation(tmp_path / "a", dataset_name="mine.jsonl", split="train")
    assert (mine.split, mine.prompt_column, mine.answer_column) == ("train", "ask", "gold")


def test_a_run_without_an_evaluation_set_needs_a_dataset(tmp_path: Path) -> None:
    make_run(tmp_path / "a", ["evaluation.dataset_name=null"])
    with pytest.raises(UsageError, match=r"a was trained without an evaluation set; choose a dataset with --dataset$"):
        evaluation(tmp_path / "a")
    assert evaluation(tmp_path / "a", dataset_name="embedded").k == 16


def test_a_run_that_holds_prompts_out_evaluates_these(tmp_path: Path) -> None:
    own = ["data.dataset_name=mine.jsonl", "data.limit=500", "evaluation.holdout=0.1", "evaluation.limit=40"]
    make_run(tmp_path / "a", [*own, "evaluation.dataset_name=null"])
    config = evaluation(tmp_path / "a")
    assert (config.dataset_name, config.split, config.limit) == ("mine.jsonl", "train", 500)
    assert (config.holdout, config.holdout_limit) == (0.1, 40)
    assert config.prompts_name == "held-out prompts of mine.jsonl"
    assert evaluation(tmp_path / "a", dataset_name="other.jsonl").holdout == 0


def test_the_run_is_found_from_its_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a")
    for inner in ("", "final", "checkpoints/step-000010/model"):
        (tmp_path / "a" / inner).mkdir(parents=True, exist_ok=True)
        assert run_of(str(tmp_path / "a" / inner)) == run
    monkeypatch.chdir(tmp_path / "a")
    assert run_of(".") == run
    (tmp_path / "a/embedded").mkdir()
    assert run_of("embedded") is None
    assert run_of("Qwen/Qwen3-4B") is None
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/config.yaml").write_text("neither: ours", encoding="utf-8")
    assert run_of(str(tmp_path / "plain")) is None


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    file = tmp_path / "a/config.yaml"
    file.write_text(file.read_text().replace("num_samples: 16", "num_samples: many"), encoding="utf-8")
    with pytest.raises(UsageError, match=r"a/config.yaml: evaluation.num_samples=\"many\": .*; correct it"):
        evaluation(tmp_path / "a")


def test_one_line_says_what_comes_from_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_run(tmp_path / "a")
    evaluation(tmp_path / "a", {"functions": ["boxed"]}, k=2)
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    for shown in ("dataset_name=embedded", "limit=200", "max_completion_length=40", "seed=7", "temperature=1"):
        assert shown in err
    assert "k=" not in err
    assert "functions" not in err
    evaluation("embedded")
    assert capsys.readouterr().err == ""


def test_a_name_with_commas_is_one_dataset_if_it_exists(tmp_path: Path) -> None:
    file = tmp_path / "a,b.jsonl"
    assert len(dataset_names(str(file))) == 2
    file.touch()
    assert dataset_names(str(file)) == [str(file)]
