"""The pool's side of a fork server and of a worker. The processes and their protocol are described in worker.py."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import Any

from prepo_cli.rewards.worker import TRACE_SIGNAL, Role
from prepo_cli.terminal import say

MODULE = "prepo_cli.rewards.worker"
BOOT = "import importlib, json, sys; sys.path[:] = json.loads(sys.argv[2]); importlib.import_module(sys.argv[1]).main()"
SERVER_SECONDS, START_SECONDS = 120.0, 120.0
"""For the server to import math-verify and fork, and for a worker to import the user's modules."""
SLOW_SECONDS = 10.0
"""After these it is said that one of them takes long."""
END_SECONDS = 5.0
READ_BYTES = 65536
TRACE_SECONDS, QUIET_SECONDS = 0.5, 0.05
"""A trace starts within the one, and has ended once nothing comes for the other."""


class ServerLost(Exception):
    """The fork server died or does not answer; its workers end with it."""


class ForkServer:
    """A process that forks workers. It is a separate program, since this process has torch's threads and memory."""

    def __init__(self, role: Role) -> None:
        ours, theirs = socket.socketpair()
        path = [entry or os.getcwd() for entry in sys.path]
        # The user's own processes inherit the environment, so sys.path does not travel in PYTHONPATH.
        arguments = [MODULE, json.dumps(path), str(theirs.fileno()), json.dumps(role)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", BOOT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ if role.functions else os.environ | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the run, which stops its workers itself
            )
        self._socket = ours

    def fork(self, descriptors: Sequence[int]) -> int:
        """Start a worker that reads jobs from the first descriptor, answers to the second and prints to the third."""
        self._send(b"fork", descriptors)
        if not select.select([self._socket], [], [], SLOW_SECONDS)[0]:
            say(f"still waiting for the process that forks reward workers, for up to {SERVER_SECONDS:g} s more")
        return self._reply(SERVER_SECONDS)

    def end(self, worker: int) -> int:
        """Kill a worker and its group; returns its exit code, or minus the number of the signal it died of."""
        self._send(b"%d" % worker)
        return self._reply(END_SECONDS)

    def close(self) -> None:
        """End the server with all its workers."""
        self._socket.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        try:
            socket.send_fds(self._socket, [message], descriptors)
        except OSError as error:
            raise ServerLost from error

    def _reply(self, seconds: float) -> int:
        self._socket.settimeout(seconds)
        try:
            return int(self._socket.recv(64))
        except (OSError, ValueError) as error:  # a broken socket, a time-out, or no reply
            raise ServerLost from error


class Worker:
    """A worker process; `queue` holds the numbers of the calls it has not answered yet, the current one first.

    `deadline` is for its start or its current call; a start may take `patience` seconds longer, which is logged.
    """

    def __init__(self, server: ForkServer) -> None:
        """Fork it; raises ServerLost."""
        jobs, self.jobs = os.pipe()
        self.answers, answers = os.pipe()
        self.prints, prints = os.pipe()
        try:
            self.pid = server.fork([jobs, answers, prints])
        except ServerLost:
            self.close()
            raise
        finally:
            for descriptor in (jobs, answers, prints):
                os.close(descriptor)
        for descriptor in (self.jobs, self.answers, self.prints):
            os.set_blocking(descriptor, False)
        self.server = server
        self.queue: deque[int] = deque()
        self.ready: dict[str, list[Any]] | None = None
        self.deadline = monotonic() + min(SLOW_SECONDS, START_SECONDS)
        self.patience = START_SECONDS - SLOW_SECONDS
        self.trace: list[str] = []
        self.unsent = memoryview(b"")
        self._unread = bytearray()

    def write(self) -> bool:
        """Send what the pipe takes of `unsent`; whether it took anything. Raises BrokenPipeError if nobody reads."""
        try:
            count = os.write(self.jobs, self.unsent)
        except BlockingIOError:
            return False
        self.unsent = self.unsent[count:]
        return True

    def read(self) -> list[str] | None:
        """Complete lines received so far; None once the worker has ended."""
        data = _read(self.answers)
        if not data:
            return None if data == b"" else []
        self._unread += data
        if b"\n" not in data:
            return []
        *lines, self._unread = self._unread.split(b"\n")
        return [line.decode("ascii", "replace") for line in lines]

    def read_prints(self) -> bytes | None:
        """Some of what it has printed; b"" once it prints no more, None if there is nothing for now."""
        return _read(self.prints)

    def ask_for_trace(self) -> list[str]:
        """Where it is, in lines by faulthandler, even if it is stuck; nothing from a process that is stopped."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, TRACE_SIGNAL)
        lines: list[str] = []
        pause = TRACE_SECONDS
        while select.select([self.answers], [], [], pause)[0] and (more := self.read()) is not None:
            lines += more
            pause = QUIET_SECONDS
        return lines

    def end(self) -> str:
        """Kill it, close its pipes and say how it ended.

        Raises:
            ServerLost: nobody knows; it ends with its server.
        """
        try:
            return ending(self.server.end(self.pid))
        finally:
            self.close()

    def close(self) -> None:
        """Close the pool's ends of the pipes."""
        for descriptor in (self.jobs, self.answers, self.prints):
            os.close(descriptor)


def ending(code: int) -> str:
    """An exit code in words.

    >>> ending(7), ending(-11)
    ('exit code 7', 'SIGSEGV')
    """
    return f"exit code {code}" if code >= 0 else signal.Signals(-code).name


def _read(descriptor: int) -> bytes | None:
    """What a pipe holds, b'' at its end, None if it holds nothing for now."""
    try:
        return os.read(descriptor, READ_BYTES)
    except BlockingIOError:
        return None
