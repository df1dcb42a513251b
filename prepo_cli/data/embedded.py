"""The embedded task, and its training set with one dial: `embedded:dead=0.8`.

`dead` is the share of 1,000 training prompts that give rewards without variance from the first step to the last, as
much of a real set does for a small model. Of the dead prompts 60% are far beyond the model's reach, which text and
perplexity betray, 20% have a wrong gold answer, which only experience betrays, and 20% are always solved. The others
are prompts of the plain training set that the base model sometimes solves. A larger share keeps the first of them and
adds dead ones. The test split is the plain one. examples/embedded/make_dial.py made the rows; no strategy was tuned or
compared on them before they were fixed.
"""

from __future__ import annotations

from typing import Any

from prepo_cli.config import ASSETS
from prepo_cli.data.reading import read_file
from prepo_cli.errors import UsageError

PROMPTS = 1000
KINDS = {"beyond": 0.6, "wrong": 0.2, "solved": 0.2}
"""Shares of the dead prompts."""
EXAMPLE = "embedded:dead=0.8"


def counts(dead: float) -> dict[str, int]:
    """How many prompts of each kind make up the set.

    >>> counts(0.8)
    {'alive': 200, 'beyond': 480, 'wrong': 160, 'solved': 160}
    """
    total = round(dead * PROMPTS)
    beyond, wrong = round(KINDS["beyond"] * total), round(KINDS["wrong"] * total)
    return {"alive": PROMPTS - total, "beyond": beyond, "wrong": wrong, "solved": total - beyond - wrong}


def embedded_table(name: str, split: str) -> Any:
    """The rows of `embedded` or `embedded:dead=X`, as a `datasets.Dataset`.

    Raises:
        UsageError: no such split or option, or a share outside [0, 1).
    """
    import datasets

    options = name.partition(":")[2]
    if split not in ("train", "test"):
        raise UsageError(f"the embedded task has no split '{split}'; choose train or test")
    dead = _dead(name, options) if options else None
    file = "dial" if dead is not None and split == "train" else split
    rows = read_file(ASSETS / "task" / f"{file}.jsonl", skip_bad_rows=False, text=()).table
    table = datasets.Dataset(rows, fingerprint=f"embedded-{file}")
    if file != "dial":
        return table
    wanted, rows = counts(dead or 0.0), list[int]()
    for row, kind in enumerate(table["kind"]):
        if wanted[kind] > 0:
            wanted[kind] -= 1
            rows.append(row)
    return table.select(rows)


def _dead(name: str, options: str) -> float:
    key, _, text = options.partition("=")
    try:
        dead = float(text)
    except ValueError:
        dead = -1.0
    if key != "dead" or not 0 <= dead < 1:
        raise UsageError(f"{name}: the embedded task's only option is a share of dead prompts below 1, as in {EXAMPLE}")
    return dead
