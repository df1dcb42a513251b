"""The README.md of a finished run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prepo_cli.config import RunConfig


def model_card(config: RunConfig, summary: Mapping[str, Any]) -> str:
    """Recipe, results, costs and how to do it again, as Markdown with the hub's front matter."""
    base = config.model.model_name_or_path
    lines = [
        "---",
        "library_name: transformers",
        "tags: [prepo, reinforcement-learning, grpo]",
        *([f"base_model: {base}"] if "/" in base and not base.startswith((".", "/")) else []),
        "---",
        "",
        f"# {base}, trained with prepo ({summary['recipe']})",
        "",
        f"{summary['steps']} steps on {config.data.dataset_name}, seed {config.seed}. The model is in `final/`.",
        "",
        "| slot | strategy |",
        "| --- | --- |",
        *(f"| {slot} | `{name}` |" for slot, name in summary["strategies"].items()),
        "",
    ]
    if summary["before"] and summary["after"]:
        lines += ["| | before | after |", "| --- | --- | --- |"]
        for name in summary["after"]:
            if "@" in name:
                lines.append(f"| {name} | {_interval(summary['before'][name])} | {_interval(summary['after'][name])} |")
        gain = summary["difference"]
        lines += [
            "",
            f"{summary['metric']} changed by {gain['value']:+.3f}, "
            f"95 % interval [{gain['low']:+.3f}, {gain['high']:+.3f}] "
            f"(paired bootstrap over {summary['after']['prompts']} prompts).",
            "",
        ]
    if summary["cost"]:
        lines += ["| cost | |", "| --- | ---: |"]
        lines += [f"| {name.replace('_', ' ')} | {round(value):,} |" for name, value in summary["cost"].items()]
        lines += [""]
    lines += ["To do it again: `prepo train --config config.yaml --output-dir NEW`.", ""]
    return "\n".join(lines)


def _interval(value: Mapping[str, float]) -> str:
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
