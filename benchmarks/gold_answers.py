r"""Whether the `math` reward takes gold answers and worked solutions for right, and other answers for wrong.

Run as `python -m benchmarks.gold_answers FILE...`: a table by file, then every row that fails, with what it was given.
Three questions to each row: is the completion `\boxed{its gold answer}` worth 1 (several answers are joined by commas);
is `\boxed{}` with the next different gold answer of the file worth 0; is the worked solution, where the file has one,
worth 1. Two gold answers count as different if they differ as text and as numbers where both are plain numbers.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.rewards.judge import Judge
from prepo_cli.sections import RewardConfig
from prepo_cli.terminal import progress, table

AT_ONCE = 512
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
FRACTION = re.compile(r"(-?)\\d?frac\{(-?\d+)\}\{(\d+)\}|(-?)(\d+)/(\d+)")


def main() -> None:
    """Examine the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with Judge(RewardConfig(functions=["math"])) as judge:
        results = {Path(name).name: examine(load_prompts(name), judge) for name in arguments.files}
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
        return
    rows = [[name, f"{r['rows']:,}", *(share(r[kind]) for kind in QUESTIONS)] for name, r in results.items()]
    table("gold answers under the math reward", ["file", "rows", *QUESTIONS], rows)
    for name, result in results.items():
        for kind in QUESTIONS:
            for failure in (result[kind] or {}).get("failures", []):
                print(
                    f"{name}, row {failure['row']}, {kind}: gold {failure['gold']!r}, given {failure['given']!r:.200}"
                )


QUESTIONS = ("gold accepted", "other rejected", "worked accepted")


def examine(dataset: PromptDataset, judge: Judge) -> dict[str, Any]:
    """Counts and failures for each question; None where the file has no worked solutions."""
    golds = [dataset.answer(row) for row in range(len(dataset))]
    boxed = [f"\\boxed{{{joined(gold)}}}" for gold in golds]
    other = [boxed[different(golds, row)] for row in range(len(golds))]
    worked = [worked_solution(row) for row in dataset.usable()]
    has_worked = [row for row, text in enumerate(worked) if text is not None]

    def ask(rows: Sequence[int], given: Callable[[int], str], right: bool) -> dict[str, Any]:
        failures = []
        with progress(dataset.name, len(rows), "answers") as advance:
            for start in range(0, len(rows), AT_ONCE):
                some = rows[start : start + AT_ONCE]
                scores = judge(
                    ["" for _ in some], [given(row) for row in some], {"answer": [golds[row] for row in some]}
                )
                failures += [
                    {"row": row, "gold": golds[row], "given": given(row)[-200:]}
                    for row, reward in zip(some, scores.rewards_N, strict=True)
                    if (reward == 1.0) != right
                ]
                advance(len(some))
        return {"asked": len(rows), "failures": failures}

    everything = range(len(golds))
    return {
        "rows": len(golds),
        "gold accepted": ask(everything, boxed.__getitem__, True),
        "other rejected": ask(everything, other.__getitem__, False),
        "worked accepted": ask(has_worked, lambda row: str(worked[row]), True) if has_worked else None,
    }


def joined(gold: Any) -> str:
    """The gold answer as one would box it."""
    return ", ".join(gold) if isinstance(gold, list) else str(gold)


def different(golds: Sequence[Any], row: int) -> int:
    """The next row, around the end, whose gold answer is another."""
    mine = joined(golds[row])
    return next(
        other
        for other in (*range(row + 1, len(golds)), *range(row))
        if plain(joined(golds[other])) != plain(mine) and value(joined(golds[other])) != (value(mine) or mine)
    )


def plain(text: str) -> str:
    """Without what is only layout."""
    return re.sub(r"[\s$]|\\left|\\right|\\,|\\;", "", text).lower()


def value(text: str) -> float | None:
    """Of a plain number or fraction."""
    compact = plain(text).replace(",", "")
    if NUMBER.fullmatch(compact):
        return float(compact)
    found = FRACTION.fullmatch(compact)
    if found is None:
        return None
    sign, above, below, other_sign, upper, lower = found.groups()
    size = int(above) / int(below) if below else int(upper) / int(lower)
    return -size if sign or other_sign else size


def worked_solution(row: dict[str, Any]) -> str | None:
    """The text that works a row out: GSM8K's `answer`, others' `solution` where it is one text."""
    answer, solution = row.get("answer"), row.get("solution")
    if isinstance(answer, str) and "####" in answer:
        return answer
    return solution if isinstance(solution, str) else None


def share(result: dict[str, Any] | None) -> str:
    """How many of those asked came out right."""
    if result is None:
        return "-"
    right = result["asked"] - len(result["failures"])
    return f"{right:,} of {result['asked']:,} ({right / result['asked']:.2%})"


if __name__ == "__main__":
    main()
