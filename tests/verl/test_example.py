"""examples/verl/run.sh is a command that verl takes, and differs from plain verl by what docs/verl.md shows."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from hydra import compose, initialize_config_dir
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config

from prepo_cli.integrations.verl_settings import read_settings, refuse
from tests.verl.world import CONFIG, MODEL

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "examples" / "verl" / "run.sh"
OURS = ["trainer.v1.trainer_mode=prepo", "+prepo.recipe=prepo"]


def arguments(folder: Path, *more: str) -> list[str]:
    """What the script gives to Python."""
    stub = folder / "python"
    stub.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    stub.chmod(0o755)
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "MODEL": str(MODEL)}
    done = subprocess.run([str(SCRIPT), *more], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert lines[:2] == ["-m", "verl.trainer.main_ppo"]
    return lines[2:]


def test_verl_takes_the_command(tmp_path: Path) -> None:
    overrides = arguments(tmp_path, "prepo.recipe=greso", "+prepo.selector='ppl-schedule:ratio=0.3'")
    with initialize_config_dir(config_dir=str(CONFIG), version_base=None):
        config = compose("ppo_trainer", overrides=overrides)
    validate_config(config, need_reference_policy(config), need_critic(config))
    refuse(config)
    assert read_settings(config).given == {"recipe": "greso", "selector": "ppl-schedule:ratio=0.3"}
    assert config.trainer.v1.trainer_mode == "prepo"


def test_two_lines_differ_from_plain_verl(tmp_path: Path) -> None:
    lines = arguments(tmp_path)
    assert lines[-2:] == OURS and not any("prepo." in line or "trainer_mode" in line for line in lines[:-2])
    page = (ROOT / "docs" / "verl.md").read_text(encoding="utf-8")
    assert all(f"+    {line}" in page for line in OURS)
