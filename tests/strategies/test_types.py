"""The records: progress, derived seeds, batch statistics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strategies.errors import StrategyError
from strategies.types import NoProbe, StepContext, derive_seed
from tests.fakes import FakeSource, make_batch, make_prompts


@given(st.integers(1, 10**6), st.integers(0, 2 * 10**6))
def test_progress_is_the_completed_fraction_below_1(total: int, step: int) -> None:
    progress = StepContext(step, total, 0, 0, 0).progress
    assert 0 <= progress < 1
    assert progress == pytest.approx(min(step / total, 1), abs=1e-11)


def test_a_run_of_no_steps_has_no_progress() -> None:
    assert StepContext(0, 0, 0, 0, 0).progress == 0


def test_seeds_are_the_same_everywhere_and_differ_by_every_part() -> None:
    # fixed numbers: another machine or Python must derive the same
    assert derive_seed(7, "rollout", 3, "p0001", 2) == 6733963496582523418
    assert len({derive_seed(*parts) for parts in [(1, 23), (12, 3), (123,), ("1", "2", "3"), (1, 2, 3, "")]}) == 5
    assert all(0 <= derive_seed(i) < 2**63 for i in range(100))


def test_streams_differ_by_seed_step_round_and_salt() -> None:
    def draw(step: int = 0, round_: int = 0, seed: int = 0, salt: str = "a") -> float:
        return float(StepContext(step, 9, 0, round_, seed).rng(salt).random())

    assert draw() == draw()
    assert len({draw(), draw(step=1), draw(round_=1), draw(seed=1), draw(salt="b")}) == 5


def test_a_place_without_a_model_answers_no_probe() -> None:
    with pytest.raises(RuntimeError, match="no policy"):
        NoProbe().perplexity([])


def test_batch_means_ignore_padding() -> None:
    batch = make_batch(make_prompts(3))
    lengths = batch.mask_NT.sum(axis=1).tolist()
    assert len(lengths) == 12 and len(set(lengths)) > 1
    assert batch.lengths_N.tolist() == lengths
    for row, length in enumerate(lengths):
        assert batch.mean_entropy_N[row] == pytest.approx(np.mean(batch.entropy_NT[row, :length]))
    flat = [h for row, length in enumerate(lengths) for h in batch.entropy_NT[row, :length]]
    assert batch.entropy_M.tolist() == flat
    assert batch.token_mean_entropy == pytest.approx(np.mean(flat))


def test_entropies_that_were_not_computed_are_never_taken_for_zeros() -> None:
    batch = replace(make_batch(make_prompts(2)), entropy_NT=None)
    for read in ("entropy_M", "mean_entropy_N"):
        with pytest.raises(StrategyError, match="set needs_entropy = True"):
            getattr(batch, read)
    assert batch.token_mean_entropy is None


def test_the_fake_stream_is_a_shuffle_of_each_epoch() -> None:
    source = FakeSource(make_prompts(10))
    first, second = source.take(10), source.take(10)
    assert sorted(p.index for p in first) == sorted(p.index for p in second) == list(range(10))
    assert first != second
    assert source.epoch == 2
    assert FakeSource(make_prompts(10), position=5).take(5) == first[5:]
