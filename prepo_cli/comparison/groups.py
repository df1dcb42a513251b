"""Groups of rollouts by prompt, sampled from the rollouts that runs recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from prepo_cli.comparison.result import Run
from prepo_cli.errors import UsageError
from prepo_cli.reporting.recorded import recorded_steps
from prepo_cli.statistics import FloatArray
from strategies.types import IntArray

if TYPE_CHECKING:
    import pyarrow as pa

MOST_FILES = 400
"""Files that are read for a whole comparison, spread evenly over runs and steps."""
FEWEST_STEPS = 4


@dataclass(frozen=True)
class Groups:
    """A run's groups [G]: number of rollouts, share of correct ones, perplexity of the prompt (NaN: unknown)."""

    size_G: FloatArray
    pass_rate_G: FloatArray
    ppl_G: FloatArray


def sample_groups(runs: Sequence[Run]) -> dict[str, Groups]:
    """Groups of evenly spaced steps by run name, for the runs that recorded rollouts.

    Raises:
        UsageError: a file of rollouts is damaged.
    """
    steps = max(FEWEST_STEPS, MOST_FILES // max(1, len(runs)))
    found = {}
    for run in runs:
        files = evenly(recorded_steps(run.folder / "rollouts"), steps)
        if files:
            columns = [_read(file) for file in files]
            found[run.name] = Groups(*(np.concatenate(column) for column in zip(*columns, strict=True)))
    return found


def by_bin(bin_G: IntArray, values_G: FloatArray, bins: int) -> FloatArray:
    """Mean of the values in each of the bins 0 .. bins - 1, NaN where there is none.

    >>> by_bin(np.array([0, 0, 2]), np.array([1.0, 3.0, 5.0]), 3).tolist()
    [2.0, nan, 5.0]
    """
    counts_B = np.bincount(bin_G, minlength=bins).astype(np.float64)
    sums_B = np.bincount(bin_G, weights=values_G, minlength=bins)
    means_B = np.full(bins, np.nan)
    np.divide(sums_B, counts_B, out=means_B, where=counts_B > 0)
    return means_B


def evenly(files: Sequence[Path], count: int) -> list[Path]:
    """The first, the last, and evenly spaced files between them; all if there are no more than `count`.

    >>> [path.name for path in evenly([Path(str(i)) for i in range(101)], 5)]
    ['0', '25', '50', '75', '100']
    """
    if len(files) <= count:
        return list(files)
    return [files[round(i)] for i in np.linspace(0, len(files) - 1, count)]


def _read(path: Path) -> tuple[FloatArray, FloatArray, FloatArray]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            known = file.schema_arrow.names
            table = file.read(columns=[name for name in ("group", "correct", "ppl") if name in known])
        return _columns(path, table)
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise UsageError(f"{path} is damaged; delete it to compare without it") from error


def _columns(path: Path, table: pa.Table) -> tuple[FloatArray, FloatArray, FloatArray]:
    if not {"group", "correct"} <= set(table.column_names):
        raise UsageError(f"{path} has no columns 'group' and 'correct'; delete it to compare without it")
    _, first_G, group_N, size_G = np.unique(
        table["group"].to_numpy(), return_index=True, return_inverse=True, return_counts=True
    )
    correct_N = table["correct"].to_numpy().astype(np.float64)
    ppl_N = np.full(len(group_N), np.nan)
    if "ppl" in table.column_names:
        ppl_N = table["ppl"].cast("float64").to_numpy()
    return size_G.astype(np.float64), np.bincount(group_N, weights=correct_N) / size_G, ppl_N[first_G]
