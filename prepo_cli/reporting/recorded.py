"""The completions that runs and evaluations recorded: rollouts/step_*.parquet and samples.parquet.

A completion is a dictionary with all of `COLUMNS` (None if its file lacks the column) and `rewards`: each reward
function's own value by name, None where it does not apply.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prepo_cli.errors import UsageError, one_line
from prepo_cli.evaluation.folder import REWARD_PREFIX
from prepo_cli.files import finite
from prepo_cli.reporting.run_folder import STEP_TABLE

if TYPE_CHECKING:
    import pyarrow as pa

REQUIRED = ("prompt_id", "text", "reward", "correct")
COLUMNS = (
    *REQUIRED,
    "prompt",
    "gold",
    "source",
    "group",
    "sample",
    "ppl",
    "advantage",
    "weight",
    "entropy",
    "length",
    "truncated",
    "temperature",
    "fate",
)
FATES = {
    "trained": "kept",
    "masked": "kept, but masked: it reached the length limit",
    "filtered": "dropped by the filter",
    "surplus": "dropped: the batch was already full",
}
"""What became of a rollout, in words."""
Completion = dict[str, Any]


def recorded_steps(folder: Path) -> list[Path]:
    """The files of a folder of rollouts in the order of their steps; none without such a folder."""
    found = [path for path in folder.iterdir() if STEP_TABLE.fullmatch(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of)


def step_of(path: Path) -> int:
    """The step of a file of rollouts.

    >>> step_of(Path("rollouts/step_000120.parquet"))
    120
    """
    found = STEP_TABLE.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def read_completions(
    path: Path, *, prompt: str | None = None, wrong: bool = False, limit: int | None = None
) -> tuple[list[Completion], int]:
    """A file's completions in order, at most `limit` of them, and how many there would be without it.

    Args:
        path: a file of rollouts or samples.
        prompt: only those of the prompt with this id.
        wrong: only those that are not correct.
        limit: texts of a large file are read only as far as this needs.

    Raises:
        UsageError: the file can't be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            wanted = np.flatnonzero(_wanted(file.read(columns=["prompt_id", "correct"]), prompt, wrong))
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            group_of_row = np.repeat(np.arange(len(sizes)), sizes)
            groups, rows = np.unique(group_of_row[wanted[:limit]]), wanted[:limit]
            first_row = np.flatnonzero(np.isin(group_of_row, groups))
            table = file.read_row_groups(groups.tolist()).take(np.searchsorted(first_row, rows))
            return [_completion(row, table.column_names) for row in table.to_pylist()], len(wanted)
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"can't read {path} ({one_line(error)}); delete it, or copy it again") from error


def conversation(prompt: str) -> str:
    """A recorded prompt in readable form: messages stored as JSON on lines of their own, each after its role.

    >>> print(conversation('[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 1?"}]'))
    system: Be brief.
    user: 1 + 1?
    >>> conversation("[1, 2] + [3]?")
    '[1, 2] + [3]?'
    """
    try:
        messages = json.loads(prompt) if prompt.startswith("[{") else None
    except (ValueError, RecursionError):  # a text that only begins like messages
        messages = None
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        return prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _wanted(table: pa.Table, prompt: str | None, wrong: bool) -> Sequence[bool]:
    rows = zip(table["prompt_id"].to_pylist(), table["correct"].to_pylist(), strict=True)
    return [(prompt is None or name == prompt) and not (wrong and correct) for name, correct in rows]


def _completion(row: Mapping[str, Any], columns: Sequence[str]) -> Completion:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        raise KeyError(f"no column {missing[0]}")
    rewards = {name.removeprefix(REWARD_PREFIX): row[name] for name in columns if name.startswith(REWARD_PREFIX)}
    found: Completion = finite({name: row.get(name) for name in COLUMNS} | {"rewards": rewards})
    return found


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and isinstance(value.get("content"), str)
