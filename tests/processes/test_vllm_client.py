"""The vLLM server engine against a fake server that fails in every way a real one does; vLLM is not needed."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.engines import vllm_connections, vllm_server
from prepo_cli.engines.base import Request, Rollout
from prepo_cli.engines.vllm_server import VllmServerEngine
from prepo_cli.engines.vllm_transfer import pieces
from prepo_cli.errors import RunError, UsageError
from prepo_cli.sections import EngineConfig
from tests.engines.fake_vllm import CONTEXT, END, FakeVllm

MANY = [Request([i, i + 1], [i, 7], 1.0, 10) for i in range(100)]


@pytest.fixture(autouse=True)
def _short_times(short_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_server, "REPLY_TIMEOUT_S", 0.5)


def connect(fake: FakeVllm, folder: Path, give_up_after: float = 20.0, **settings: Any) -> VllmServerEngine:
    config = EngineConfig(
        name="vllm-server", **{"vllm_server_base_url": fake.url, "vllm_server_timeout_s": give_up_after, **settings}
    )
    return VllmServerEngine(
        config, model="some/m", eos_token_ids=frozenset({END}), max_model_len=CONTEXT, sync_dir=folder / "sync"
    )


def weights(number: int) -> Iterator[tuple[str, torch.Tensor]]:
    tied = torch.nn.Parameter(torch.tensor([[float(number)]]))
    yield "model.embed_tokens.weight", tied
    yield "lm_head.weight", tied


def check(requests: list[Request], groups: list[Any], number: int) -> None:
    """Every rollout belongs to its request and comes from these weights."""
    assert [len(group) for group in groups] == [len(request.seeds) for request in requests]
    for request, group in zip(requests, groups, strict=True):
        for rollout in group:
            assert rollout.token_ids == [number, sum(request.prompt_ids) % 50 + 2, END]
            assert not rollout.truncated and rollout.entropies is None
            np.testing.assert_array_equal(rollout.logprobs, np.float32([0, -0.25, -0.5]))


def test_requests_run_concurrently_and_return_in_order(fake: FakeVllm, tmp_path: Path) -> None:
    fake.hook = lambda path, when: time.sleep(0.005)
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    seen: dict[tuple[int, int], Rollout] = {}
    groups = engine.generate(MANY, lambda request, number, rollout: seen.update({(request, number): rollout}))
    check(MANY, groups, 5)
    assert seen == {(r, n): rollout for r, group in enumerate(groups) for n, rollout in enumerate(group)}
    assert 8 < fake.most_busy <= vllm_server.IN_FLIGHT


def test_every_sampling_setting_is_sent(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    asked = [Request([3, 4], [2**64 - 1, 1, 2], 0.7, 2, 0.9), Request([6], [5, 6], 0.0, 4), Request([6], [], 1.0, 4)]
    sampled, greedy, none = engine.generate(asked)
    assert [r.truncated for r in sampled] == [True] * 3 and len(greedy) == 2 and none == []
    one, other = sorted(fake.bodies, key=lambda body: -len(body["prompt"]))
    expected = {
        "prompt": [3, 4], "n": 3, "seed": 2**62 - 1, "temperature": 0.7, "top_p": 0.9, "top_k": 0, "min_p": 0.0,
        "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0, "max_tokens": 2,
        "stop_token_ids": [END], "ignore_eos": True, "logprobs": 0, "return_token_ids": True, "model": "m",
    }  # fmt: skip
    assert {key: one[key] for key in expected} == expected
    assert (other["n"], other["temperature"], other["seed"]) == (1, 0.0, 5)


def test_prompt_log_probs(fake: FakeVllm, tmp_path: Path) -> None:
    first, second, third = connect(fake, tmp_path).prompt_logprobs([[4, 5, 6], [9], [2, 2]])
    np.testing.assert_array_equal(first, np.float32([-5, -6]))
    assert second.size == 0 and third.tolist() == [-2.0]


@pytest.mark.parametrize("failure", [503, 500, 429, -1])
def test_temporary_failures_change_nothing(fake: FakeVllm, tmp_path: Path, failure: int) -> None:
    chance = random.Random(1)
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    fake.hook = lambda path, when: failure if chance.random() < 0.1 and path != "/collective_rpc" else None
    check(MANY, engine.generate(MANY), 5)
    engine.sync(weights(6))
    check(MANY, engine.generate(MANY), 6)


def test_no_rollout_comes_from_a_restarted_servers_weights(fake: FakeVllm, tmp_path: Path) -> None:
    chance = random.Random(2)
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))

    def restart_at_random(path: str, when: str) -> None:
        if chance.random() < 0.01:
            fake.restart()

    fake.hook = restart_at_random
    for number in range(6, 9):
        engine.sync(weights(number))
        check(MANY, engine.generate(MANY), number)
    assert fake.life >= 5


@pytest.mark.parametrize("path", ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_restart_while_weights_are_loaded(fake: FakeVllm, tmp_path: Path, path: str, when: str) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    done: list[bool] = []

    def restart_once(at: str, moment: str) -> None:
        if (at, moment) == (path, when) and not done:
            done.append(True)
            fake.restart()

    fake.hook = restart_once
    engine.sync(weights(6))
    check(MANY[:3], engine.generate(MANY[:3]), 6)
    assert done


@pytest.mark.parametrize("path", ["/collective_rpc", "/reset_prefix_cache"])
def test_a_restart_after_a_connection_was_closed_cleanly(fake: FakeVllm, tmp_path: Path, path: str) -> None:
    engine = connect(fake, tmp_path)
    fake.restart_after = path
    engine.sync(weights(5))
    check(MANY[:3], engine.generate(MANY[:3]), 5)
    assert fake.paths.count("/collective_rpc") == 2


def test_an_answer_from_before_the_weights_were_restored_does_not_count(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    fake.restart()
    held: list[bool] = []

    def hold_the_first_answer(path: str, when: str) -> None:
        if path == "/v1/completions" and when == "after" and not held:
            held.append(True)
            while fake.version == "default":
                time.sleep(0.01)

    fake.hook = hold_the_first_answer
    monkeypatch.setattr(vllm_connections.CallGroup, "abort", lambda group: None)  # which would end the held call
    check(MANY[:2], engine.generate(MANY[:2]), 5)
    assert len(fake.bodies) == 4


def test_a_server_that_was_down_for_a_while(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    finished: list[int] = []

    def go_down(path: str, when: str) -> None:
        if path == "/v1/completions" and len(finished) > 20 and not fallen.is_set():
            fallen.set()

    def come_back() -> None:
        fallen.wait()
        fake.stop()
        time.sleep(1.0)
        fake.come_back()

    fallen = threading.Event()
    fake.hook = go_down
    helper = threading.Thread(target=come_back)
    helper.start()
    check(MANY, engine.generate(MANY, lambda *of_rollout: finished.append(of_rollout)), 5)
    helper.join()
    assert fake.paths.count("/collective_rpc") >= 2


def test_a_restart_behind_a_connection_that_stays_open(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    silent: list[bool] = []

    def fall_silent(path: str, when: str) -> int | None:
        if path == "/v1/completions" and when == "before" and not silent:
            silent.append(True)
            fake.restart()
            return 0
        return None

    fake.hook = fall_silent
    check(MANY[:1], engine.generate(MANY[:1]), 5)
    assert silent


@pytest.mark.parametrize("failure", ["gone", "hanging", "failing"])
def test_giving_up_is_one_line(fake: FakeVllm, tmp_path: Path, failure: str) -> None:
    engine = connect(fake, tmp_path, give_up_after=1.0)
    engine.sync(weights(5))
    if failure == "gone":
        fake.stop()
    elif failure == "hanging":
        fake.hook = lambda path, when: 0
    else:
        fake.hook = lambda path, when: 500 if path == "/v1/completions" else None
    started = time.monotonic()
    with pytest.raises(RunError) as caught:
        engine.generate(MANY)
    assert 0.9 < time.monotonic() - started < 6
    assert fake.url in str(caught.value) and "--resume" in str(caught.value) and "\n" not in str(caught.value)
    if failure == "gone":
        fake.come_back()


def test_a_rejected_call_is_not_retried(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    fake.hook = lambda path, when: 400 if path == "/v1/completions" else None
    with pytest.raises(RunError, match=r"rejected /v1/completions \(\d+\): as asked"):
        engine.generate(MANY[:1])
    assert fake.paths.count("/v1/completions") == 1


def test_an_interrupt_aborts_everything(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    answered: list[str] = []

    def hang_after_some(path: str, when: str) -> int | None:
        answered.append(path)
        return 0 if answered.count("/v1/completions") > 20 and path == "/v1/completions" else None

    def interrupt(request: int, number: int, rollout: Rollout) -> None:
        raise KeyboardInterrupt

    fake.hook = hang_after_some
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.generate(MANY, interrupt)
    assert time.monotonic() - started < 3


def test_another_run_on_the_same_server_is_detected(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path / "one")
    engine.sync(weights(5))
    other = connect(fake, tmp_path / "two")
    with pytest.raises(UsageError, match="another run's weights"):
        other.generate(MANY[:1])
    other.sync(weights(6))
    with pytest.raises(RunError, match="another run"):
        engine.generate(MANY[:1])
    with pytest.raises(RunError, match="another run"):
        engine.sync(weights(7))
    check(MANY, other.generate(MANY), 6)


def test_a_server_that_is_set_up_wrongly_is_one_line_with_the_cure(fake: FakeVllm, tmp_path: Path) -> None:
    for attribute, value, words in (
        ("reported", {"version": "0.19.1"}, r"vLLM 0\.19\.1, but prepo needs vllm>=0\.28,<0\.33"),
        ("card", {"id": "n", "root": None, "max_model_len": CONTEXT}, "--served-model-name m"),
        ("card", {"id": "m", "root": "m", "max_model_len": CONTEXT - 1}, f"--max-model-len {CONTEXT}"),
        ("developer", False, "VLLM_SERVER_DEV_MODE=1"),
        ("settings", {"logprobs_mode": "raw_logprobs", "dtype": "torch.float32"}, "--logprobs-mode processed_logprobs"),
    ):
        before = getattr(fake, attribute)
        setattr(fake, attribute, value)
        with pytest.raises(UsageError, match=words) as caught:
            connect(fake, tmp_path)
        assert "\n" not in str(caught.value)
        setattr(fake, attribute, before)
    with pytest.raises(UsageError, match="--weight-transfer-config"):
        connect(fake, tmp_path, vllm_weight_sync="nccl")
    connect(fake, tmp_path, vllm_server_base_url=fake.url + "/v1/")


def test_what_vllm_would_reject_or_alter_is_an_error(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path)
    for request, words in (
        (Request([5] * (CONTEXT - 3), [1], 1.0, 4), "max-model-len"),
        (Request([], [1], 1.0, 4), "empty prompt"),
        (Request([5], [1], 2.5, 4), "temperature 2.5"),
        (Request([5], [1], 0.001, 4), "temperature 0.001"),
    ):
        with pytest.raises(UsageError, match=words):
            engine.generate([request])


def test_an_unexpected_end_token_is_an_error(fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = {"token_ids": [5, 6], "logprobs": {"token_logprobs": [0, 0]}, "finish_reason": "stop"}
    monkeypatch.setattr(fake, "complete", lambda body: (200, {"choices": [choice] * body["n"]}))
    with pytest.raises(RunError, match="last token 6"):
        connect(fake, tmp_path).generate(MANY[:1])


def test_weights_that_cannot_be_written_or_loaded(fake: FakeVllm, tmp_path: Path) -> None:
    (tmp_path / "sync").write_text("in the way", encoding="utf-8")
    with pytest.raises(RunError, match=r"can't write weights .*engine\.vllm_sync_dir"):
        connect(fake, tmp_path).sync(weights(5))
    engine = connect(fake, tmp_path, vllm_sync_dir=str(tmp_path / "other"))
    engine.sync(weights(5))
    fake.hook = lambda path, when: 500 if path == "/collective_rpc" else None
    with pytest.raises(RunError, match=r"can't load .*engine\.vllm_sync_dir"):
        engine.sync(weights(6))
    engine.close()
    assert not list((tmp_path / "other").iterdir())


def test_only_the_newest_weights_are_kept(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path)
    for number in range(2, 5):
        engine.sync(weights(number))
        (folder,) = (tmp_path / "sync").glob("weights-*")
        assert [file.suffix for file in folder.iterdir()] == [".safetensors"]
    engine.close()
    assert not list((tmp_path / "sync").iterdir())


def test_a_folder_for_weights_is_one_runs_at_a_time(fake: FakeVllm, tmp_path: Path) -> None:
    first, second = connect(fake, tmp_path), connect(fake, tmp_path)
    first.sync(weights(2))
    (written,) = (tmp_path / "sync").glob("weights-*")
    with pytest.raises(UsageError, match="sync is in use by process"):
        second.sync(weights(3))
    second.close()
    assert list((tmp_path / "sync").glob("weights-*")) == [written]
    first.close()
    assert not list((tmp_path / "sync").iterdir())


def test_pieces_contain_every_tensor_once_in_order() -> None:
    named = [(f"w{i}", torch.zeros(size)) for i, size in enumerate([3, 1, 1, 9, 2, 2, 2])]
    cut = list(pieces(named, 16))
    assert [[name for name, _ in piece] for piece in cut] == [["w0", "w1"], ["w2"], ["w3"], ["w4", "w5"], ["w6"]]
    assert not list(pieces([], 16))
