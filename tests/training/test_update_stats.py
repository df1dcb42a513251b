"""Sums add up to the sums of all, however they are grouped, and their means are over tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.training.update_stats import UpdateStats

NUMBER = st.floats(-100, 100)
STATS = st.builds(
    UpdateStats,
    tokens=st.integers(1, 50),
    optimizer_steps=st.integers(0, 2),
    loss=NUMBER,
    divisor=st.floats(1, 60),
    kl=st.none() | NUMBER,
    entropy=st.none() | NUMBER,
    engine_gap=NUMBER,
    engine_gap_max=st.floats(0, 100),
    ratio=st.none() | NUMBER,
    ratio_max=NUMBER,
    ratio_min=NUMBER,
)


@given(st.lists(STATS, min_size=1, max_size=8), st.integers(0, 8))
def test_grouping_changes_nothing(parts: list[UpdateStats], cut: int) -> None:
    total = sum(parts, start=UpdateStats())
    halves = sum(parts[:cut], start=UpdateStats()) + sum(parts[cut:], start=UpdateStats())
    assert total.metrics() == pytest.approx(halves.metrics())
    tokens = sum(part.tokens for part in parts)
    assert total.metrics()["sampling/logp_difference"] == pytest.approx(sum(p.engine_gap for p in parts) / tokens)
    assert total.metrics()["sampling/logp_difference_max"] == max(part.engine_gap_max for part in parts)
    assert total.metrics()["loss"] == pytest.approx(sum(p.loss for p in parts) / sum(p.divisor for p in parts))
    known = [part.ratio for part in parts if part.ratio is not None]
    if known:
        assert total.metrics()["sampling/importance_ratio"] == pytest.approx(sum(known) / tokens)
        assert total.ratio_min == min(part.ratio_min for part in parts)
    else:
        assert "sampling/importance_ratio" not in total.metrics()


def test_nothing_done_is_logged_as_nothing() -> None:
    assert UpdateStats().metrics() == {"loss": 0.0, "grad_norm": 0.0, "skipped_steps": 0}
    assert UpdateStats().mean_entropy is None
