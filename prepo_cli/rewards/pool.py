"""Worker processes with a hard time-out for every call.

Timeouts inside a library or the user's code rely on signals, which fail off the main thread and can't interrupt a long
computation in C; here a worker that hangs is killed and replaced, and only the call it was busy with is lost. Nothing
is pickled, and no write or read blocks, so that calls and answers may be of any size. POSIX only.
"""

from __future__ import annotations

import json
import os
import selectors
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from time import monotonic
from typing import Any, Literal, NamedTuple

from prepo_cli.errors import RunError
from prepo_cli.rewards.forkserver import ForkServer, ServerLost, Worker
from prepo_cli.rewards.worker import Role
from prepo_cli.terminal import say
from strategies import places

MAX_CHUNK = 32
CHUNKS_PER_WORKER = 4
STARTS = 3
"""Workers that may fail to start in a row."""
HEARTBEAT_S = 0.5
"""How soon a run notices that it is to stop."""
SERVER_LOST = "the process that forks them died or hangs"
CURE = "; check the machine's memory and process limit"
Waiting = deque[deque[int]]
"""Chunks of calls, by number."""


class Call(NamedTuple):
    """What a worker is asked, as JSON, and how many seconds it may take."""

    payload: str
    seconds: float


@dataclass(frozen=True)
class Lost:
    """No answer: the call took too long, or its worker died. `how` it ended and `place`, if known, are for people."""

    kind: Literal["timeout", "died"]
    how: str
    place: str = ""


Outcome = dict[str, Any] | Lost


class StartError(RunError):
    """No worker becomes ready."""


