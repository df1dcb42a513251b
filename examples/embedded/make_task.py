"""Generate the embedded task's splits, 4,000 train and 400 test prompts, from a seed."""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from problems import FAMILIES, LEVELS, Problem

PER_CELL = {"test": 10, "train": 100}


def make_splits(seed: int) -> dict[str, list[Problem]]:
    """Both splits, with equally many problems of every family and level; no key occurs twice, within or across them."""
    rng = random.Random(f"task:{seed}")
    splits: dict[str, list[Problem]] = {"test": [], "train": []}
    seen: set[str] = set()
    for split, problems in splits.items():
        for make in FAMILIES.values():
            for level in LEVELS:
                wanted = len(problems) + PER_CELL[split]
                while len(problems) < wanted:
                    problem = make(rng, level)
                    if problem.key not in seen:
                        seen.add(problem.key)
                        problems.append(problem)
        rng.shuffle(problems)
    return splits


def write(path: Path, problems: list[Problem], split: str) -> None:
    """Write one JSON object per line: id, prompt, answer, source, difficulty."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for i, p in enumerate(problems):
            row = {"id": f"{split}-{i:04d}", "prompt": p.question, "answer": str(p.answer),
                   "source": p.source, "difficulty": p.difficulty}  # fmt: skip
            file.write(json.dumps(row) + "\n")


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    for split, problems in make_splits(args.seed).items():
        write(args.output / f"{split}.jsonl", problems, split)


if __name__ == "__main__":
    main()
