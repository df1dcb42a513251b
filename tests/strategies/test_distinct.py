"""No selector gives a step a prompt twice while the training set has enough of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from prepo_cli.data.stream import PromptStream
from strategies import Completion, Group, Prompt, StepContext, StepReport, StrategySet, registry
from tests.fakes import FakeProbe, FakeRun, make_prompts, make_run, pass_rate

SELECTORS = [cls.name for cls in registry.listed() if cls.slot == "selector"]
REPORT = StepReport(0, 20, 0, 0, 1.0, None, 0.5, True, 0, 0)
BY_WORTH = ["ppl-low", "ppl-high", "ppl-schedule", "difficulty", "calibrated", "sgpo"]
"""They keep to the prompts they prefer, whatever the stream brings."""
CHAINS = ["greso+ppl-schedule", "random+mopps", "greso+random+learnability"]


def rolled_out(prompt: Prompt) -> Group:
    """Eight rollouts, of which the prompt's pass rate says how many are correct."""
    right = round(8 * pass_rate(prompt))
    return Group(prompt, tuple(Completion(float(i < right), i < right, 5, False, 1.0, 0.5) for i in range(8)))


@pytest.mark.parametrize("selector", [*SELECTORS, *CHAINS])
@pytest.mark.parametrize("rounds", [[64], [64, 20, 16]])
def test_prompts_of_a_step_are_distinct(selector: str, rounds: list[int]) -> None:
    """100 prompts and 64 in a step: at ratio 0.2 the 320 candidates were 3.2 passes, and 21 of the 64 were distinct."""
    prompts = make_prompts(100)
    run = make_run(100, prompts_per_step=64)
    strategies = StrategySet({"selector": selector}, run)
    stream = PromptStream(100, seed=3, get=prompts.__getitem__)
    seen = set()
    for step in range(4):
        stream.begin_step()
        ctx = StepContext(step, run.total_steps, stream.epoch, 0, run.seed, probe=FakeProbe())
        chosen: list[Prompt] = []
        for number, size in enumerate(rounds):
            found = stream.without_repeats(strategies.select(size, stream, replace(ctx, round=number)))
            strategies.observe([rolled_out(prompt) for prompt in found], ctx)
            chosen += found
        strategies.end_step(REPORT)
        assert len({prompt.index for prompt in chosen}) == sum(rounds)
        seen |= {prompt.index for prompt in chosen}
    assert len(seen) > 90 or selector in (*BY_WORTH, *CHAINS)


@pytest.mark.parametrize("selector", [*SELECTORS, *CHAINS])
def test_a_training_set_smaller_than_a_step_repeats_prompts(selector: str) -> None:
    prompts = make_prompts(5)
    strategies = StrategySet({"selector": selector}, make_run(5, prompts_per_step=12))
    stream = PromptStream(5, seed=3, get=prompts.__getitem__)
    for step in range(3):
        stream.begin_step()
        chosen = strategies.select(12, stream, StepContext(step, 20, stream.epoch, 0, 7, probe=FakeProbe()))
        assert {prompt.index for prompt in chosen} == set(range(5))
        strategies.observe([rolled_out(prompt) for prompt in chosen], StepContext(step, 20, 0, 0, 7))
        strategies.end_step(REPORT)


def test_what_a_small_training_set_means_is_said() -> None:
    assert StrategySet({"selector": "random"}, make_run(400, prompts_per_step=64)).notes() == []
    (note,) = StrategySet({"selector": "greso+random"}, make_run(100, prompts_per_step=64)).notes()
    assert "fewer than the 320 candidates of a step" in note
    assert "a ratio of 0.64 instead of 0.2" in note
    assert note.startswith("selector 'random': ")
    (note,) = StrategySet({"selector": "random"}, make_run(50, prompts_per_step=64)).notes()
    assert "nothing to select" in note


def test_the_real_loop_gives_a_step_each_prompt_once() -> None:
    run = FakeRun({"selector": "random", "filter": "nonzero-variance"}, make_run(100, prompts_per_step=64))
    for record in run.steps(5):
        rolled_out_in_step = [group.prompt.index for group in record.groups]
        assert len(rolled_out_in_step) > 64
        assert len(set(rolled_out_in_step)) == min(len(rolled_out_in_step), 100)
