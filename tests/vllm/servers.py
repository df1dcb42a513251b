"""A real vLLM server on loopback for the duration of the tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

START_S = 300.0
"""A server needs 20 s on an idle machine and over 200 s on a busy one."""


def free_port() -> int:
    with socket.socket() as line:
        line.bind(("127.0.0.1", 0))
        return int(line.getsockname()[1])


class VllmServer:
    """A server of the model in `folder`; it may be killed and started again any number of times.

    Its engine has a process of its own, as vLLM has it; with `one_process` it has not, and starts in two thirds of the
    time.
    """

    def __init__(self, folder: Path, context: int, log: Path | None = None, one_process: bool = False) -> None:
        self.folder, self.context, self.one_process = folder, context, one_process
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log or folder / "server.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, wait: bool = True) -> None:
        flags = {
            "--model": str(self.folder),
            "--host": "127.0.0.1",
            "--port": str(self.port),
            "--dtype": "float32",
            "--max-model-len": str(self.context),
            "--max-num-seqs": "64",
            "--logprobs-mode": "processed_logprobs",
        }
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += [part for flag in flags.items() for part in flag]
        # A prompt scheduled in chunks rewinds its request's random generator, which CPU generators cannot do.
        command += ["--skip-tokenizer-init", "--enforce-eager", "--no-enable-chunked-prefill"]
        command += ["--max-num-batched-tokens", "8192"]
        settings = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1"}
        settings |= {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if self.one_process else "1"}
        environment = os.environ | settings
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5):
                    return
            except (urllib.error.URLError, OSError):
                assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
                time.sleep(0.3)
        raise AssertionError(self.log.read_text(errors="replace")[-3000:])

    def kill(self) -> None:
        """Kill the server and its engine process, as kill -9 does."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
