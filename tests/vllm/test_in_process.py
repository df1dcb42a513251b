"""The in-process engine against the trainer's own decoding, log-probs and perplexities, on real vLLM."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: pip install 'prepo[vllm]'")

from prepo_cli.engines.base import Request
from prepo_cli.engines.vllm import VllmEngine
from prepo_cli.errors import UsageError
from prepo_cli.policy.policy import Policy
from prepo_cli.sections import EngineConfig
from tests.vllm.small_models import (
    CONFIGS,
    CONTEXT,
    EOS,
    PROMPTS,
    first_token_fits,
    greedy,
    largest_gap,
    make_policy,
    requests,
    save,
    shake,
    tokens,
    weights,
)

CONFIG = EngineConfig(name="vllm", vllm_enforce_eager=True, vllm_max_num_seqs=64)


@dataclass
class Running:
    engine: VllmEngine
    policy: Policy


def start(policy: Policy, folder: Path, dtype: str = "float32") -> VllmEngine:
    return VllmEngine(
        CONFIG,
        model=str(save(policy, folder)),
        dtype=dtype,
        eos_token_ids=policy.eos_token_ids,
        max_model_len=CONTEXT,
        seed=3,
    )


@pytest.fixture(scope="module", params=CONFIGS)
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    policy = make_policy(request.param)
    engine = start(policy, tmp_path_factory.mktemp(request.param))
    yield Running(engine, policy)
    engine.close()


with_one_architecture = pytest.mark.parametrize("running", ["qwen2-tied"], indirect=True, scope="module")


def test_greedy_output_is_the_trainers_after_every_weight_change(running: Running) -> None:
    seen = []
    for update in range(11):
        if update:
            shake(running.policy, update)
            running.engine.sync(weights(running.policy))
        ours = tokens(running.engine.generate(requests(1, temperature=0.0)))
        assert ours == greedy(running.policy)
        seen.append(str(ours))
    assert len(set(seen)) == len(seen)


def test_log_probs_are_the_trainers_at_every_temperature(running: Running) -> None:
    asked = [Request(r.prompt_ids, r.seeds, t, 12) for t in (0.0, 0.5, 1.0, 1.7) for r in requests(3)]
    assert largest_gap(running.policy, asked, running.engine.generate(asked)) < 5e-5


def test_prompt_log_probs_give_the_trainers_perplexity(running: Running) -> None:
    running.engine.generate(requests(1))  # fills the prefix cache
    scored = running.engine.prompt_logprobs(PROMPTS)
    assert [len(row) for row in scored] == [len(row) - 1 for row in PROMPTS]
    exact = running.policy.perplexity(PROMPTS, [(0, len(row)) for row in PROMPTS], 100_000)
    ours = [np.exp(-row.mean()) for row in scored if len(row)]
    np.testing.assert_allclose(ours, exact[exact[:, 1] > 0, 0], rtol=1e-5)


@with_one_architecture
def test_requests_keep_their_own_number_temperature_and_length(running: Running) -> None:
    asked = [
        Request(PROMPTS[0], [1, 2, 3], 1.0, 7),
        Request(PROMPTS[1], [4], 0.0, 3),
        Request(PROMPTS[2], [], 1.0, 5),
        Request(PROMPTS[3], [2**64 - 1, 6], 2.0, 11),
        Request(PROMPTS[0], [9, 10], 0.0, 4),
    ]
    seen: list[tuple[int, int]] = []
    together = running.engine.generate(asked, lambda request, number, rollout: seen.append((request, number)))
    assert [len(group) for group in together] == [3, 1, 0, 2, 2]
    assert sorted(seen) == [(r, n) for r, group in enumerate(together) for n in range(len(group))]
    assert max(len(r.token_ids) for group in together for r in group) > 7
    for request, group in zip(asked, together, strict=True):
        assert all(len(r.token_ids) <= request.max_tokens for r in group)
        assert tokens(running.engine.generate([request])) == tokens([group])
    assert largest_gap(running.policy, asked, together) < 5e-5


@with_one_architecture
def test_tokens_depend_on_the_seed_and_not_on_the_batch(running: Running) -> None:
    forwards = tokens(running.engine.generate(requests(4)))
    backwards = tokens(running.engine.generate(requests(4)[::-1]))[::-1]
    assert forwards == backwards
    others = [Request(r.prompt_ids, [seed + 100 for seed in r.seeds], 1.0, 12) for r in requests(4)]
    assert tokens(running.engine.generate(others)) != forwards
    assert len({str(ids) for ids in forwards[0]}) == 4


@with_one_architecture
def test_rollouts_end_at_the_policys_end_tokens_and_at_no_other(running: Running) -> None:
    rollouts = [r for group in running.engine.generate(requests(40, max_tokens=15)) for r in group]
    assert any(r.truncated for r in rollouts)
    assert {r.token_ids[-1] for r in rollouts if not r.truncated} == EOS
    for rollout in rollouts:
        assert not set(rollout.token_ids[:-1]) & EOS
        assert rollout.truncated == (rollout.token_ids[-1] not in EOS)
        assert len(rollout.token_ids) == 15 or not rollout.truncated
        assert rollout.logprobs.dtype == np.float32 and len(rollout.logprobs) == len(rollout.token_ids)
        assert rollout.entropies is None
    assert {7, 11} & {token for r in rollouts for token in r.token_ids[:-1]}


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.6])
@with_one_architecture
def test_samples_follow_the_exact_softmax(running: Running, temperature: float) -> None:
    asked = [Request(PROMPTS[0], list(range(i, i + 500)), temperature, 1) for i in range(0, 8000, 500)]
    drawn = [r.token_ids[0] for group in running.engine.generate(asked) for r in group]
    assert first_token_fits(running.policy, PROMPTS[0], temperature, drawn)
    assert not first_token_fits(running.policy, PROMPTS[0], temperature / 1.3, drawn)


@with_one_architecture
def test_the_nucleus_limits_what_is_drawn(running: Running) -> None:
    with torch.no_grad():
        p = torch.softmax(running.policy.model(torch.tensor([PROMPTS[0]])).logits[0, -1], -1)
    order = p.sort(descending=True)
    size = int((order.values.cumsum(0) < 0.5).sum()) + 1
    nucleus = set(order.indices[:size].tolist())
    (group,) = running.engine.generate([Request(PROMPTS[0], list(range(300)), 1.0, 1, top_p=0.5)])
    assert {r.token_ids[0] for r in group} == nucleus
    for rollout in group:
        expected = float(torch.log(p[rollout.token_ids[0]] / order.values[:size].sum()))
        assert abs(rollout.logprobs[0] - expected) < 5e-5


@with_one_architecture
def test_what_vllm_would_reject_or_alter_is_an_error(running: Running) -> None:
    for request, words in (
        (Request([5] * (CONTEXT - 3), [1], 1.0, 4), "max-model-len"),
        (Request([], [1], 1.0, 4), "empty prompt"),
        (Request([5], [1], 2.5, 4), "temperature 2.5"),
        (Request([5], [1], 0.001, 4), "temperature 0.001"),
    ):
        with pytest.raises(UsageError, match=words):
            running.engine.generate([request])
    with pytest.raises(UsageError, match="exceeds"):
        running.engine.prompt_logprobs([[5] * CONTEXT])


@with_one_architecture
def test_an_interrupted_request_leaves_nothing_behind(running: Running) -> None:
    def interrupt(*of_rollout: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.engine.generate([Request(PROMPTS[0], [1], 1.0, 1), *requests(4)], interrupt)
    assert tokens(running.engine.generate(requests(1, temperature=0.0))) == greedy(running.policy)


@with_one_architecture
def test_sleeping_on_the_cpu_changes_nothing(running: Running) -> None:
    running.engine.sleep()
    running.engine.sync(weights(running.policy))
    running.engine.wake()
    assert tokens(running.engine.generate(requests(1, temperature=0.0))) == greedy(running.policy)


def test_an_engine_in_bfloat16_is_quiet_and_leaves_the_trainers_randomness_alone(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    policy = make_policy("qwen2-tied")
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    engine = start(policy, tmp_path, dtype="bfloat16")
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == states
    shake(policy, 5)
    engine.sync(weights(policy))
    asked = requests(2)
    gap = largest_gap(policy, asked, engine.generate(asked))
    engine.close()
    engine.close()
    assert 1e-4 < gap < 0.3
    assert capfd.readouterr().out == ""
    assert not torch.distributed.is_initialized()


def test_a_model_that_vllm_does_not_know_is_one_line(tmp_path: Path) -> None:
    policy = make_policy("llama")
    folder = save(policy, tmp_path)
    text = (folder / "config.json").read_text(encoding="utf-8").replace("LlamaForCausalLM", "NoSuchForCausalLM")
    (folder / "config.json").write_text(text.replace('"llama"', '"nosuch"'), encoding="utf-8")
    with pytest.raises(UsageError, match="vLLM can't load") as caught:
        VllmEngine(CONFIG, model=str(folder), dtype="float32", eos_token_ids=EOS, max_model_len=CONTEXT, seed=0)
    assert "\n" not in str(caught.value)
