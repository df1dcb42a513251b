"""A server that hangs, talks nonsense or is another one: each time one clear line, and never a wrong rollout."""

from __future__ import annotations

import base64
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prepo_cli.engines import vllm_disk, vllm_http, vllm_server, vllm_server_check
from prepo_cli.engines.vllm_http import Server
from prepo_cli.errors import RunError, UsageError
from tests.engines.fake_vllm import FakeVllm
from tests.processes.test_vllm_client import MANY, check, connect, weights

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _short_times(short_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_http, "BODY_TIMEOUT_S", 0.3)
    for module in (vllm_server, vllm_server_check, vllm_disk):
        monkeypatch.setattr(module, "REPLY_TIMEOUT_S", 0.3)
    monkeypatch.setattr(vllm_server_check, "FIRST_INFO_TIMEOUT_S", 0.3)
    monkeypatch.setattr(vllm_disk, "LOAD_TIMEOUT_S", 0.5)


def line(raised: pytest.ExceptionInfo[Any], *words: str) -> str:
    message = str(raised.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    return message


GARBAGE = {
    "html": (b"<html><h1>It works!</h1></html>", "<html>"),
    "truncated": (b'{"choices": [{"token_ids": [1, 2', "valid JSON"),
    "nested": (b"[" * 100_000, "valid JSON"),
    "binary": (b"\xff\x00\x1b[31m", r"\x1b[31m"),
    "empty": (b"", "None"),
    "a list": (b"[]", "[]"),
    "null": (b'{"version": null, "choices": null}', "None"),
    "numbers": (b'{"version": 5, "choices": [5]}', "5"),
    "NaN": (b'{"version": NaN, "choices": [{"token_ids": [1], "logprobs": {"token_logprobs": [NaN]}}]}', "nan"),
    "token ids": (b'{"version": [], "choices": [{"token_ids": ["x"]}]}', "version"),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_at_the_start_is_a_wrong_address(fake: FakeVllm, tmp_path: Path, kind: str) -> None:
    raw, words = GARBAGE[kind]
    fake.garbage["/version"] = raw
    with pytest.raises(UsageError) as raised:
        connect(fake, tmp_path)
    line(raised, fake.url, "/version", words)


@pytest.mark.parametrize("kind", GARBAGE)
def test_garbage_instead_of_completions_ends_the_run(fake: FakeVllm, tmp_path: Path, kind: str) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    fake.garbage["/v1/completions"] = GARBAGE[kind][0]
    with pytest.raises(RunError) as raised:
        engine.generate(MANY[:3])
    line(raised, fake.url, "/v1/completions", "check")
    assert fake.paths.count("/v1/completions") <= 3


@pytest.mark.parametrize(
    "choices",
    [
        [],
        [{"token_ids": [5, 1], "logprobs": {"token_logprobs": [0, 0]}, "finish_reason": "stop"}],
        [{"token_ids": [5, 1], "logprobs": {"token_logprobs": [0]}, "finish_reason": "stop"}] * 2,
        [{"token_ids": [5, 1], "finish_reason": "stop"}] * 2,
    ],
)
def test_missing_completions_and_log_probs_are_noticed(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choices: list[Any]
) -> None:
    engine = connect(fake, tmp_path)
    engine.sync(weights(5))
    monkeypatch.setattr(fake, "complete", lambda body: (200, {"choices": choices}))
    with pytest.raises(RunError) as raised:
        engine.generate(MANY[:1])
    line(raised, fake.url, "omitted", "--resume")


@pytest.mark.parametrize("scored", [None, [], [None, {"9": {"logprob": -1.0}}], [None]])
def test_missing_prompt_log_probs_are_noticed(
    fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: Any
) -> None:
    engine = connect(fake, tmp_path)
    answer = {"choices": [{"token_ids": [1], "prompt_logprobs": scored}]}
    monkeypatch.setattr(fake, "complete", lambda body: (200, answer))
    with pytest.raises(RunError) as raised:
        engine.prompt_logprobs([[3, 4]])
    line(raised, "prompt")


def test_an_answer_without_end_is_cut_off(fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_http, "MAX_BYTES", 1000)
    server = Server(fake.url, 1.0)
    fake.garbage["/version"] = b" " * 2000
    with pytest.raises(RunError) as raised:
        server.call("/version", timeout_s=5.0, max_bytes=1000)
    line(raised, "more than 1,000 bytes")


@pytest.mark.parametrize("closing", [False, True])
@pytest.mark.parametrize("path", ["/v1/completions", "/collective_rpc"])
def test_a_server_that_drips_is_given_up(fake: FakeVllm, tmp_path: Path, path: str, closing: bool) -> None:
    engine = connect(fake, tmp_path, give_up_after=0.6)
    engine.sync(weights(5))
    fake.headers |= {"Connection": "close"} if closing else {}
    fake.drips.add(path)
    with pytest.raises(RunError) as raised:
        engine.sync(weights(6)) if path == "/collective_rpc" else engine.generate(MANY[:2])
    line(raised, fake.url, "no response", "--resume")


@pytest.mark.parametrize("path", ["/weight_info", "/collective_rpc", "/reset_prefix_cache", "/update_weight_version"])
def test_a_server_that_hangs_while_weights_are_sent(fake: FakeVllm, tmp_path: Path, path: str) -> None:
    engine = connect(fake, tmp_path, give_up_after=0.6)
    engine.sync(weights(5))
    fake.hook = lambda at, when: 0 if at == path else None
    with pytest.raises(RunError) as raised:
        engine.sync(weights(6))
    line(raised, fake.url, "no response", "--resume")


@pytest.mark.parametrize("counted", [None, 7])
def test_an_engine_that_hangs_behind_its_front_end(fake: FakeVllm, tmp_path: Path, counted: int | None) -> None:
    """Where the server counts tokens it is given up; where it does not, or goes on counting, the run waits."""
    engine = connect(fake, tmp_path, give_up_after=0.6)
    engine.sync(weights(5))
    fake.counted = counted
    waited = threading.Event()

    def hang(path: str, when: str) -> int | None:
        if path == "/v1/completions" and when == "before":
            waited.wait(2.0 if counted is None else None)
        return None

    fake.hook = hang
    if counted is None:
        check(MANY[:1], engine.generate(MANY[:1]), 5)
        return
    with pytest.raises(RunError) as raised:
        engine.generate(MANY[:3])
    line(raised, fake.url, "no token for 0.6 s", "--resume")
    waited.set()


def test_a_slow_engine_is_waited_for(fake: FakeVllm, tmp_path: Path) -> None:
    engine = connect(fake, tmp_path, give_up_after=0.6)
    engine.sync(weights(5))
    fake.counted = 0

    def work(path: str, when: str) -> int | None:
        if path == "/v1/completions" and when == "before":
            for _ in range(20):
                time.sleep(0.1)
                fake.counted = (fake.counted or 0) + 1
        return None

    fake.hook = work
    check(MANY[:1], engine.generate(MANY[:1]), 5)


def test_a_redirect_is_not_followed(fake: FakeVllm, tmp_path: Path) -> None:
    fake.hook = lambda path, when: 307
    fake.headers["Location"] = "http://me:secret@elsewhere/version"
    with pytest.raises(UsageError) as raised:
        connect(fake, tmp_path)
    assert "secret" not in line(raised, "redirects /version", "http://***@elsewhere", "engine.vllm_server_base_url")


@pytest.mark.parametrize(("status", "cure"), [(401, "VLLM_API_KEY"), (404, "engine.vllm_server_base_url")])
def test_a_refusal_at_the_start_names_the_cure(fake: FakeVllm, tmp_path: Path, status: int, cure: str) -> None:
    fake.hook = lambda path, when: status
    with pytest.raises(UsageError) as raised:
        connect(fake, tmp_path)
    line(raised, "rejected /version", cure)


@pytest.mark.parametrize("name", ["no-such-host.invalid", "127.0.0.1:9", "[::1]:9"])
def test_no_server_there(tmp_path: Path, fake: FakeVllm, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RunError) as raised:
        connect(fake, tmp_path, give_up_after=0.2, vllm_server_base_url=f"http://{name}")
    line(raised, f"http://{name}", "no response", "--resume")
    assert f"waiting for the vLLM server at http://{name} (" in capsys.readouterr().err


def test_tls_where_there_is_none_is_not_retried(fake: FakeVllm, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        connect(fake, tmp_path, vllm_server_base_url=fake.url.replace("http:", "https:"))
    line(raised, "no secure connection", "use http://")
    assert fake.paths == []


def test_an_unknown_certificate_is_refused(tmp_path: Path, fake: FakeVllm) -> None:
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    context.wrap_socket(connection, server_side=True)
                except OSError:
                    return

        helper = threading.Thread(target=greet)
        helper.start()
        with pytest.raises(UsageError) as raised:
            connect(fake, tmp_path, vllm_server_base_url=f"https://127.0.0.1:{listener.getsockname()[1]}")
        helper.join()
    line(raised, "CERTIFICATE_VERIFY_FAILED", "SSL_CERT_FILE")


def test_credentials_are_sent_and_never_shown(fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = fake.url.replace("http://", "http://me:se%40cret@") + "/?token=hidden"
    assert Server(address, 1.0).call("/version") == {"version": "0.32.0"}
    assert (
        Server(address, 1.0).target("/server_info?config_format=json") == "/server_info?config_format=json&token=hidden"
    )
    path, headers = fake.requests[-1]
    assert path == "/version?token=hidden"
    assert headers["Authorization"] == f"Basic {base64.b64encode(b'me:se@cret').decode()}"
    fake.hook = lambda path, when: 400
    with pytest.raises(RunError) as raised:
        Server(address, 1.0).call("/v1/models")
    message = line(raised, fake.url)
    assert "cret" not in message and "hidden" not in message
    monkeypatch.setenv("VLLM_API_KEY", "k3y")
    fake.hook = lambda path, when: None
    Server(fake.url, 1.0).call("/version")
    assert fake.requests[-1][1]["Authorization"] == "Bearer k3y"


SERVER = """
import sys, threading
from tests.engines.fake_vllm import FakeVllm
fake = FakeVllm()
print(fake.port, flush=True)
threading.Event().wait()
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    """The fake server in a process of its own, which can be stopped and killed."""
    started = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    with started:
        yield started
        started.kill()


def test_a_stopped_process_is_given_up_and_one_that_goes_on_is_not(
    process: subprocess.Popen[str], fake: FakeVllm, tmp_path: Path
) -> None:
    assert process.stdout is not None
    url = f"http://127.0.0.1:{int(process.stdout.readline())}"
    engine = connect(fake, tmp_path, give_up_after=1.0, vllm_server_base_url=url)
    engine.sync(weights(5))
    process.send_signal(signal.SIGSTOP)  # the kernel still accepts connections
    with pytest.raises(RunError) as raised:
        engine.generate(MANY[:2])
    line(raised, url, "no response", "--resume")
    process.send_signal(signal.SIGCONT)
    check(MANY[:3], engine.generate(MANY[:3]), 5)
    process.send_signal(signal.SIGSTOP)
    threading.Thread(target=lambda: (time.sleep(0.5), process.send_signal(signal.SIGCONT))).start()
    engine.sync(weights(6))
    check(MANY[:3], engine.generate(MANY[:3]), 6)
    process.kill()
    with pytest.raises(RunError) as raised:
        engine.generate(MANY[:2])
    line(raised, url, "no response", "--resume")
