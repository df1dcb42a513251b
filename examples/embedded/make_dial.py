"""Generate the rows that `embedded:dead=X` mixes: prompts with a given share that stays dead through training.

Four kinds, as the base model sees them: `alive`, training prompts that it solves in 1 to 15 of 16 rollouts; `beyond`,
problems far beyond it, and `wrong`, training prompts with a wrong gold answer, both in none; `solved`, new problems of
the lowest levels, in all of 64. Candidates come from the seed; the base model chooses among them.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from beyond import FAMILIES as BEYOND
from make_task import make_splits
from problems import FAMILIES, Problem

ROLLOUTS = {"alive": 16, "beyond": 16, "wrong": 16, "solved": 64}
SIZES = {"alive": 1000, "beyond": 600, "wrong": 200, "solved": 200}
ALLOWED = {"alive": range(1, 16), "beyond": range(1), "wrong": range(1), "solved": range(64, 65)}
"""How many of the rollouts may be correct."""
SPARE = {"alive": 2.5, "beyond": 1.1, "wrong": 1.1, "solved": 10.0}
"""Candidates for each row that is kept, enough for what the base model rejects."""

Row = dict[str, Any]


def candidates(seed: int) -> dict[str, list[Problem]]:
    """Problems of each kind, none of which occurs twice, in the task's test split or, unless alive, in its training."""
    rng = random.Random(f"dial:{seed}")
    splits = make_splits(0)
    training = rng.sample(splits["train"], len(splits["train"]))
    alive = training[: int(SPARE["alive"] * SIZES["alive"])]
    mislabeled = [_mislabeled(p, rng) for p in training[len(alive) :][: int(SPARE["wrong"] * SIZES["wrong"])]]
    seen = {problem.key for problems in splits.values() for problem in problems}
    beyond: list[Problem] = []
    while len(beyond) < int(SPARE["beyond"] * SIZES["beyond"]):
        _add_new(beyond, seen, BEYOND[len(beyond) % len(BEYOND)](rng))
    families, solved = tuple(FAMILIES.values()), list[Problem]()
    while len(solved) < int(SPARE["solved"] * SIZES["solved"]):
        _add_new(solved, seen, rng.choice(families)(rng, rng.choice((1, 1, 2))))
    return {"alive": alive, "beyond": beyond, "wrong": mislabeled, "solved": solved}


def rows_of(kind: str, problems: Sequence[Problem]) -> list[Row]:
    """Rows as in the task's splits."""
    return [
        {"id": f"{kind}-{i:04d}", "prompt": p.question, "answer": str(p.answer), "source": p.source,
         "difficulty": p.difficulty, "kind": kind}
        for i, p in enumerate(problems)
    ]  # fmt: skip


def correct_rollouts(rows: Sequence[Row], k: int) -> list[int]:
    """How many of k rollouts of the embedded model solve each row."""
    with TemporaryDirectory() as folder:
        data, out = Path(folder) / "rows.jsonl", Path(folder) / "evaluation"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        command = [sys.executable, "-m", "prepo_cli", "eval", "--dataset", str(data), "--k", str(k),
                   "--max-completion-length", "96", "--output-dir", str(out)]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        samples = pq.read_table(out / "samples.parquet", columns=["prompt_id", "correct"]).to_pydict()
    counts = dict.fromkeys((row["id"] for row in rows), 0)
    for name, correct in zip(samples["prompt_id"], samples["correct"], strict=True):
        counts[name] += correct
    return [counts[row["id"]] for row in rows]


def _mislabeled(problem: Problem, rng: random.Random) -> Problem:
    """The same problem with a gold answer that is too large by 200 to 900."""
    return Problem(
        problem.source, problem.difficulty, problem.key, problem.question, (), problem.answer + rng.randint(200, 900)
    )


def _add_new(problems: list[Problem], seen: set[str], problem: Problem) -> None:
    if problem.key not in seen:
        seen.add(problem.key)
        problems.append(problem)


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pools = {kind: rows_of(kind, problems) for kind, problems in candidates(args.seed).items()}
    with args.output.open("w", encoding="utf-8", newline="\n") as file:
        for kind, rows in pools.items():
            counts = correct_rollouts(rows, ROLLOUTS[kind])
            kept = [row for row, count in zip(rows, counts, strict=True) if count in ALLOWED[kind]]
            print(f"{kind}: {len(kept)} of {len(rows)} candidates qualify, {SIZES[kind]} are written")
            if len(kept) < SIZES[kind]:
                sys.exit(f"too few {kind} rows")
            file.writelines(json.dumps(row) + "\n" for row in kept[: SIZES[kind]])


if __name__ == "__main__":
    main()
