"""examples/trl/train.py runs, and differs from plain TRL by what docs/trl.md shows."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from prepo_cli.models import EMBEDDED_MODEL

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "trl" / "train.py"
DIFF = re.search(
    r"^```diff\n(.*?)^```", (ROOT / "docs" / "trl.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)
OPTIONS = (
    "--dataset_config default --max_steps 2 --per_device_train_batch_size 8 --gradient_accumulation_steps 2 "
    "--num_generations 4 --max_completion_length 8 --use_cpu true --bf16 false --report_to none --save_steps 1"
)


def train(script: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, float]]:
    data = folder / "data"
    data.mkdir()
    rows = [{"question": f"What is {i} + 4?", "answer": f"{i} + 4 = {i + 4}\n#### {i + 4}"} for i in range(24)]
    (data / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    paths = [
        "--dataset_name",
        str(data),
        "--output_dir",
        str(folder / "out"),
        "--model_name_or_path",
        str(EMBEDDED_MODEL),
    ]
    monkeypatch.setattr(sys, "argv", [str(script), *paths, *OPTIONS.split()])
    runpy.run_path(str(script), run_name="__main__")
    state = json.loads((folder / "out" / "checkpoint-2" / "trainer_state.json").read_text())
    history: list[dict[str, float]] = state["log_history"]
    return history


def test_it_trains_and_keeps_the_strategies_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = train(SCRIPT, tmp_path, monkeypatch)[-1]
    assert line["cost/rollouts_total"] == 2 * 16
    assert line["cost/tokens_scored"] > 0 and "selector/window_start" in line
    assert (tmp_path / "out" / "checkpoint-2" / "prepo" / "state.json").exists()


def test_the_diff_in_the_docs_leads_back_to_plain_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert DIFF is not None
    text = SCRIPT.read_text(encoding="utf-8")
    for hunk in DIFF[1].split("\n\n"):
        lines = hunk.splitlines()
        ours, theirs = ([line[1:] for line in lines if line[0] not in sign] for sign in ("-", "+"))
        at = [_bare(line) for line in text.splitlines()]
        wanted = [_bare(line) for line in ours]
        found = [i for i, line in enumerate(at) if line in wanted]
        assert [at[i] for i in found] == wanted
        kept = [line for i, line in enumerate(text.splitlines()) if i not in found]
        kept[found[0] : found[0]] = theirs
        text = "\n".join(kept) + "\n"
    assert "prepo_cli" not in text and "strategies" not in text.split("def main")[1]
    plain = tmp_path / "plain.py"
    plain.write_text(text)
    assert "cost/rollouts_total" not in train(plain, tmp_path, monkeypatch)[-1]


def _bare(line: str) -> str:
    """Without a comment."""
    return line.split("  # ")[0].rstrip()
