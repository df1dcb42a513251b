"""math-verify's comparisons, made in worker processes while completions are still being generated.

What one finds does not depend on when it is made, with one exception: a comparison that is lost, as one that takes too
long beside generation, is made once more when its outcome is asked for, and counts as lost only then.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

from prepo_cli.rewards.pool import Call, Lost, Outcome, WorkerPool
from prepo_cli.rewards.verify import Job


class MathChecks:
    """Comparisons by a pool's workers; a thread of its own waits for them."""

    def __init__(self, pool: WorkerPool, timeout_s: float) -> None:
        self._pool, self._timeout_s = pool, timeout_s
        self._thread = _new_thread()
        self._stopped = Event()
        self._running: Future[None] | None = None
        self._begun: set[Job] = set()
        self._waiting: deque[Job] = deque()
        self._found: dict[Job, Outcome] = {}

    def begin(self, job: Job) -> None:
        """Have a comparison made, unless it has begun already."""
        if job not in self._begun:
            self._begun.add(job)
            self._waiting.append(job)
            if self._running is None or self._running.done():
                self._running = self._thread.submit(self._work)

    def outcomes(self, jobs: Collection[Job]) -> dict[Job, Outcome]:
        """The outcome of each job; those that have not begun, or were lost, are run now. All jobs are forgotten.

        Raises:
            StartError: the workers do not start.
        """
        if self._running is not None:
            running, self._running = self._running, None
            running.result()
            self._work()  # what came after the thread had looked for the last time
        found: dict[Job, Outcome] = {job: o for job, o in self._found.items() if not isinstance(o, Lost)}
        missing = [job for job in jobs if job not in found]
        found.update((missing[number], outcome) for number, outcome in self._pool.run(self._calls(missing)))
        self._begun.clear()
        self._found.clear()
        return found

    def close(self) -> None:
        """Give up what has begun, within `HEARTBEAT_S` seconds."""
        self._stopped.set()
        self._thread.shutdown()
        self._thread, self._running = _new_thread(), None
        self._stopped.clear()
        for jobs in (self._begun, self._waiting, self._found):
            jobs.clear()

    def _work(self) -> None:
        while self._waiting and not self._stopped.is_set():
            jobs = [self._waiting.popleft() for _ in range(len(self._waiting))]
            for number, outcome in self._pool.run(self._calls(jobs), stopped=self._stopped):
                self._found[jobs[number]] = outcome

    def _calls(self, jobs: Sequence[Job]) -> list[Call]:
        return [Call(json.dumps(job), self._timeout_s) for job in jobs]


def _new_thread() -> ThreadPoolExecutor:
    """It starts with the first job."""
    return ThreadPoolExecutor(1, thread_name_prefix="math")
