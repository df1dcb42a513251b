"""Worker processes for the `math` reward, with a hard time-out for each job.

math-verify's own time-outs use signals, which fail off the main thread and can't interrupt a long computation in C;
here a hanging worker is killed and replaced, and only the job it was running is lost. Workers are separate programs:
not forked, since the parent holds torch's threads, and not spawned by multiprocessing, which would import the caller's
main module again and with it torch. POSIX only.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Literal

from prepo_cli.errors import RunError
from prepo_cli.rewards.verify import Job

Outcome = Literal["right", "wrong", "timeout", "error"]
MAX_CHUNK = 32
CHUNKS_PER_WORKER = 4
START_SECONDS = 120.0
COMMAND = (sys.executable, "-P", "-m", "prepo_cli.rewards.worker")


class WorkerPool:
    """Up to `size` workers, started when first needed; `timeout_s` limits a single job."""

    def __init__(self, size: int, timeout_s: float) -> None:
        self.size, self.timeout_s = size, timeout_s
        self._workers: list[_Worker] = []
        self._selector = selectors.DefaultSelector()
        self._stop = weakref.finalize(self, _kill_all, self._workers, os.getpid())

    def run(self, jobs: Sequence[Job]) -> list[Outcome]:
        """The outcome of each job; 'timeout' if it took too long, 'error' if it killed its worker.

        Raises:
            RunError: the workers do not start.
        """
        outcomes: list[Outcome] = ["wrong"] * len(jobs)
        size = max(1, min(MAX_CHUNK, len(jobs) // (self.size * CHUNKS_PER_WORKER)))
        waiting = deque(deque(range(start, min(start + size, len(jobs)))) for start in range(0, len(jobs), size))
        try:
            while waiting or any(worker.queue for worker in self._workers):
                self._hand_out(jobs, waiting)
                self._collect(outcomes, waiting)
        except BaseException:
            self.close()  # late answers to an abandoned call would be taken for answers to the next one
            raise
        return outcomes

    def close(self) -> None:
        """Stop all workers; the next `run` starts new ones."""
        for worker in list(self._workers):
            self._drop(worker)

    def _hand_out(self, jobs: Sequence[Job], waiting: deque[deque[int]]) -> None:
        while len(self._workers) < min(self.size, len(waiting)):
            self._add_worker()
        for worker in list(self._workers):
            if worker.ready and not worker.queue and waiting:
                chunk = waiting.popleft()
                try:
                    worker.send([jobs[i] for i in chunk])
                except BrokenPipeError:  # it died while idle, not because of these jobs
                    waiting.appendleft(chunk)
                    self._drop(worker)
                else:
                    worker.queue = chunk
                    worker.deadline = monotonic() + self.timeout_s

    def _add_worker(self) -> None:
        worker = _Worker(self.timeout_s)
        self._workers.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)

    def _collect(self, outcomes: list[Outcome], waiting: deque[deque[int]]) -> None:
        busy = [worker for worker in self._workers if worker.queue or not worker.ready]
        if not busy:
            return
        pause = max(0.0, min(worker.deadline for worker in busy) - monotonic())
        heard = [key.data for key, _ in self._selector.select(pause)]
        for worker in heard:
            lines = worker.read()
            for line in lines or ():
                self._handle_line(worker, line, outcomes)
            if lines is None:
                self._lose(worker, "error", outcomes, waiting)
        for worker in busy:
            if worker not in heard and monotonic() >= worker.deadline:
                self._lose(worker, "timeout", outcomes, waiting)

    def _handle_line(self, worker: _Worker, line: str, outcomes: list[Outcome]) -> None:
        if line.startswith("!"):
            raise RunError(f"the math reward's workers failed to start: {line[1:]}")
        if line == "ready":
            worker.ready = True
        else:
            outcomes[worker.queue.popleft()] = "right" if line == "1" else "wrong"
        worker.deadline = monotonic() + self.timeout_s

    def _lose(self, worker: _Worker, outcome: Outcome, outcomes: list[Outcome], waiting: deque[deque[int]]) -> None:
        """Stop the worker, record the outcome of its current job and put the rest of its chunk back."""
        self._drop(worker)
        if not worker.ready:
            raise RunError(f"the math reward's workers failed to start (exit code {worker.process.returncode})")
        if worker.queue:
            outcomes[worker.queue.popleft()] = outcome
        if worker.queue:
            waiting.appendleft(worker.queue)
            worker.queue = deque()

    def _drop(self, worker: _Worker) -> None:
        self._selector.unregister(worker.answers)
        self._workers.remove(worker)
        worker.kill()


class _Worker:
    """One process; `queue` holds the numbers of the jobs it has not answered yet, the current one first."""

    def __init__(self, timeout_s: float) -> None:
        root = str(Path(__file__).parents[2])
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([root, *(entry for entry in sys.path if entry)]),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [*COMMAND, str(timeout_s)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,  # Ctrl-C is for the run, which stops its workers itself
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.jobs, self.answers = self.process.stdin, self.process.stdout
        self.queue: deque[int] = deque()
        self.ready = False
        self.deadline = monotonic() + START_SECONDS
        self._unread = b""

    def send(self, jobs: Sequence[Job]) -> None:
        self.jobs.write(json.dumps(jobs).encode("ascii") + b"\n")
        self.jobs.flush()

    def read(self) -> list[str] | None:
        """Complete lines received so far; None once the process has ended."""
        data = os.read(self.answers.fileno(), 65536)
        if not data:
            return None
        *lines, self._unread = (self._unread + data).split(b"\n")
        return [line.decode("ascii") for line in lines]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.answers.close()
        try:
            self.jobs.close()
        except BrokenPipeError:  # nobody reads what was left in the buffer
            return


def _kill_all(workers: list[_Worker], owner: int) -> None:
    if os.getpid() == owner:  # a forked child that exits must not end its parent's workers
        for worker in workers:
            worker.kill()
