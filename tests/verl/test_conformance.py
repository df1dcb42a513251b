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
from tests.verl.conforming import VerlWorld


@pytest.mark.parametrize("mix", MIXES)
def test_strategies_see_and_do_what_they_do_in_prepos_own_loop(
    mix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_like_prepos_own_loop(VerlWorld(MIXES[mix], tmp_path, monkeypatch), MIXES[mix], 6)


@pytest.mark.parametrize("mix", ["dapo", "top-ups", "everything"])
def test_strategies_see_what_was_rolled_out(mix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_shows_what_was_rolled(VerlWorld(MIXES[mix], tmp_path, monkeypatch), 4)


@pytest.mark.parametrize("mix", ["neutral", "dapo", "top-ups"])
def test_everything_is_charged(mix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_charges_everything(VerlWorld(MIXES[mix], tmp_path, monkeypatch), 4)


@pytest.mark.parametrize("mix", ["greso", "everything", "calibrated"])
def test_state_survives_a_stop(mix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped, uninterrupted = (VerlWorld(MIXES[mix], tmp_path / name, monkeypatch) for name in "ab")
    check_saves_and_restores(stopped, uninterrupted)


def test_neutral_strategies_do_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_neutral_strategies_do_nothing(VerlWorld(NEUTRAL, tmp_path, monkeypatch), 10)
