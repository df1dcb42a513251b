"""What a run's metrics.jsonl holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

TIMES = ("timing_s/", "cost/seconds")


def metrics(folder: Path) -> list[dict[str, Any]]:
    """A line for each step."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict[str, Any]]:
    """The lines without what differs between equal runs: times."""
    return [{key: value for key, value in line.items() if not key.startswith(TIMES)} for line in metrics(folder)]
