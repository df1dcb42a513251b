"""Where a run's numbers go: a tracker gets every step, some completions, and in the end the learning curve."""

from __future__ import annotations

from pathlib import Path

import pytest

from prepo_cli.config import resolve
from prepo_cli.reporting.run_folder import RunFolder
from prepo_cli.training.limits import Limits
from prepo_cli.training.log import RunLog
from prepo_cli.training.progress import Progress

METRICS = {"reward": 0.5, "frac_reward_zero_std": 0.25, "entropy": 0.1, "cost/rollouts_total": 8}
ROLLOUTS = {"prompt": ["1 + 1"] * 3, "text": ["2", "3", "4"], "reward": [1.0, 0.0, 0.0]}


@pytest.mark.parametrize("figures", [True, False])
def test_a_tracker_gets_completions_and_the_learning_curve(tmp_path: Path, figures: bool) -> None:
    pytest.importorskip("tensorboard", reason="not run: tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = resolve(flags={"reporting.report_to": ["tensorboard"], "reporting.figures": figures})
    folder, progress = RunFolder(tmp_path), Progress()
    folder.begin(config, resume=False)
    with RunLog(config, folder, Limits(config.training), progress) as log:
        for progress.step in range(1, 12):
            log.step(METRICS | {"step": progress.step - 1}, ROLLOUTS if progress.step > 5 else None)
        log.figure()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("reward")] == list(range(11))
    assert [event.step for event in events.Tensors("completions/text_summary")] == [10]
    assert events.Tags()["images"] == ["learning_curve"] * figures
    assert (tmp_path / "learning_curve.png").is_file() == figures
