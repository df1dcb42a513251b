"""A fake vLLM server: its endpoints and the ways in which it fails, without a model.

Its weights are one number. A completion is that number, a number made from the prompt's sum, and an end token, so
every rollout shows which weights it comes from. `restart` resets the weights and ends existing connections, as killing
and restarting a real server does.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

END = 1
CONTEXT = 100
Hook = Callable[[str, str], int | None]
"""Called with the path and 'before' or 'after'. May return a status to answer with; -1 hangs up, 0 never answers."""


class FakeVllm:
    """Listens on loopback from its construction on."""

    def __init__(self) -> None:
        self.hook: Hook = lambda path, when: None
        self.life = 0
        self.loaded, self.version = 0, "default"
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.busy = self.most_busy = 0
        self.released = threading.Event()
        self.reported: dict[str, Any] = {"version": "0.32.0"}
        self.card = {"id": "m", "root": "m", "max_model_len": CONTEXT}
        self.settings: dict[str, Any] = {"logprobs_mode": "processed_logprobs", "dtype": "torch.float32"}
        self.backend: dict[str, Any] | None = None
        self.developer = True
        self.garbage: dict[str, bytes] = {}  # by path, what is answered instead of JSON
        self.headers: dict[str, str] = {}  # sent with every answer
        self.drips: set[str] = set()  # paths that are answered a byte at a time, for ever
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.counted: int | None = None  # the tokens at /metrics
        self.restart_after: str | None = None  # a path whose next answer is followed by a restart
        self.lock = threading.Lock()
        self.server = _listen(self, 0)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def restart(self) -> None:
        with self.lock:
            self.life += 1
            self.loaded, self.version = 0, "default"

    def stop(self) -> None:
        """Stop listening."""
        self.released.set()
        self.life += 1
        self.server.shutdown()
        self.server.server_close()

    def come_back(self) -> None:
        self.restart()
        self.server = _listen(self, self.port)

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path == "/version":
            return 200, self.reported
        if path == "/v1/models":
            return 200, {"data": [self.card]}
        if path == "/v1/completions":
            return self.complete(body)
        if path == "/metrics" and self.counted is not None:
            self.garbage[path] = f'vllm:generation_tokens_total{{engine="0"}} {self.counted}\nother 1\n'.encode()
            return 200, None
        if path == "/metrics" or not self.developer:
            return 404, {"detail": "Not Found"}
        if path == "/weight_info":
            return 200, {"weight_version": self.version}
        if path == "/server_info":
            return 200, {"vllm_config": {"model_config": self.settings, "weight_transfer_config": self.backend}}
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            folder = Path(body["kwargs"]["weights_path"])
            found: dict[str, Any] = {}
            for file in folder.glob("*.safetensors"):
                found |= load_file(file)
            self.loaded = int(found["lm_head.weight"].sum())
            return 200, {"results": [None]}
        if path == "/reset_prefix_cache":
            return 200, {"success": True}
        assert path == "/update_weight_version", path
        self.version = body["new_version"]
        return 200, {"success": True}

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        if body["model"] != self.card["id"]:
            return 404, {"error": {"message": "no such model", "code": 404}}
        self.bodies.append(body)
        ids = [self.loaded, sum(body["prompt"]) % 50 + 2, END][: body["max_tokens"]]
        choice = {
            "token_ids": ids,
            "logprobs": {"token_logprobs": [-0.25 * i for i in range(len(ids))]},
            "finish_reason": "stop" if ids[-1] == END else "length",
            "prompt_logprobs": [None, *({str(t): {"logprob": -float(t)}} for t in body["prompt"][1:])],
        }
        return 200, {"choices": [choice] * body["n"]}


def _listen(fake: FakeVllm, port: int) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.life = fake.life

        def do_GET(self) -> None:
            self.respond({})

        def do_POST(self) -> None:
            self.respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def respond(self, body: dict[str, Any]) -> None:
            with fake.lock:
                fake.paths.append(self.path)
                fake.requests.append((self.path, dict(self.headers)))
                fake.busy += 1
                fake.most_busy = max(fake.most_busy, fake.busy)
            status = fake.hook(self.path, "before")
            answer: Any = {"error": {"message": "as asked"}}
            if status is None:
                with fake.lock:
                    dead = self.life != fake.life
                    if not dead:
                        status, answer = fake.answer(self.path.partition("?")[0], body)
                status = -1 if dead else fake.hook(self.path, "after") or status
            if status == 0:
                fake.released.wait()
            with fake.lock:
                fake.busy -= 1
            if status in (0, -1):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            raw = fake.garbage.get(self.path, json.dumps(answer).encode())
            self.send_response(int(status or 500))
            self.send_header("Content-Length", str(len(raw)))
            for name, value in fake.headers.items():
                self.send_header(name, value)
            if self.path == fake.restart_after:
                fake.restart_after = None
                self.send_header("Connection", "close")
                fake.restart()
            self.end_headers()
            if self.path in fake.drips:
                while not fake.released.wait(0.05):
                    self.wfile.write(b" ")
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False
        request_queue_size = 256
        allow_reuse_address = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that disconnected

    server = Quiet(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    return server
