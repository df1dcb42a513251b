"""Join benchmarks into one evaluation set for the papers' configurations, with each row's benchmark in `source`.

python examples/paper/benchmarks.py aime24=aime24.jsonl math500=HuggingFaceH4/MATH-500 aime25=math-ai/aime25@test

Each item is NAME=DATASET[@SPLIT]; the split defaults to `test`. Columns are chosen as in prepo train.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from prepo_cli.errors import UsageError


def rows(item: str) -> Iterator[dict[str, object]]:
    """The rows of one NAME=DATASET[@SPLIT].

    Raises:
        UsageError: the item is malformed, or its dataset can't be loaded.
    """
    from prepo_cli.data.loading import load_prompts

    name, equals, place = item.partition("=")
    if not (name and equals and place):
        raise UsageError(
            f"'{item}' is malformed; write NAME=DATASET or NAME=DATASET@SPLIT, such as aime24=aime24.jsonl"
        )
    dataset, _, split = place.partition("@")
    prompts = load_prompts(dataset, split=split or "test")
    for i in range(len(prompts)):
        yield {"id": f"{name}-{i}", "source": name, "prompt": prompts.messages(i), "answer": prompts.answer(i)}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the file and print what it contains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("items", nargs="+", metavar="NAME=DATASET[@SPLIT]")
    parser.add_argument("--output", type=Path, default=Path("benchmarks.jsonl"))
    args = parser.parse_args(argv)
    try:
        parts = {item: list(rows(item)) for item in args.items}
    except UsageError as error:
        print(f"benchmarks.py: {error}", file=sys.stderr)
        sys.exit(2)
    with args.output.open("w", encoding="utf-8") as file:
        for row in (row for part in parts.values() for row in part):
            file.write(json.dumps(row) + "\n")
    print(f"{args.output}: {', '.join(f'{len(part)} rows from {item}' for item, part in parts.items())}")


if __name__ == "__main__":
    main()
