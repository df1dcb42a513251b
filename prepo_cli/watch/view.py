"""The view of a run: a header, six plots and the last completions, as wide and high as the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from prepo_cli.statistics import FloatArray, interval_text
from prepo_cli.text import brief, plain
from prepo_cli.watch.plot import Bounds, compact, draw, span
from prepo_cli.watch.run import Accuracy, Completion, WatchedRun

NARROWEST = 38
"""Columns that a plot needs."""
MOST_ACROSS = 3
LOWEST, HIGHEST = 3, 8
"""Rows of a plot, without its title."""
GUTTER = 7
"""Columns for the numbers of an axis."""
COLORS = {"running": "green", "finished": "blue", "stopped": "yellow"}


@dataclass(frozen=True)
class Plot:
    """A line over finished steps, with its newest value in words."""

    title: str
    value: str
    x_N: FloatArray
    y_N: FloatArray
    bounds: Bounds
    color: str


def view(run: WatchedRun, console: Console) -> RenderableType:
    """The run as it is now, in the width and height of the console."""
    width, height = console.width, console.height
    across = min(MOST_ACROSS, max(1, width // NARROWEST))
    found = list(plots(run))
    down = -(-len(found) // across)
    taken = 3 + (1 + 2 * len(run.completions) if run.completions else 0)
    rows = min(HIGHEST, max(LOWEST, (height - 1 - taken) // max(1, down) - 1))
    unicode = console.encoding.lower().startswith("utf")
    grid = Table.grid(padding=(0, 2, 0, 0))
    for start in range(0, len(found), across):
        grid.add_row(
            *(_drawn(plot, run.steps, width // across - 2, rows, unicode) for plot in found[start : start + across])
        )
    parts: list[RenderableType] = [*_header(run)]
    parts += [grid] if run.steps else [Text("no steps yet", style="dim")]
    if run.completions:
        parts.append(Text(f"completions of step {run.completions_step:,}", style="dim"))
        parts += [line for completion in run.completions for line in _completion(completion, width)]
    return Group(*parts)


def plots(run: WatchedRun) -> Iterator[Plot]:
    """What is plotted, in order."""
    known = run.columns
    if not run.steps:
        return
    step_S = known["step"] + 1
    yield _of("reward", known["reward"], step_S, "cyan")
    yield _held_out(run.accuracies)
    yield _of("zero-variance groups", known["frac_reward_zero_std"], step_S, "red", "", 0.0, 1.0)
    yield _of("tokens generated/s", known["tokens_per_second"], step_S, "green", "", 0.0)
    rollouts, tokens = (compact(total) for total in totals(run).values())
    yield _of("rollouts per step", known["rollouts"], step_S, "blue", f", {rollouts} in total", 0.0)
    yield _of("tokens per step", known["tokens"], step_S, "magenta", f", {tokens} in total", 0.0)


def totals(run: WatchedRun) -> dict[str, float]:
    """Rollouts, and tokens generated and scored, of the whole run so far."""
    last = {name: float(values_S[-1]) for name, values_S in run.columns.items()} if run.steps else {}
    tokens = last.get("cost/tokens_generated", 0.0) + last.get("cost/tokens_scored", 0.0)
    return {"rollouts": last.get("cost/rollouts_total", 0.0), "tokens": tokens}


def _held_out(accuracies: Sequence[Accuracy]) -> Plot:
    last = accuracies[-1] if accuracies else None
    step_E = np.array([accuracy.step for accuracy in accuracies], dtype=np.float64)
    value_E = np.array([accuracy.value for accuracy in accuracies], dtype=np.float64)
    title = f"held-out {last.metric}" if last is not None else "held-out accuracy"
    value = interval_text(vars(last)) if last is not None else "none so far"
    return Plot(title, value, step_E, value_E, span(value_E), "yellow")


def _of(
    title: str,
    values_S: FloatArray,
    step_S: FloatArray,
    color: str,
    more: str = "",
    low: float | None = None,
    high: float | None = None,
) -> Plot:
    return Plot(title, f"{compact(float(values_S[-1]))}{more}", step_S, values_S, span(values_S, low, high), color)


def _header(run: WatchedRun) -> Iterator[Text]:
    folder, config = run.folder.path, run.config
    yield Text.assemble((plain(str(folder)), "bold"), ": ", (run.state, COLORS[run.state]), plain(_progress(run)))
    model, data = config.get("model", {}), config.get("data", {})
    names = [config.get("recipe"), f"seed {config.get('seed')}", model.get("model_name_or_path")]
    if config:
        yield Text(plain(f"{', '.join(map(str, names))} on {data.get('dataset_name')}"), style="dim")
    if run.state == "stopped":
        yield Text(plain(f"resume with: prepo train --resume --output-dir {folder}"), style="dim")


def _progress(run: WatchedRun) -> str:
    """The run's progress, and what comes next."""
    if run.state == "running" and not run.steps:
        return ", starting"
    total = run.config.get("training", {}).get("total_steps")
    steps = f"step {run.steps:,} of {total:,}" if total else f"step {run.steps:,}, {run.share:.0%} of the limit"
    if run.state == "finished":
        seconds = run.columns["cost/seconds"][-1] if run.steps else 0.0
        return f", {run.steps:,} steps in {_clock(seconds)}"
    if run.state == "stopped":
        return f" after {steps}"
    who = f" in {run.holder}" if run.holder is not None and not run.holder.is_here else ""
    left = f", {_clock(run.seconds_left)} left" if run.seconds_left is not None else ""
    return f"{who}, {steps}{left}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if np.isfinite(seconds) else "unknown time"


