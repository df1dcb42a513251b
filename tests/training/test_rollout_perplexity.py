"""The perplexities that rollouts are recorded with: those of the step that selected the prompts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from prepo_cli.config import resolve
from prepo_cli.training.train import train

SMALL = ["training.total_steps=2", "training.prompts_per_step=4", "training.num_generations=2",
         "training.max_completion_length=16", "evaluation.dataset_name=null", "reporting.figures=false"]  # fmt: skip


def recorded(folder: Path, *sets: str) -> list[tuple[dict[str, Any], dict[str, float]]]:
    """Each step's metrics, and the perplexity of its prompts by id."""
    train(resolve(sets=[*SMALL, f"output_dir={folder}", *sets]))
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    tables = [pq.read_table(path).to_pydict() for path in sorted((folder / "rollouts").iterdir())]
    return [(line, dict(zip(t["prompt_id"], t["ppl"], strict=True))) for line, t in zip(lines, tables, strict=True)]


def test_rollouts_hold_the_perplexities_their_prompts_were_selected_by(tmp_path: Path) -> None:
    for metrics, ppl in recorded(tmp_path, "strategies.selector=ppl-schedule"):
        values = list(ppl.values())
        assert np.mean(values) == pytest.approx(metrics["selector/ppl_kept_mean"])
        assert min(values) == metrics["selector/ppl_kept_min"]
        assert max(values) == metrics["selector/ppl_kept_max"]


def test_stored_perplexities_stand_in_for_those_that_nobody_computed(tmp_path: Path) -> None:
    rows = [{"id": f"p{i}", "prompt": f"Compute {i} + {i}.", "answer": str(2 * i)} for i in range(8)]
    for name, stored in (("bare", {}), ("scored", {"ppl": 3.5})):
        data = tmp_path / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row | stored) + "\n" for row in rows), encoding="utf-8")
        sets = ["recipe=random", f"data.dataset_name={data}"]
        (_, first), _ = recorded(tmp_path / name, *sets)
        expected = stored.get("ppl", np.nan)
        np.testing.assert_array_equal(list(first.values()), [expected] * 4)
