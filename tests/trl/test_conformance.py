"""The adapter does what every adapter must: see tests/integrations/conformance.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integrations.conformance import (
    MIXES,
    NEUTRAL,
    check_charges_everything,
    check_like_prepos_own_loop,
    check_neutral_strategies_do_nothing,
    check_saves_and_restores,
    check_shows_what_was_rolled,
)
from tests.trl.fake_trl import TrlWorld


@pytest.mark.parametrize("mix", MIXES)
def test_strategies_see_and_do_what_they_do_in_prepos_own_loop(mix: str, tmp_path: Path) -> None:
    check_like_prepos_own_loop(TrlWorld(MIXES[mix], tmp_path), MIXES[mix], 9)


@pytest.mark.parametrize("mix", ["dapo", "top-ups", "everything"])
def test_strategies_see_what_was_rolled_out(mix: str, tmp_path: Path) -> None:
    check_shows_what_was_rolled(TrlWorld(MIXES[mix], tmp_path), 4)


@pytest.mark.parametrize("mix", ["neutral", "dapo", "top-ups"])
def test_everything_is_charged(mix: str, tmp_path: Path) -> None:
    check_charges_everything(TrlWorld(MIXES[mix], tmp_path), 4)


@pytest.mark.parametrize("mix", ["greso", "everything", "calibrated"])
def test_state_survives_a_stop(mix: str, tmp_path: Path) -> None:
    check_saves_and_restores(TrlWorld(MIXES[mix], tmp_path / "a"), TrlWorld(MIXES[mix], tmp_path / "b"))


def test_neutral_strategies_do_nothing(tmp_path: Path) -> None:
    check_neutral_strategies_do_nothing(TrlWorld(NEUTRAL, tmp_path), 10)
