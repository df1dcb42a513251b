r"""Check that the `math` reward accepts gold answers and worked solutions, and rejects other answers.

`python -m benchmarks.gold_answers FILE...` prints a table by file, then every row that fails with its completion. Three
checks per row: the completion `\boxed{gold answer}` is worth 1 (several answers are joined by commas); `\boxed{}` with
the next different gold answer of the file is worth 0; the worked solution, if the file has one, is worth 1. Two gold
answers are different if they differ as text and, where both are plain numbers, also as numbers.
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

BATCH = 512
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
FRACTION = re.compile(r"(-?)\\d?frac\{(-?\d+)\}\{(\d+)\}|(-?)(\d+)/(\d+)")


def main() -> None:
    """Check the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    with Judge(RewardConfig(functions=["math"])) as judge:
        results = {Path(name).name: check(load_prompts(name), judge) for name in arguments.files}
    if arguments.json:
        print(json.dumps(results, ensure_ascii=False))
        return
    rows = [[name, f"{r['rows']:,}", *(passed(r[kind]) for kind in CHECKS)] for name, r in results.items()]
    table("gold answers under the math reward", ["file", "rows", *CHECKS], rows)
    for name, result in results.items():
        for kind in CHECKS:
            for failure in (result[kind] or {}).get("failures", []):
                print(
                    f"{name}, row {failure['row']}, {kind}: gold {failure['gold']!r}, "
                    f"completion {failure['completion']!r:.200}"
                )


CHECKS = ("gold accepted", "other rejected", "worked accepted")


def check(dataset: PromptDataset, judge: Judge) -> dict[str, Any]:
    """Counts and failures of each check; None if the file has no worked solutions."""
    golds = [dataset.answer(row) for row in range(len(dataset))]
    boxed = [f"\\boxed{{{joined(gold)}}}" for gold in golds]
    other = [boxed[different(golds, row)] for row in range(len(golds))]
    worked = [worked_solution(row) for row in dataset.part(range(len(dataset))).to_pylist()]
    has_worked = [row for row, text in enumerate(worked) if text is not None]

    def run(rows: Sequence[int], completion: Callable[[int], str], accepted: bool) -> dict[str, Any]:
        failures = []
        with progress(dataset.name, len(rows), "answers") as advance:
            for start in range(0, len(rows), BATCH):
                batch = rows[start : start + BATCH]
                scores = judge(
                    ["" for _ in batch], [completion(row) for row in batch], {"answer": [golds[row] for row in batch]}
                )
                failures += [
                    {"row": row, "gold": golds[row], "completion": completion(row)[-200:]}
                    for row, reward in zip(batch, scores.rewards_N, strict=True)
                    if (reward == 1.0) != accepted
                ]
                advance(len(batch))
        return {"checked": len(rows), "failures": failures}

    all_rows = range(len(golds))
    return {
        "rows": len(golds),
        "gold accepted": run(all_rows, boxed.__getitem__, True),
        "other rejected": run(all_rows, other.__getitem__, False),
        "worked accepted": run(has_worked, lambda row: str(worked[row]), True) if has_worked else None,
    }


def joined(gold: Any) -> str:
    """The gold answer as text for one box."""
    return ", ".join(gold) if isinstance(gold, list) else str(gold)


def different(golds: Sequence[Any], row: int) -> int:
    """The next row, wrapping around at the end, with a different gold answer."""
    gold = joined(golds[row])
    return next(
        other
        for other in (*range(row + 1, len(golds)), *range(row))
        if normalized(joined(golds[other])) != normalized(gold) and value(joined(golds[other])) != (value(gold) or gold)
    )


def normalized(text: str) -> str:
    r"""Lower-case text without white space, dollar signs and LaTeX spacing.

    >>> normalized(r"$\left( 1,\, X \right)$")
    '(1,x)'
    """
    return re.sub(r"[\s$]|\\left|\\right|\\,|\\;", "", text).lower()


def value(text: str) -> float | None:
    r"""The value of a plain number or fraction, else None.

    >>> value("1,234"), value(r"-\frac{1}{2}"), value("x + 1")
    (1234.0, -0.5, None)
    """
    compact = normalized(text).replace(",", "")
    if NUMBER.fullmatch(compact):
        return float(compact)
    found = FRACTION.fullmatch(compact)
    if found is None:
        return None
    latex_sign, latex_top, latex_bottom, sign, top, bottom = found.groups()
    size = int(latex_top) / int(latex_bottom) if latex_bottom else int(top) / int(bottom)
    return -size if latex_sign or sign else size


def worked_solution(row: dict[str, Any]) -> str | None:
    """The row's worked solution, if any: GSM8K's `answer`, else `solution` if it is text."""
    answer, solution = row.get("answer"), row.get("solution")
    if isinstance(answer, str) and "####" in answer:
        return answer
    return solution if isinstance(solution, str) else None


def passed(result: dict[str, Any] | None) -> str:
    """How many rows passed a check."""
    if result is None:
        return "-"
    count = result["checked"] - len(result["failures"])
    return f"{count:,} of {result['checked']:,} ({count / result['checked']:.2%})"


if __name__ == "__main__":
    main()
