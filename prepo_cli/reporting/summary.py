"""The summary of a run: results with intervals, and their cost."""

from __future__ import annotations

from typing import Any

from prepo_cli.files import read_lines
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.sections import RunConfig, held_out_of
from prepo_cli.statistics import interval_text, paired_difference
from prepo_cli.text import counted

COSTS = ("rollouts_total", "rollouts_trained", "tokens_generated", "tokens_scored", "seconds")
COST_NAMES = ("rollouts generated", "rollouts trained", "tokens generated", "tokens scored", "seconds")


def build_summary(config: RunConfig, folder: RunFolder) -> dict[str, Any]:
    """Recipe, strategies, evaluations before and after training with their paired difference, and costs."""
    metrics, evaluations = read_lines(folder.metrics), read_lines(folder.evaluations)
    key = f"avg@{config.evaluation.num_samples}"
    summary: dict[str, Any] = {
        "recipe": config.recipe,
        "strategies": config.strategies.model_dump(),
        "model": config.model.model_name_or_path,
        "dataset": config.data.dataset_name,
        "seed": config.seed,
        "steps": metrics[-1]["step"] + 1 if metrics else 0,
        "skipped_steps": sum(line.get("skipped_steps") or 0 for line in metrics),
        "output_dir": str(folder.path),
        "cost": {name: metrics[-1][f"cost/{name}"] for name in COSTS} if metrics else {},
        "metric": key,
        "evaluation_set": evaluation_set(config),
        "before": None,
        "after": None,
        "difference": None,
    }
    first = next((line for line in evaluations if line["step"] == 0), None)
    last = evaluations[-1] if evaluations and evaluations[-1]["step"] > 0 else None
    for name, line in (("before", first), ("after", last)):
        if line is not None:
            summary[name] = {k: v for k, v in line.items() if "@" in k} | {"prompts": line["prompts"]}
    if first and last:
        gain = paired_difference(first["per_prompt"], last["per_prompt"], seed=config.seed)
        summary["difference"] = gain._asdict()
    return summary


def evaluation_set(config: RunConfig) -> str | None:
    """What was evaluated, in words."""
    settings = config.evaluation
    if settings.dataset_name is not None:
        return f"{settings.dataset_name}, split {settings.split}"
    return held_out_of(config.data.dataset_name) if settings.holds_out else None


def print_summary(summary: dict[str, Any]) -> None:
    """Print the summary as tables."""
    from prepo_cli.terminal import line, table

    rows = []
    for name in sorted({k for side in ("before", "after") for k in summary[side] or {} if "@" in k}, key=_order):
        before, after = ((summary[side] or {}).get(name) for side in ("before", "after"))
        gain = interval_text(summary["difference"], "+.3f") if name == summary["metric"] else ""
        rows.append([name, interval_text(before), interval_text(after), gain])
    if rows:
        prompts = (summary["after"] or summary["before"])["prompts"]
        where = f"{prompts} prompts ({summary['evaluation_set']})"
        title = f"{summary['recipe']}, seed {summary['seed']}: {where}, 95% intervals"
        table(title, ["", "before", "after", "difference"], rows)
    cost = summary["cost"]
    if cost:
        amounts = [*(f"{cost[name]:,}" for name in COSTS[:-1]), f"{cost['seconds']:,.1f}"]
        table(
            f"cost of {counted(summary['steps'], 'step')}", ["", "total"], list(zip(COST_NAMES, amounts, strict=True))
        )
    line(f"run folder: {summary['output_dir']}")


def _order(name: str) -> tuple[int, int]:
    kind, _, k = name.partition("@")
    return ("avg", "pass", "maj").index(kind), int(k)
