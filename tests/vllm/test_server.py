"""The vLLM server engine against the trainer's own decoding and log-probs, with a real server that is also killed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="needs vLLM: pip install 'prepo[vllm]'")

from prepo_cli.engines.base import Request
from prepo_cli.engines.vllm_http import Server
from prepo_cli.engines.vllm_progress import COUNTERS
from prepo_cli.engines.vllm_server import VllmServerEngine
from prepo_cli.errors import RunError, UsageError
from prepo_cli.policy.policy import Policy
from prepo_cli.sections import EngineConfig
from tests.vllm.servers import START_S, VllmServer
from tests.vllm.small_models import (
    CONTEXT,
    EOS,
    LONG,
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


@dataclass
class Running:
    engine: VllmServerEngine
    policy: Policy
    server: VllmServer
    folder: Path


def connect(policy: Policy, server: VllmServer, folder: Path, context: int = CONTEXT) -> VllmServerEngine:
    config = EngineConfig(name="vllm-server", vllm_server_base_url=server.url, vllm_server_timeout_s=START_S)
    return VllmServerEngine(
        config,
        model=policy.source,
        eos_token_ids=policy.eos_token_ids,
        max_model_len=context,
        sync_dir=folder / "sync",
    )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("server")
    policy = make_policy("qwen2-tied")
    policy.source = str(save(policy, folder / "model"))
    server = VllmServer(folder / "model", CONTEXT)
    try:
        server.start()
        engine = connect(policy, server, folder)
        yield Running(engine, policy, server, folder)
        engine.close()
        assert not list((folder / "sync").iterdir())
    finally:
        server.kill()


def test_greedy_output_is_the_trainers_after_every_weight_change(running: Running) -> None:
    seen = []
    for update in range(11):
        if update:
            shake(running.policy, update)
            running.engine.sync(weights(running.policy))
            assert len(list((running.folder / "sync").glob("weights-*"))) == 1
        ours = tokens(running.engine.generate(requests(1, temperature=0.0)))
        assert ours == greedy(running.policy)
        seen.append(str(ours))
    assert len(set(seen)) == len(seen)


def test_the_engine_counts_its_tokens(running: Running) -> None:
    """By which one that hangs is told from one that works."""

    def counts() -> list[str]:
        with Server(running.server.url, 10.0).session() as session:
            return [line for line in session.text("/metrics").splitlines() if line.startswith(COUNTERS)]

    before = counts()
    running.engine.generate(requests(1))
    assert len(before) >= len(COUNTERS) and before != counts()


def test_log_probs_are_the_trainers_at_every_temperature(running: Running) -> None:
    asked = [Request(r.prompt_ids, r.seeds, t, 12) for t in (0.0, 0.5, 1.0, 1.7) for r in requests(3)]
    assert largest_gap(running.policy, asked, running.engine.generate(asked)) < 5e-5


def test_prompt_log_probs_give_the_trainers_perplexity(running: Running) -> None:
    scored = running.engine.prompt_logprobs(PROMPTS)
    assert [len(row) for row in scored] == [len(row) - 1 for row in PROMPTS]
    exact = running.policy.perplexity(PROMPTS, [(0, len(row)) for row in PROMPTS], 100_000)
    ours = [np.exp(-row.mean()) for row in scored if len(row)]
    np.testing.assert_allclose(ours, exact[exact[:, 1] > 0, 0], rtol=1e-5)


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
    assert tokens(running.engine.generate(asked[::-1]))[::-1] == tokens(together)
    assert all(
        len(r.token_ids) <= request.max_tokens for request, group in zip(asked, together, strict=True) for r in group
    )


def test_rollouts_end_at_the_policys_end_tokens_and_at_no_other(running: Running) -> None:
    rollouts = [r for group in running.engine.generate(requests(40, max_tokens=15)) for r in group]
    assert any(r.truncated for r in rollouts)
    assert {r.token_ids[-1] for r in rollouts if not r.truncated} == EOS
    for rollout in rollouts:
        assert not set(rollout.token_ids[:-1]) & EOS
        assert rollout.truncated == (rollout.token_ids[-1] not in EOS)
        assert len(rollout.token_ids) == 15 or not rollout.truncated
    assert {7, 11} & {token for r in rollouts for token in r.token_ids[:-1]}


def test_samples_follow_the_exact_softmax(running: Running) -> None:
    asked = [Request(PROMPTS[0], list(range(i, i + 500)), 1.0, 1) for i in range(0, 8000, 500)]
    drawn = [r.token_ids[0] for group in running.engine.generate(asked) for r in group]
    assert first_token_fits(running.policy, PROMPTS[0], 1.0, drawn)
    assert not first_token_fits(running.policy, PROMPTS[0], 1.3, drawn)


def test_a_server_that_is_set_up_wrongly_is_one_line(running: Running, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"--max-model-len {CONTEXT + 1}"):
        connect(running.policy, running.server, tmp_path, CONTEXT + 1)
    with pytest.raises(UsageError, match="--served-model-name other"):
        connect(replace(running.policy, source="somewhere/other"), running.server, tmp_path)
    with pytest.raises(UsageError, match="another run's weights"):
        connect(running.policy, running.server, tmp_path).generate(requests(1))


def test_a_killed_server_comes_back_with_the_current_weights(running: Running) -> None:
    shake(running.policy, 99)
    running.engine.sync(weights(running.policy))
    asked = [Request([*LONG[:20], i % 40], [i], 0.0, 200) for i in range(300)]
    finished: list[int] = []
    finished_at_the_kill: list[int] = []

    def kill_and_restart() -> None:
        while not finished:
            time.sleep(0.01)
        running.server.kill()
        finished_at_the_kill.append(len(finished))
        running.server.start(wait=False)

    killer = threading.Thread(target=kill_and_restart)
    killer.start()
    ours = running.engine.generate(asked, lambda *of_rollout: finished.append(of_rollout))
    killer.join()
    assert 0 < finished_at_the_kill[0] < len(finished) == len(asked)
    assert largest_gap(running.policy, asked, ours) < 5e-5
    for request, (rollout,) in zip(asked, ours, strict=True):
        ids = torch.tensor([[*request.prompt_ids, *rollout.token_ids]])
        with torch.no_grad():
            best = running.policy.model(ids).logits[0, len(request.prompt_ids) - 1 : -1].argmax(-1)
        assert best.tolist() == rollout.token_ids
    shake(running.policy, 100)
    running.engine.sync(weights(running.policy))
    assert tokens(running.engine.generate(requests(1, temperature=0.0))) == greedy(running.policy)


def test_weights_of_another_run_are_detected(running: Running, tmp_path: Path) -> None:
    other = connect(running.policy, running.server, tmp_path)
    other.sync(weights(running.policy))
    with pytest.raises(RunError, match="another run"):
        running.engine.generate(requests(1))
    with pytest.raises(RunError, match="another run"):
        running.engine.sync(weights(running.policy))
    assert tokens(other.generate(requests(1, temperature=0.0))) == greedy(running.policy)
