"""The README.md of a finished run: a model card for the Hugging Face Hub.

The front matter holds what the Hub searches and ranks by: base model, datasets, tags and the results as `model-index`.
Only Hub names go there; of a local path the card shows just the last component. The user adds the licence.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from prepo_cli.engines import ENGINES
from prepo_cli.losses import LOSSES
from prepo_cli.sections import RunConfig, is_embedded
from prepo_cli.statistics import interval_text
from prepo_cli.text import plain
from strategies.registry import find, parse

Interval = Mapping[str, float]
ARXIV = "https://arxiv.org/abs/"
GRPO, LORA, GSPO = "2402.03300", "2106.09685", "2507.18071"

HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
DATA_FILES = (".jsonl", ".json", ".parquet", ".csv")
COSTS = {
    "rollouts_total": "rollouts generated",
    "rollouts_trained": "rollouts trained on",
    "tokens_generated": "tokens generated",
    "tokens_scored": "tokens scored",
    "seconds": "seconds of training",
}
LICENCE = "# license: your choice; the base model's licence applies too"


def model_card(config: RunConfig, summary: Mapping[str, Any]) -> str:
    """Markdown with front matter: strategies, results, costs, how to use the model and how to reproduce the run."""
    data = yaml.safe_dump(_front_matter(config, summary), sort_keys=False, allow_unicode=True)
    base, dataset = shown(config.model.model_name_or_path), shown(config.data.dataset_name)
    unpushed = " --set reporting.push_to_hub=false" if config.reporting.push_to_hub else ""
    parts = [
        f"---\n{data}{LICENCE}\n---",
        f"# {_literal(base)}, trained with prepo ({_literal(summary['recipe'])})",
        f"{_linked(base)} after {summary['steps']:,} steps of reinforcement learning with verifiable rewards "
        f"({_literal(', '.join(config.rewards.functions))}) on {_linked(dataset, 'datasets/')}, "
        f"{config.training.loss_type} loss, seed {config.seed}.{_lora(config)}",
        *_strategies(config),
        *_results(config, summary),
        *_costs(summary),
        *(["![Learning curve](learning_curve.png)"] if config.reporting.figures else []),
        "## How to use it",
        _snippet(config),
        "## How to reproduce it",
        "`config.yaml` contains every setting:",
        f"```sh\nprepo train --config config.yaml --output-dir runs/reproduced{unpushed}\n```",
        _table(["package", "version"], [[name, number] for name, number in _versions(config)]),
        "## Papers",
        "\n".join(f"- {what}: [arXiv {paper}]({ARXIV}{paper})" for what, paper in _papers(config)),
    ]
    return "\n\n".join(parts) + "\n"


def hub_name(name: str) -> str | None:
    """The name if it is a Hub name, `owner/name`, and not a local path; else None."""
    local = name.endswith(DATA_FILES) or Path(name).exists()
    return name if HUB_NAME.fullmatch(name) and not local else None


def shown(name: str) -> str:
    """A name that is safe to publish: a Hub name in full, of a path only the last component."""
    return hub_name(name) or Path(name).name


def _front_matter(config: RunConfig, summary: Mapping[str, Any]) -> dict[str, Any]:
    base, dataset = hub_name(config.model.model_name_or_path), hub_name(config.data.dataset_name)
    data: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if base:
        data |= {"base_model": base, "base_model_relation": "finetune"}
    if dataset:
        data["datasets"] = [dataset]
    data["tags"] = ["prepo", "reinforcement-learning", "grpo", *(["lora"] if config.model.use_peft else [])]
    after, evaluation = summary["after"], config.evaluation
    if after:
        # Of a hold-out the Hub learns whose prompts they are; it has no split of its own.
        evaluated, split = evaluation.dataset_name or config.data.dataset_name, evaluation.split
        name = shown(evaluated)
        if evaluation.holds_out:
            name, split = f"{name} (held-out prompts)", config.data.split
        metrics = [
            {"type": name, "name": name, "value": round(interval["value"], 6)}
            for name, interval in _intervals(after).items()
        ]
        result = {
            "task": {"type": "text-generation", "name": "Text Generation"},
            "dataset": {"type": shown(evaluated), "name": name, "split": split},
            "metrics": metrics,
        }
        data["model-index"] = [{"name": _model_name(config), "results": [result]}]
    return data


def _model_name(config: RunConfig) -> str:
    name = config.reporting.hub_model_id or f"{shown(config.model.model_name_or_path)}-{config.recipe}"
    return name.rpartition("/")[2]


def _linked(name: str, kind: str = "") -> str:
    if is_embedded(name):
        return f"prepo's embedded {'task' if kind else 'model'}"
    return f"[{name}](https://huggingface.co/{kind}{name})" if hub_name(name) else _code(name)


def _literal(text: str) -> str:
    """Text in which nothing is Markdown or HTML."""
    return re.sub(r"([\\`*\[\]<>|&$~#])", r"\\\1", plain(text))


def _code(text: str) -> str:
    """Text as code, in a table too."""
    return f"`{plain(text).replace('`', chr(39)).replace('|', '¦')}`"


def _lora(config: RunConfig) -> str:
    if not config.model.use_peft:
        return ""
    model = config.model
    modules = model.lora_target_modules
    targets = modules if isinstance(modules, str) else ", ".join(modules)
    return (
        f" Trained with LoRA adapters (rank {model.lora_r}, alpha {model.lora_alpha:g}, dropout "
        f"{model.lora_dropout:g}, target modules {_literal(targets)}), which are merged into these "
        "weights. The folder `adapter` contains the adapters alone, for peft."
    )


def _strategies(config: RunConfig) -> Iterator[str]:
    rows = []
    for slot, text in config.strategies.model_dump().items():
        for spec in parse(text):
            cls = find(slot, spec.name)
            values = cls.Params.model_validate(dict(spec.params)).model_dump(mode="json")
            parameters = ", ".join(_code(f"{key}={value}") for key, value in values.items() if value is not None)
            paper = f"[{cls.paper}]({ARXIV}{cls.paper})" if cls.paper else ""
            rows.append([slot.replace("_", " "), _code(spec.name), parameters, paper])
    yield "## Strategies"
    yield _table(["slot", "strategy", "parameters", "paper"], rows)


def _results(config: RunConfig, summary: Mapping[str, Any]) -> Iterator[str]:
    before, after = summary["before"], summary["after"]
    if not (before or after):
        return
    settings, gain, metric = config.evaluation, summary["difference"], summary["metric"]
    rows = [
        [
            name,
            interval_text(_intervals(before).get(name)),
            interval_text(_intervals(after).get(name)),
            interval_text(gain, "+.3f") if name == metric else "",
        ]
        for name in _intervals(after or before)
    ]
    prompts = (after or before)["prompts"]
    yield "## Results"
    where = f"{_literal(shown(settings.dataset_name or ''))}, split {_literal(settings.split)}"
    if settings.holds_out:
        where = f"Prompts of {_literal(shown(config.data.dataset_name))} held out from training"
    yield (
        f"{where}: {prompts:,} prompts, {settings.num_samples} samples each at temperature "
        f"{settings.temperature:g} and top-p {settings.top_p:g}. `avg@k` is the mean accuracy of k "
        "samples, `pass@k` an unbiased estimate of the probability that at least one of k samples "
        "is correct, `maj@k` the accuracy of the majority answer."
    )
    yield _table(["metric", "before", "after", "difference"], rows)
    yield "Brackets are 95% intervals from a bootstrap over prompts; the difference is paired by prompt."


def _costs(summary: Mapping[str, Any]) -> Iterator[str]:
    if summary["cost"]:
        yield "## Costs"
        yield _table(["cost", "amount"], [[label, f"{summary['cost'][key]:,.0f}"] for key, label in COSTS.items()])
        yield "All rollouts generated and tokens scored are counted, including dropped rollouts."


def _snippet(config: RunConfig) -> str:
    name = config.reporting.hub_model_id or "final"
    trust = ", trust_remote_code=True" if config.model.trust_remote_code else ""
    system = config.data.system_prompt
    instruction = "" if system is None else f'{{"role": "system", "content": {system!r}}}, '
    arguments = config.data.chat_template_kwargs.items()
    template = "".join(f", {key}={value!r}" for key, value in arguments if key.isidentifier())
    comment = "" if config.reporting.hub_model_id else "  # in the run folder"
    return f"""```python
from transformers import AutoModelForCausalLM, AutoTokenizer

name = {json.dumps(name)}{comment}
tokenizer = AutoTokenizer.from_pretrained(name{trust})
model = AutoModelForCausalLM.from_pretrained(name, dtype="auto"{trust})

text = "What is 17 + 25?"
if tokenizer.chat_template:
    messages = [{instruction}{{"role": "user", "content": text}}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False{template})
inputs = tokenizer(text, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")
output = model.generate(**inputs, do_sample=True, max_new_tokens={config.training.max_completion_length})
print(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```"""


def _versions(config: RunConfig) -> Iterator[tuple[str, str]]:
    yield "Python", ".".join(map(str, sys.version_info[:3]))
    packages = ["prepo", "torch", "transformers"]
    packages += ["peft"] if config.model.use_peft else []
    for package in packages:
        yield package, version(package)
    engine = ENGINES[config.engine.name].package
    if engine is not None:  # the package itself is asked, since the names of vLLM's distributions differ
        yield engine, import_module(engine).__version__


def _papers(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What the run uses, each with its paper."""
    yield "GRPO", GRPO
    loss_paper = LOSSES[config.training.loss_type].paper
    if loss_paper != GRPO:
        yield f"loss `{config.training.loss_type}`", loss_paper
    if config.training.importance_sampling_level == "sequence":
        yield "sequence-level importance ratios (GSPO)", GSPO
    if config.model.use_peft:
        yield "LoRA", LORA
    for slot, text in config.strategies.model_dump().items():
        for spec in parse(text):
            paper = find(slot, spec.name).paper
            if paper:
                yield f"{slot.replace('_', ' ')} {_code(spec.name)}", paper


def _intervals(results: Mapping[str, Any] | None) -> dict[str, Interval]:
    return {name: value for name, value in (results or {}).items() if "@" in name}


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
