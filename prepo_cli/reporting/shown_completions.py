"""What `prepo show` finds and prints: completions with their prompts, gold answers and rewards.

Prompts and completions come from anywhere: they are indented and printed without what would steer the terminal, so that
none can pass for a heading.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from prepo_cli.errors import UsageError
from prepo_cli.ownership import read_marker
from prepo_cli.reporting.recorded import FATES, Completion, conversation, read_completions, recorded_steps, step_of
from prepo_cli.rewards.answers import final_answer
from prepo_cli.text import plain

if TYPE_CHECKING:
    from rich.console import Console

INDENT = 4


@dataclass(frozen=True)
class Found:
    """Completions of a run's step, or of an evaluation (`step` None); `matched` counts those beyond the limit too."""

    folder: str
    step: int | None
    matched: int
    completions: list[Completion]


def find(folder: Path, *, step: int | None, prompt: str | None, wrong: bool, limit: int) -> Found:
    """The completions of a run's step, by default the latest or the latest that has the prompt, or of an evaluation.

    Raises:
        UsageError: the folder belongs to neither, nothing is recorded in it, or it has no such step or prompt.
    """
    files = _files(folder, step)
    for path in files if prompt is not None else files[:1]:
        completions, matched = read_completions(path, prompt=prompt, wrong=wrong, limit=limit)
        if completions:
            break
    if prompt is not None and not completions:
        where = folder if step is None else f"step {step} of {folder}"
        kind = "wrong completion" if wrong else "completion"
        raise UsageError(f"{where} has no {kind} of prompt '{plain(prompt)}'; for prompt ids run: prepo show {folder}")
    return Found(str(folder), None if path.parent == folder else step_of(path), matched, completions)


def print_completions(found: Found) -> None:
    """Print them by prompt, wrapped to the terminal's width; elsewhere lines are as long as they are."""
    from rich.console import Console
    from rich.text import Text

    console = Console(file=sys.stdout, soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False, emoji=False)
    where = found.folder if found.step is None else f"step {found.step} of {found.folder}"
    shown = len(found.completions)
    count = f"{shown:,} of {found.matched:,} completions" if shown < found.matched else f"{shown:,} completions"
    console.print(Text(plain(f"{where}: {count if shown else 'no matching completions'}"), style="bold"))
    for (prompt_id, _), group in groupby(found.completions, key=lambda row: (row["prompt_id"], row["group"])):
        rows = list(group)
        console.print()
        console.print(Text(plain(f"prompt {prompt_id}"), style="bold cyan"))
        _indented(console, conversation(rows[0]["prompt"] or "(not recorded)"))
        console.print(Text(f"gold answer: {plain(rows[0]['gold'] or 'none')}", style="cyan"))
        for row in rows:
            console.print()
            console.print(Text(" | ".join(_facts(row)), style="green" if row["correct"] else "red"))
            _indented(console, row["text"])


def _files(folder: Path, step: int | None) -> list[Path]:
    """The files that may hold what is asked for, the newest first."""
    if not folder.exists():
        raise UsageError(f"no such folder: {folder}")
    samples, files = folder / "samples.parquet", recorded_steps(folder / "rollouts")
    if files:
        found = [path for path in reversed(files) if step in (None, step_of(path))]
        if not found:
            raise UsageError(
                f"{folder} has no step {step}; choose one from {step_of(files[0])} to {step_of(files[-1])}"
            )
        return found
    marker = read_marker(folder)
    kind = None if marker is None else marker.kind
    if kind == "run":
        raise UsageError(f"{folder} has no completions: no step has finished yet, or reporting.log_rollouts is false")
    if samples.is_file():
        if step is not None:
            raise UsageError(f"{folder} is an evaluation, which has no steps; omit --step")
        return [samples]
    if kind == "evaluation":
        raise UsageError(f"the evaluation in {folder} is unfinished; run its prepo eval command again to finish it")
    raise UsageError(f"{folder} is neither a run nor an evaluation; pass the --output-dir of prepo train or eval")


def _facts(row: Completion) -> Iterator[str]:
    """What is known of a completion besides its text."""
    by_function = ", ".join(f"{plain(name)} {_number(value)}" for name, value in row["rewards"].items())
    yield "correct" if row["correct"] else "wrong"
    yield f"reward {_number(row['reward'])}" + (f" ({by_function})" if by_function else "")
    answer = final_answer(row["text"])
    yield "no boxed answer" if answer is None else f"answer {plain(answer)}"
    for name in ("advantage", "weight", "entropy"):
        if row[name] is not None:
            yield f"{name} {_number(row[name])}"
    if row["length"] is not None:
        yield f"{row['length']:,} tokens" + (", truncated" if row["truncated"] else "")
    if row["fate"] is not None:
        yield FATES.get(row["fate"], plain(row["fate"]))


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _indented(console: Console, text: str) -> None:
    """Text with its line breaks, every line of it indented, the wrapped ones too."""
    from rich.text import Text

    for line in text.replace("\r\n", "\n").split("\n"):
        shown = Text(plain(line.expandtabs(INDENT)))
        parts = shown.wrap(console, console.width - INDENT) if console.is_terminal else [shown]
        for part in parts or [shown]:
            console.print(Text(" " * INDENT) + part, soft_wrap=True)
