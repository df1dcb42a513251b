"""Work is shared out evenly, and comes back in order; lengths are expected from the last time; engines are checked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.config import resolve
from prepo_cli.engines.base import Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.errors import RunError
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.policy import Policy, ScoreBatch
from prepo_cli.sections import ModelConfig
from prepo_cli.training.engine_check import check_engine
from prepo_cli.training.lengths import ExpectedLengths
from prepo_cli.training.team import Team, expected_cost, round_robin, split_by_cost
from tests.models import VOCAB, make_policy


@given(st.lists(st.floats(0, 1e6)), st.integers(1, 9))
def test_shares_hold_everything_once_and_are_even(costs: list[float], count: int) -> None:
    shares = split_by_cost(costs, count)
    assert len(shares) == count
    assert sorted(i for share in shares for i in share) == list(range(len(costs)))
    loads = [sum(costs[i] for i in share) for share in shares]
    # The greedy rule's bound: nobody has more than the fair share and one item besides.
    assert max(loads) <= sum(costs) / count + max(costs, default=0) + 1e-6
    assert shares == split_by_cost(costs, count)


@given(st.lists(st.integers()), st.integers(1, 9))
def test_round_robin_gives_everyone_as_much(items: list[int], count: int) -> None:
    shares = round_robin(items, count, None)
    assert len({len(share) for share in shares}) == 1
    back = [shares[i % count][i // count] for i in range(len(items))]
    assert back == items


def test_expected_cost() -> None:
    request = Request([1] * 10, [0, 1, 2], 1.0, 50)
    assert expected_cost(request) == 10 + 3 * 50
    assert expected_cost(Request([1] * 10, [0, 1, 2], 1.0, 50, expected_tokens=20.0)) == 10 + 3 * 20
    assert expected_cost(Request([1] * 10, [0, 1, 2], 1.0, 50, expected_tokens=90.0)) == 10 + 3 * 50


def test_expected_lengths_survive_a_checkpoint() -> None:
    lengths = ExpectedLengths(10)
    assert lengths[3] is None
    lengths.observe(3, [4, 8])
    assert lengths[3] == 6
    assert lengths[4] == 6
    lengths.observe(5, [106])
    assert lengths[5] == 106
    assert lengths[4] == pytest.approx(7)
    again = ExpectedLengths(10)
    again.load_state_dict(lengths.state_dict())
    assert [again[i] for i in range(10)] == [lengths[i] for i in range(10)]


class Two:
    """Two processes played by one: the shares are done one after the other."""

    count = 2
    sharded = False

    def call(self, method: Any, shares: Any) -> list[Any]:
        return [method(*share) for share in shares]


class Worker:
    """A learner without an update."""

    def __init__(self, policy: Policy, engine: Policy) -> None:
        self.config = resolve(flags={"engine.name": "vllm"})
        self.policy, self.engine = policy, HfEngine(engine, 10_000)

    def generate(self, requests: Any, progress: Any = None) -> Any:
        return self.engine.generate(requests)

    def greedy(self, requests: Any) -> Any:
        return HfEngine(self.policy, 10_000).generate(requests)

    def score(self, batches: list[ScoreBatch], of_reference: bool) -> Any:
        return [self.policy.score_batch(batch) for batch in batches]


class SeparateEngine(HfEngine):
    """An engine with weights of its own."""

    shares_weights = exact_logprobs = False

    def sync(self, weights: Any) -> None:
        for _ in weights:
            pass


def team(policy: Policy, engine: Policy | None = None) -> Team:
    return Team(Two(), Worker(policy, engine or policy), 60)


def test_generating_and_scoring_in_shares_is_generating_and_scoring() -> None:
    policy = make_policy()
    rng = np.random.default_rng(0)
    rows = [rng.integers(2, VOCAB, size=n).tolist() for n in (3, 9, 17, 4, 30, 2, 8)]
    requests = [Request(row, [i, i + 100], 1.0, 8, expected_tokens=i) for i, row in enumerate(rows)]
    shared, alone = team(policy).generate(requests), HfEngine(policy, 10_000).generate(requests)
    assert [[r.token_ids for r in g] for g in shared] == [[r.token_ids for r in g] for g in alone]
    spans, temperatures = [(1, len(row)) for row in rows], [0.5 + 0.1 * i for i in range(7)]
    ours = team(policy).score(rows, spans, temperatures, with_entropy=True)
    for (logprobs, entropies), (naive, naive_entropies) in zip(
        ours, policy.score(rows, spans, temperatures, 10_000, with_entropy=True), strict=True
    ):
        np.testing.assert_allclose(logprobs, naive, atol=1e-5)
        np.testing.assert_allclose(entropies, naive_entropies, atol=1e-5)


def test_perplexities_are_charged_for_the_tokens_up_to_their_spans_ends() -> None:
    policy = make_policy()
    rows, spans = [[5, 6, 7, 8, 9], [6, 7, 8]], [(1, 3), (0, 3)]
    asked = team(policy)
    np.testing.assert_allclose(asked.perplexity(rows, spans), policy.perplexity(rows, spans, 60), rtol=1e-5)
    assert asked.take_tokens_scored() == 3 + 3


def test_an_engine_that_serves_all_is_asked_once_by_the_main_process() -> None:
    asked: list[Any] = []

    class Server(SeparateEngine):
        serves_all = True

        def generate(self, requests: Any, progress: Any = None) -> Any:
            asked.append(requests)
            return super().generate(requests, progress)

    policy = make_policy()
    served = team(policy)
    served.learner.engine = Server(policy, 10_000)
    served.learner.generate = lambda requests, progress=None: served.learner.engine.generate(requests, progress)
    requests = [Request([5, 6, i], [i], 1.0, 8) for i in range(5)]
    served.generate(requests)
    assert asked == [requests]


PROMPTS = [[5, 6, 7], [9, 3, 2, 11, 4]]
CONFIG: Any = SimpleNamespace(compute_dtype="float32", engine=SimpleNamespace(vllm_max_logp_difference=0.5))


@pytest.mark.parametrize("sharded", [False, True])
def test_an_engine_with_the_trainers_weights_passes(sharded: bool) -> None:
    checked = team(make_policy())
    checked.processes.sharded = sharded
    check_engine(checked, PROMPTS, CONFIG)


@pytest.mark.parametrize("sharded", [False, True])
def test_an_engine_with_other_weights_is_found_out(sharded: bool) -> None:
    """Even where only the output matrix is old, as with tied weights that were not handed over."""
    policy, stale = make_policy("llama"), make_policy("llama")
    other = make_policy("llama", seed=1)
    stale.model.lm_head.weight.data.copy_(other.model.lm_head.weight)
    checked = team(policy, stale)
    checked.processes.sharded = sharded
    with pytest.raises(RunError, match="weights differ from the trainer"):
        check_engine(checked, PROMPTS, CONFIG)


def test_a_stale_engine_stops_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prepo_cli.training import build, train

    def wrong(config: Any, policy: Policy, *parts: Any, **options: Any) -> Any:
        other = load_policy(ModelConfig())
        for parameter in other.model.parameters():
            parameter.data.mul_(-1)
        return SeparateEngine(other, 10_000)

    monkeypatch.setattr(build, "build_engine", wrong)
    sets = ["training.prompts_per_step=2", "training.num_generations=2", "training.max_completion_length=8",
            "evaluation.dataset_name=null", "engine.name=vllm", f"output_dir={tmp_path / 'run'}",
            "data.max_prompt_length=30"]  # fmt: skip
    with pytest.raises(RunError, match="the weight sync failed"):
        train.train(resolve(sets=sets))
