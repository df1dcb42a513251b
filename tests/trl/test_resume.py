"""kill -9 in the middle, and TRL's own resume: the strategies go on as if nothing had happened."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.trl.launching import alone, found, rows, same_state, same_weights

SAVED: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}


@pytest.mark.parametrize("recipe", ["everything", "calibrated"])
def test_resumed_after_a_kill_is_as_if_uninterrupted(recipe: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert alone(whole, recipe, steps=6, settings=SAVED) == 0
    assert alone(killed, recipe, steps=6, settings=SAVED, die_after=3) == -signal.SIGKILL
    before = rows(killed)
    (killed / "rows-0.jsonl").unlink()
    assert alone(killed, recipe, steps=6, settings=SAVED, resume=True) == 0
    expected = rows(whole)
    assert before == [call for call in expected if call[0] < 3]
    assert rows(killed) == [call for call in expected if call[0] >= 2]  # from the checkpoint of step 2
    one, other = found(killed), found(whole)
    assert same_state(one["state"], other["state"])
    assert same_weights(one, other)
    assert one["figures"][-1] == other["figures"][-1]


def test_a_checkpoint_between_two_updates_on_one_batch(tmp_path: Path) -> None:
    """TRL forgets the rest of the batch; to the strategies its step has ended."""
    settings = SAVED | {"save_steps": 1, "steps_per_generation": 4}
    assert alone(tmp_path, "greso", steps=4, settings=settings, die_after=3) == -signal.SIGKILL
    before = rows(tmp_path)
    (tmp_path / "rows-0.jsonl").unlink()
    assert alone(tmp_path, "greso", steps=4, settings=settings, resume=True) == 0
    steps = [call[0] for call in before]
    assert max(steps) == 1  # two updates on the first batch, one on the second, of which the last was not saved
    assert {call[0] for call in rows(tmp_path)} == {1}
    assert found(tmp_path)["state"]["step"] == 2
