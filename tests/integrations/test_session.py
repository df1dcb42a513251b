"""A session with a trainer that is only a function: the checks of every adapter, and what a step in progress keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prepo_cli.data.stream import PromptStream
from prepo_cli.integrations import saved
from prepo_cli.integrations.session import Outcome, Session
from prepo_cli.training.batch import assign_advantages, group_numbers
from prepo_cli.training.rounds import BatchShape
from strategies.types import Batch, Prompt, RunInfo, StepContext, derive_seed
from tests.fakes import MAX_ROUNDS, FakeProbe, Record, make_prompts, make_run
from tests.integrations.conformance import (
    MIXES,
    NEUTRAL,
    Generated,
    Generator,
    Watched,
    check_charges_everything,
    check_like_prepos_own_loop,
    check_neutral_strategies_do_nothing,
    check_saves_and_restores,
    check_shows_what_was_rolled,
    fake_entropies,
)


class FunctionWorld:
    """The smallest adapter: it trains nothing."""

    def __init__(self, slots: Mapping[str, str], folder: Path, run: RunInfo | None = None) -> None:
        self.run, self.slots, self.folder = run or make_run(), slots, folder
        self.prompts: list[Prompt] = make_prompts(self.run.num_prompts)
        self.order: Callable[[int], Any] | None = self._order
        self._start()

    @property
    def generated(self) -> list[Generated]:
        return self.generator.generated

    def steps(self, count: int) -> list[Record]:
        if (self.folder / saved.FOLDER).exists():
            self._start()
            self.session.load_state_dict(saved.load(self.folder))
        for _ in range(count):
            self.session.begin()
            step = self.session.collect(self._roll)
            assign_advantages(step.kept, "group")
            self.session.weigh(self._batch([list(group) for group in step.trained]))
            self.session.end(None)
        self.folder.mkdir(exist_ok=True)
        saved.save(self.folder, self.session.state_dict())
        return self.watched.records

    def costs(self) -> dict[str, float]:
        return self.session.costs.metrics()

    def _start(self) -> None:
        self.generator, self.watched = Generator(self.run, self.prompts), Watched(self.slots, self.run)
        shape = BatchShape(self.run.prompts_per_step, self.run.num_generations, MAX_ROUNDS)
        stream = PromptStream(self.run.num_prompts, self.run.seed, self.prompts.__getitem__, self.order)
        self.session = Session(self.watched, stream, shape, FakeProbe())

    def _order(self, epoch: int) -> Any:
        return np.random.default_rng(derive_seed("order", epoch)).permutation(self.run.num_prompts).astype(np.int32)

    def _roll(self, prompts: Sequence[Prompt], counts: Sequence[int], ctx: StepContext) -> list[list[Outcome]]:
        groups: list[list[Outcome]] = []
        for prompt, count in zip(prompts, counts, strict=True):
            made = [self.generator(ctx.step, prompt.index, ctx.temperature) for _ in range(count)]
            groups.append(
                [
                    Outcome(prompt, float(r.token_ids[0]), bool(r.token_ids[0]), len(r.token_ids), r.truncated,
                            ctx.temperature, 0)
                    for r in made
                ]
            )  # fmt: skip
        return groups

    def _batch(self, trained: list[list[Outcome]]) -> Batch:
        flat = [outcome for group in trained for outcome in group]
        lengths_N = np.array([outcome.num_tokens for outcome in flat], dtype=np.int64)
        mask_NT = np.arange(lengths_N.max(initial=0)) < lengths_N[:, None]
        entropy_NT = np.zeros(mask_NT.shape)
        for row, outcome in enumerate(flat):
            values = fake_entropies(outcome.num_tokens, outcome.correct, outcome.temperature)
            entropy_NT[row, : outcome.num_tokens] = values
        return Batch(
            group_numbers(trained),
            np.array([outcome.reward for outcome in flat]),
            np.array([outcome.advantage for outcome in flat]),
            entropy_NT,
            mask_NT,
        )


@pytest.mark.parametrize("mix", MIXES)
def test_like_prepos_own_loop(mix: str, tmp_path: Path) -> None:
    check_like_prepos_own_loop(FunctionWorld(MIXES[mix], tmp_path / "run"), MIXES[mix], 9)


@pytest.mark.parametrize("mix", MIXES)
def test_shows_charges_saves(mix: str, tmp_path: Path) -> None:
    check_shows_what_was_rolled(FunctionWorld(MIXES[mix], tmp_path / "a"), 4)
    check_charges_everything(FunctionWorld(MIXES[mix], tmp_path / "b"), 4)
    check_saves_and_restores(FunctionWorld(MIXES[mix], tmp_path / "c"), FunctionWorld(MIXES[mix], tmp_path / "d"))


def test_neutral_strategies_do_nothing(tmp_path: Path) -> None:
    check_neutral_strategies_do_nothing(FunctionWorld(NEUTRAL, tmp_path / "run"), 10)


def test_the_checks_see_an_adapter_that_shows_too_little(tmp_path: Path) -> None:
    world = FunctionWorld(NEUTRAL, tmp_path / "run")
    roll = world._roll
    world._roll = lambda prompts, counts, ctx: [group[:-1] for group in roll(prompts, counts, ctx)]  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        check_shows_what_was_rolled(world, 2)
    with pytest.raises(AssertionError):
        check_charges_everything(FunctionWorldThatForgets(NEUTRAL, tmp_path / "other"), 2)


class FunctionWorldThatForgets(FunctionWorld):
    """Charges nothing."""

    def costs(self) -> dict[str, float]:
        return dict.fromkeys(super().costs(), 0.0)


def test_a_step_in_progress_counts_as_ended_where_it_is_restored(tmp_path: Path) -> None:
    slots = {"selector": "greso", "temperature_schedule": "entropy-target"}
    one, other = FunctionWorld(slots, tmp_path / "one"), FunctionWorld(slots, tmp_path / "other")
    for world in (one, other):
        world.session.begin()
        step = world.session.collect(world._roll)
        world.session.weigh(world._batch([list(group) for group in step.trained]))
    saved.save(tmp_path, one.session.state_dict())
    one._start()
    one.watched.record = Record()
    one.session.load_state_dict(saved.load(tmp_path))
    other.session.end(None)
    assert one.session.step == other.session.step == 1
    assert repr(one.session.state_dict()) == repr(other.session.state_dict())
