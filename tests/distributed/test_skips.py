"""An update that must be skipped is skipped by all processes, whatever holds their weights."""

from __future__ import annotations

from importlib.util import find_spec

from tests.training.launching import launch

LAYOUTS = ["replicated", "sharded", *(["zero2-bf16", "zero3"] if find_spec("deepspeed") else [])]


def test_a_loss_that_is_bad_in_one_process_is_skipped_by_both() -> None:
    """And leaves no trace in either: the script compares weights and moments, bit for bit."""
    done = launch(["-m", "tests.training.skipping", *LAYOUTS], 2, DS_ACCELERATOR="cpu")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split("\n")[:-1] == [f"{layout} ok" for layout in LAYOUTS]