def _drawn(plot: Plot, steps: int, width: int, rows: int, unicode: bool) -> Text:
    """A title, and rows of the curve over all steps so far behind the numbers of its axis."""
    lines = draw(plot.x_N, plot.y_N, (0, steps), plot.bounds, width - GUTTER - 2, rows)
    low, high = plot.bounds
    labels = [compact(high), *[""] * (rows - 2), compact(low)]
    gap = max(1, width - cell_len(plot.title) - cell_len(plot.value))
    text = Text(no_wrap=True, overflow="crop")
    text.append(plot.title, "bold").append(" " * gap).append(plot.value)
    for label, line in zip(labels, lines, strict=True):
        curve = line if unicode else "".join(" " if character == " " else "*" for character in line)
        text.append(f"\n{label:>{GUTTER}} {'│' if unicode else '|'}", "dim").append(curve, plot.color)
    return text


def _completion(completion: Completion, width: int) -> Iterator[Text]:
    """The prompt and the end of the answer, in a line each."""
    word, color = ("right", "green") if completion.correct else ("wrong", "red")
    prompt, text = (" ".join(part.split()) for part in (completion.prompt, completion.text))
    yield _fitting(Text.assemble((word, color), f" {compact(completion.reward):>6}  ", plain(prompt)), width)
    indent = " " * len("right 0.000  ")
    yield _fitting(Text(f"{indent}{brief(text, max(20, width - len(indent) - 1))}", style="dim"), width)


def _fitting(text: Text, width: int) -> Text:
    text.truncate(width - 1, overflow="ellipsis")
    return text


def as_json(run: WatchedRun) -> dict[str, Any]:
    """The run as one JSON object: the newest value of everything shown."""
    known = run.columns
    last = {name: float(known[name][-1]) if run.steps else None for name in known}
    accuracy = run.accuracies[-1] if run.accuracies else None
    return {
        "run": str(run.folder.path),
        "state": run.state,
        "process": str(run.holder) if run.holder is not None else None,
        "steps": run.steps,
        "share": run.share,
        "seconds_left": run.seconds_left,
        "reward": last["reward"],
        "frac_reward_zero_std": last["frac_reward_zero_std"],
        "evaluation": vars(accuracy) if accuracy is not None else None,
        "cost": {**totals(run), "seconds": last["cost/seconds"]},
        "tokens_per_second": last["tokens_per_second"],
        "completions": [vars(completion) for completion in run.completions],
    }
