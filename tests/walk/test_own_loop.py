"""The example of a loop of one's own: its numbers against naive ones, and a short run with each kind of strategy."""

from __future__ import annotations

import ast
import importlib.util
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.config import ASSETS
from prepo_cli.data.rendering import Renderer
from strategies import Batch, Group, RolloutWeighting, RunInfo, StepContext, StepReport, StrategySet

FILE = Path(__file__).parents[2] / "examples" / "own_loop.py"


@pytest.fixture(scope="module")
def imported() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("own_loop", FILE)
    assert spec is not None and spec.loader is not None
    module = sys.modules["own_loop"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules["own_loop"]


@pytest.fixture
def loop(imported: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example in small, its model untrained after each test as before."""
    for name, value in {"STEPS": 2, "PROMPTS": 4, "ROLLOUTS": 4, "HELD_OUT": 3}.items():
        monkeypatch.setattr(imported, name, value)
    weights = {name: value.clone() for name, value in imported.MODEL.state_dict().items()}
    yield imported
    imported.MODEL.load_state_dict(weights)
    imported.MODEL.zero_grad()


class TokenEntropy(RolloutWeighting):
    """Each token weighs its entropy."""

    needs_entropy = True

    def weigh(self, batch: Batch, ctx: StepContext) -> Any:
        return batch.entropy_NT


def rows_of(loop: Any, temperature: float, count: int) -> list[tuple[list[int], list[int]]]:
    """Prompt and completion tokens of a rollout of each of so many prompts."""
    task = loop.Task("train")
    torch.manual_seed(3)
    prompts = task.prompts[:count]
    return [
        (task.ids[p.index], list(r.ids))
        for p, r in zip(prompts, loop.roll_out(task, prompts, temperature), strict=True)
    ]


def naive_score(loop: Any, before: list[int], scored: list[int], temperature: float) -> tuple[Any, list[float]]:
    """Log-probs with gradient, and entropies, of one row without padding."""
    logits_LV = loop.MODEL(torch.tensor([before + scored])).logits[0].double() / temperature
    p_LV = logits_LV.exp() / logits_LV.exp().sum(dim=-1, keepdim=True)
    places = range(len(before) - 1, len(before) + len(scored) - 1)
    logprobs = [p_LV[place, token].log() for place, token in zip(places, scored, strict=True)]
    entropies = [-sum(p * math.log(p) for p in p_LV[place].tolist() if p > 0) for place in places]
    return torch.stack(logprobs), entropies


def test_it_is_one_short_file_that_needs_nothing_of_prepo_but_the_strategies() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    imports = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name for node in imports for alias in node.names} | {getattr(node, "module", "") for node in imports}
    assert not [name for name in names if name and name.startswith("prepo")]


def test_scores_equal_the_naive_ones(loop: Any) -> None:
    rows = rows_of(loop, 0.7, 70)  # more than one chunk
    for i in (0, 1, 66, 69):
        before, scored = rows[i]
        logprobs, entropies = loop.score(rows, 0.7)[i].detach()
        expected, expected_entropies = naive_score(loop, before, scored, 0.7)
        np.testing.assert_allclose(logprobs, expected.detach(), atol=1e-4)
        np.testing.assert_allclose(entropies, expected_entropies, atol=1e-4)


@pytest.mark.parametrize("weighting", ["uniform", "rel-entropy", f"{__name__}:TokenEntropy"])
def test_the_gradient_is_that_of_the_weighted_policy_gradient(loop: Any, weighting: str) -> None:
    task = loop.Task("train")
    torch.manual_seed(0)
    ctx = StepContext(0, 2, 0, 0, 0, temperature=1.3)
    groups = [Group(p, tuple(loop.roll_out(task, [p] * 6, 1.3))) for p in task.prompts[:3]]
    groups = [g for g in groups if not g.zero_variance]
    assert groups
    strategies = StrategySet({"weighting": weighting}, RunInfo(10, 2, 3, 6))
    loss, batch = loop.loss_of(strategies, task, groups, ctx)
    loss.backward()
    gradients = [p.grad.clone() for p in loop.MODEL.parameters()]
    loop.MODEL.zero_grad()

    flat = [
        (g, r, *naive_score(loop, task.ids[g.prompt.index], list(r.ids), 1.3)) for g in groups for r in g.completions
    ]
    everything = [h for *_, entropies in flat for h in entropies]
    total = torch.zeros(())
    for group, rollout, logprobs, entropies in flat:
        rewards = [other.reward for other in group.completions]
        advantage = (rollout.reward - np.mean(rewards)) / np.std(rewards)
        weights = {
            "uniform": [1.0] * len(entropies),
            "rel-entropy": [float(np.mean(entropies) / np.mean(everything))] * len(entropies),
        }.get(weighting, entropies)
        total = total - (torch.tensor(weights) * advantage * logprobs).sum() / len(everything)
    assert loss.item() == pytest.approx(total.item(), abs=1e-4)
    total.backward()
    assert sum(len(r.ids) for g in groups for r in g.completions) == batch.mask_NT.sum() == len(everything)
    for gradient, parameter in zip(gradients, loop.MODEL.parameters(), strict=True):
        np.testing.assert_allclose(gradient, parameter.grad, atol=1e-3 * float(parameter.grad.abs().max()) + 1e-7)


@torch.no_grad()
def test_padded_prompts_are_answered_as_single_ones(loop: Any) -> None:
    for prompt_ids, ids in rows_of(loop, 1e-4, 3):  # as good as greedy
        expected: list[int] = []
        while len(expected) < 96 and loop.END not in expected:
            expected.append(int(loop.MODEL(torch.tensor([prompt_ids + expected])).logits[0, -1].argmax()))
        assert ids == expected


def test_rewards_compare_the_last_box(loop: Any) -> None:
    task = loop.Task("train")
    torch.manual_seed(0)
    prompts = task.prompts[:40]
    rollouts = loop.roll_out(task, prompts, 1.0)
    for prompt, rollout in zip(prompts, rollouts, strict=True):
        text = loop.TOKENIZER.decode(rollout.ids, skip_special_tokens=True)
        right = text.rpartition("\\boxed{")[2].partition("}")[0] == task.rows[prompt.index]["answer"]
        assert (rollout.reward, rollout.correct, rollout.num_tokens) == (float(right), right, len(rollout.ids))
        assert rollout.truncated == (loop.END not in rollout.ids)
    assert 0 < sum(rollout.correct for rollout in rollouts) < 40


@torch.no_grad()
def test_perplexities_are_those_of_the_tokens_that_prepo_scores(loop: Any) -> None:
    task, render = loop.Task("test"), Renderer(loop.TOKENIZER)
    rows = [json.loads(line) for line in (ASSETS / "task" / "test.jsonl").read_text().splitlines()]
    chosen = task.prompts[5:9]
    found = {scope: task.perplexity(chosen, scope) for scope in ("question", "prompt")}
    for place, prompt in enumerate(chosen):
        rendered = render([{"role": "user", "content": rows[prompt.index]["prompt"]}])
        assert task.ids[prompt.index] == rendered.token_ids
        for scope, (start, end) in {"question": rendered.question_span, "prompt": (1, len(rendered.token_ids))}.items():
            logprobs, _ = naive_score(loop, rendered.token_ids[:start], rendered.token_ids[start:end], 1.0)
            assert found[scope][place] == pytest.approx(math.exp(-float(logprobs.mean())), rel=1e-4)


def test_the_stream_is_a_new_shuffle_each_epoch(loop: Any) -> None:
    task = loop.Task("test")
    first, second = ([p.index for p in task.take(400)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(400))
    assert first != second
    assert (task.taken, task.epoch) == (800, 2)


@pytest.mark.parametrize(
    "slots",
    [
        {},
        {"selector": "greso+ppl-schedule", "budget": "pilot-commit"},
        {"selector": "e3"},
        {"selector": "full", "filter": "max-variance", "weighting": "high-entropy-tokens"},
        {"selector": "calibrated", "budget": "knapsack", "filter": "nonzero-variance", "weighting": "entropy-share"},
    ],
    ids=lambda slots: "+".join(slots.values()) or "prepo",
)
def test_it_trains_with_any_strategies(
    loop: Any, slots: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reports: list[StepReport] = []
    groups: list[list[Group]] = []

    class Watched(StrategySet):
        def observe(self, seen: Any, ctx: StepContext) -> None:
            super().observe(seen, ctx)
            groups.append(list(seen))

        def end_step(self, report: StepReport) -> None:
            super().end_step(report)
            reports.append(report)

    monkeypatch.setattr(loop, "StrategySet", Watched)
    before = [p.detach().clone() for p in loop.MODEL.parameters()]
    loop.main(slots)
    assert any(not torch.equal(a, b) for a, b in zip(before, loop.MODEL.parameters(), strict=True))
    assert [report.step for report in reports] == [0, 1]
    assert reports[-1].rollouts_total == sum(len(g.completions) for seen in groups for g in seen)
    assert 0 < reports[-1].rollouts_trained <= reports[-1].rollouts_total
    assert reports[-1].entropy is not None and reports[-1].entropy > 0
    if not slots:  # nothing filtered: each step trains on all that it asked for
        assert (reports[0].rollouts_trained, reports[0].rollouts_total) == (16, 16)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("held-out avg@8: ")
