"""The rollouts that the page shows: a sample of bounded size, spread evenly over recipes, runs and steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prepo_cli.comparison.groups import evenly
from prepo_cli.comparison.page_data import embedded
from prepo_cli.comparison.result import Recipe, Run
from prepo_cli.errors import UsageError
from prepo_cli.files import finite
from prepo_cli.reporting.recorded import FATES, conversation, recorded_steps, step_of

RUNS, STEPS, ROLLOUTS = 2, 5, 8
"""Runs of a recipe, steps of a run and rollouts of a step that are read."""
LONGEST_TEXT = 4000
SHOWN = ("prompt_id", "prompt", "text", "reward", "advantage", "weight", "length", "fate")
Row = dict[str, Any]
T = TypeVar("T")


def sample_rollouts(recipes: Sequence[Recipe], runs: Sequence[Run], max_bytes: int = 1_000_000) -> list[Row]:
    """Rollouts of two runs of each recipe at their first, quartile and last steps, kept and dropped ones mixed.

    Recipes take turns, within a recipe its runs and steps, until `max_bytes` of JSON are filled. Rows come back in the
    order of recipes, runs and steps; `recipe` is the recipe's position.

    Raises:
        UsageError: a rollout file can't be read.
    """
    files = {run.name: evenly(recorded_steps(run.folder / "rollouts"), STEPS) for run in runs}
    chosen: list[Row] = []
    for row in in_turn([_of_recipe(i, r, files) for i, r in enumerate(recipes)]):
        max_bytes -= len(embedded(row))
        if max_bytes < 0:
            break
        chosen.append(row)
    return sorted(chosen, key=lambda row: (row["recipe"], recipes[row["recipe"]].runs.index(row["run"]), row["step"]))


def in_turn(sources: Iterable[Iterable[T]]) -> Iterator[T]:
    """The first item of each source, then the second of each, until all are used up.

    >>> list(in_turn([[1, 2, 3], [], [10]]))
    [1, 10, 2, 3]
    """
    waiting = [iter(source) for source in sources]
    while waiting:
        for source in list(waiting):
            try:
                yield next(source)
            except StopIteration:
                waiting.remove(source)


def mixed(fates: Sequence[str], correct: Sequence[bool]) -> list[int]:
    """Rows in an order that alternates between fates, and between right and wrong answers.

    >>> mixed(["trained", "trained", "trained", "filtered"], [True, True, False, False])
    [0, 2, 3, 1]
    """
    kinds: dict[tuple[str, bool], list[int]] = {}
    for i, kind in enumerate(zip(fates, correct, strict=True)):
        kinds.setdefault(kind, []).append(i)
    return list(in_turn(kinds.values()))


def _of_recipe(number: int, recipe: Recipe, files: Mapping[str, Sequence[Path]]) -> Iterator[Row]:
    recorded = [run for run in recipe.runs if files[run]][:RUNS]
    return in_turn(_read(path, number, run) for run in recorded for path in files[run])


def _read(path: Path, recipe: int, run: str) -> Iterator[Row]:
    """The rollouts of a step that may be shown; texts are read one file at a time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        kinds = pq.read_table(path, columns=["fate", "correct"]).to_pydict()
        rows = mixed(kinds["fate"], kinds["correct"])[:ROLLOUTS]
        columns = [column for column in SHOWN if column in pq.read_schema(path).names]
        table = pq.read_table(path, columns=columns).take(rows)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"can't read the rollouts in {path}; delete the file to compare without it") from error
    try:
        shown = [_shown(row) for row in table.to_pylist()]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UsageError(f"can't read the rollouts in {path}; delete the file to compare without it") from error
    for row in shown:
        yield {"recipe": recipe, "run": run, "step": step_of(path), **row}


def _shown(row: Mapping[str, Any]) -> Row:
    numbers = {key: finite(row[key]) for key in ("reward", "advantage", "weight", "length")}
    shown = {key: None if value is None else float(f"{value:.4g}") for key, value in numbers.items()}
    prompt, text = conversation(row.get("prompt") or ""), row["text"]
    return {
        "prompt_id": row["prompt_id"],
        "prompt": prompt[:LONGEST_TEXT],
        "prompt_cut": max(0, len(prompt) - LONGEST_TEXT),
        "text": text[:LONGEST_TEXT],
        "text_cut": max(0, len(text) - LONGEST_TEXT),
        **shown,
        "length": row["length"],
        "kept": row["fate"] in ("trained", "masked"),
        "fate": FATES[row["fate"]],
    }