class WorkerPool:
    """Up to `size` workers of a role, started when first needed; `hear` gets what they print."""

    def __init__(self, role: Role, size: int, what: str, hear: Callable[[bytes], None] = lambda text: None) -> None:
        self.role, self.size, self.what, self.hear = role, size, what, hear
        self._workers: list[Worker] = []
        self._servers: list[ForkServer] = []
        self._selector = selectors.PollSelector()  # which holds no descriptor
        self._failed_starts = 0
        self._stop = weakref.finalize(self, _stop_all, self._servers, os.getpid())

    def start(self) -> dict[str, list[Any]]:
        """Start a worker unless there is one; returns what it tells of its functions.

        Raises:
            StartError: it does not get ready.
        """
        for _ in self._until(
            lambda: bool(self._workers) and self._workers[0].ready is not None, [], deque(), 1, Event()
        ):
            pass
        return self._workers[0].ready or {}

    def run(
        self, calls: Sequence[Call], width: int | None = None, stopped: Event | None = None
    ) -> Generator[tuple[int, Outcome], None, None]:
        """The outcome of each call with its number, as they come; at most `width` workers take part.

        Closing the generator before its end stops the workers; in another thread, `stopped` does so.

        Raises:
            StartError: the workers do not start.
        """
        width = min(width or self.size, self.size)
        size = max(1, min(MAX_CHUNK, len(calls) // (width * CHUNKS_PER_WORKER)))
        waiting = deque(deque(range(start, min(start + size, len(calls)))) for start in range(0, len(calls), size))
        ended = stopped or Event()
        return self._until(
            lambda: not waiting and not any(w.queue for w in self._workers), calls, waiting, width, ended
        )

    def close(self) -> None:
        """Stop all workers; the next call starts new ones."""
        while self._workers:
            worker = self._workers[0]
            self._listen(worker)
            self._forget(worker)
            worker.close()
        _stop_all(self._servers, os.getpid())

    def _until(
        self, done: Callable[[], bool], calls: Sequence[Call], waiting: Waiting, width: int, stopped: Event
    ) -> Generator[tuple[int, Outcome], None, None]:
        try:
            while not done():
                if stopped.is_set():
                    self.close()
                    return
                self._hand_out(calls, waiting, width)
                yield from self._collect(calls, waiting)
        except BaseException:
            self.close()  # late answers to an abandoned call would be taken for answers to the next one
            raise

    def _hand_out(self, calls: Sequence[Call], waiting: Waiting, width: int) -> None:
        while len(self._workers) < min(width, max(1, len(waiting))):
            self._add_worker(waiting)
        for worker in self._workers[:width]:
            if worker.ready is not None and not worker.queue and waiting:
                chunk = waiting.popleft()
                worker.unsent = memoryview(f"[{','.join(calls[i].payload for i in chunk)}]\n".encode("ascii"))
                try:
                    worker.write()
                except BrokenPipeError:  # it died while idle, not because of these calls
                    waiting.appendleft(chunk)
                    self._drop(worker, waiting)
                    return
                worker.queue = chunk
                worker.deadline = monotonic() + calls[chunk[0]].seconds
                if worker.unsent:
                    self._selector.register(worker.jobs, selectors.EVENT_WRITE, worker)

    def _add_worker(self, waiting: Waiting) -> None:
        try:
            if not self._servers:
                self._servers.append(ForkServer(self.role))
            worker = Worker(self._servers[0])
        except ServerLost:
            self._lose_server(waiting)
            return
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        self._selector.register(worker.prints, selectors.EVENT_READ, worker)

    def _collect(self, calls: Sequence[Call], waiting: Waiting) -> Iterator[tuple[int, Outcome]]:
        busy = [worker for worker in self._workers if worker.queue or worker.ready is None]
        pause = min((worker.deadline for worker in busy), default=0.0) - monotonic()
        heard = set()
        for key, _ in self._selector.select(min(max(0.0, pause), HEARTBEAT_S)):
            worker: Worker = key.data
            if worker not in self._workers:  # lost a moment ago
                continue
            if key.fd == worker.prints:
                self._listen(worker)
            elif key.fd == worker.jobs:
                self._send(worker, calls)
            else:
                heard.add(worker)
                lines = worker.read()
                for line in lines or ():
                    yield from self._handle_line(worker, line, calls)
                if lines is None:
                    yield from self._lose(worker, "died", waiting)
        for worker in busy:
            if worker not in self._workers or worker in heard or monotonic() < worker.deadline:
                continue
            if worker.ready is None and worker.patience > 0:
                say(f"{self.what}: still waiting for a worker to start, for up to {worker.patience:g} s more")
                worker.deadline, worker.patience = monotonic() + worker.patience, 0.0
            else:
                worker.trace += worker.ask_for_trace()
                yield from self._lose(worker, "timeout", waiting)

    def _listen(self, worker: Worker) -> None:
        text = worker.read_prints()
        if text:
            self.hear(text)
        elif text == b"" and worker.prints in self._selector.get_map():
            self._selector.unregister(worker.prints)

    def _send(self, worker: Worker, calls: Sequence[Call]) -> None:
        try:
            if worker.write():  # as long as it reads, the call has not begun
                worker.deadline = monotonic() + calls[worker.queue[0]].seconds
        except BrokenPipeError:  # its death is heard of through the other pipe
            worker.unsent = memoryview(b"")
        if not worker.unsent:
            self._selector.unregister(worker.jobs)

    def _handle_line(self, worker: Worker, line: str, calls: Sequence[Call]) -> Iterator[tuple[int, Outcome]]:
        if not line.startswith("{"):
            worker.trace.append(line)
            return
        message = json.loads(line)
        if "failed" in message:
            raise StartError(message["failed"])
        if worker.ready is None:
            worker.ready, self._failed_starts = message["ready"], 0
        else:
            yield worker.queue.popleft(), message
            if worker.queue:
                worker.deadline = monotonic() + calls[worker.queue[0]].seconds

    def _lose(self, worker: Worker, kind: Literal["timeout", "died"], waiting: Waiting) -> Iterator[tuple[int, Lost]]:
        """Stop the worker, tell of its current call, and put the rest of its chunk back."""
        self._listen(worker)
        place = places.of_trace(worker.trace)
        how = self._drop(worker, waiting)
        if worker.ready is None and how is not None:
            late = "a worker did not start in time" if kind == "timeout" else f"a worker exited with {how}"
            self._fail_start(late + (f" at {place}" if place else ""))
        if worker.queue:
            number = worker.queue.popleft()
            if worker.queue:
                waiting.appendleft(worker.queue)
            yield number, Lost(kind, how or SERVER_LOST, place)

    def _drop(self, worker: Worker, waiting: Waiting) -> str | None:
        """End a worker and say how it ended; None if that is lost with the server, and all other workers with it."""
        self._forget(worker)
        try:
            return worker.end()
        except ServerLost:
            self._lose_server(waiting)
            return None

    def _lose_server(self, waiting: Waiting) -> None:
        for worker in list(self._workers):
            self._forget(worker)
            worker.close()
            if worker.queue:
                waiting.appendleft(worker.queue)
        _stop_all(self._servers, os.getpid())
        self._fail_start(SERVER_LOST)

    def _fail_start(self, why: str) -> None:
        self._failed_starts += 1
        if self._failed_starts >= STARTS:
            cure = CURE if why == SERVER_LOST else ""
            raise StartError(f"{self.what}: workers fail to start ({why}, {STARTS} times in a row){cure}")

    def _forget(self, worker: Worker) -> None:
        self._workers.remove(worker)
        for descriptor in (worker.answers, worker.prints, worker.jobs):
            if descriptor in self._selector.get_map():
                self._selector.unregister(descriptor)


def _stop_all(servers: list[ForkServer], owner: int) -> None:
    if os.getpid() == owner:  # a forked child that exits must not end its parent's workers
        while servers:
            servers.pop().close()
