from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prepo_cli.errors import RunError
from prepo_cli.rewards import pool as pool_module
from prepo_cli.rewards.pool import WorkerPool
from prepo_cli.rewards.verify import Job

ROOT = Path(__file__).parents[2]
HOSTILE = (sys.executable, str(Path(__file__).with_name("hostile.py")))


def jobs(*answers: str) -> list[Job]:
    return [Job(("gold",), answer, "boxed") for answer in answers]


def stat(pid: str) -> list[str]:
    """State, parent and the rest of what the kernel says of a process; nothing if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def children() -> set[str]:
    """Processes whose parent is this one, zombies among them."""
    pids = [entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid for pid in pids if stat(pid)[1:2] == [str(os.getpid())]}


def running(pid: int) -> bool:
    """Whether the process lives; a zombie, which its new parent has yet to reap, does not."""
    return stat(str(pid))[:1] not in ([], ["Z"])


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    monkeypatch.setattr(pool_module, "COMMAND", HOSTILE)
    pool = WorkerPool(2, timeout_s=1.0)
    yield pool
    pool.close()


def test_the_guilty_alone_pay(hostile: WorkerPool) -> None:
    answers = [f"yes {i}" if i % 3 else f"no {i}" for i in range(120)]
    answers[17], answers[60], answers[61], answers[119] = "hang", "die", "hang", "die"
    expected = ["right" if i % 3 else "wrong" for i in range(120)]
    expected[17], expected[60], expected[61], expected[119] = "timeout", "error", "timeout", "error"
    assert hostile.run(jobs(*answers)) == expected
    assert hostile.run(jobs("yes", "no")) == ["right", "wrong"], "the pool lives on"


def test_an_idle_worker_that_dies_costs_nothing(hostile: WorkerPool) -> None:
    assert hostile.run(jobs("yes")) == ["right"]
    for worker in hostile._workers:
        os.kill(worker.process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, worker.process.pid, os.WEXITED | os.WNOWAIT)
    assert hostile.run(jobs(*["yes"] * 40)) == ["right"] * 40


def test_an_abandoned_call_leaves_no_answers_behind(hostile: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkerPool, "_handle_line", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hostile.run(jobs(*["no"] * 20))
    assert hostile.run(jobs(*["yes"] * 20)) == ["right"] * 20


def test_it_works_off_the_main_thread(hostile: WorkerPool) -> None:
    outcomes: list[str] = []
    thread = threading.Thread(target=lambda: outcomes.extend(hostile.run(jobs("yes", "hang", "no"))))
    thread.start()
    thread.join()
    assert outcomes == ["right", "timeout", "wrong"]


def test_no_job_starts_no_worker_and_closing_leaves_none(hostile: WorkerPool) -> None:
    before = children()
    assert hostile.run([]) == []
    assert children() == before
    hostile.run(jobs("yes", "hang"))
    hostile.close()
    assert children() == before


def test_workers_that_can_not_start_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "COMMAND", (sys.executable, "-c", "raise SystemExit(3)"))
    with pytest.raises(RunError, match="exit code 3"):
        WorkerPool(1, 1.0).run(jobs("yes"))


def test_a_killed_parent_leaves_no_hanging_worker(tmp_path: Path) -> None:
    """The parent is killed while a job hangs: the kernel's timer ends the worker."""
    script = (
        "import sys, threading, time\n"
        "from prepo_cli.rewards import pool\n"
        "from prepo_cli.rewards.verify import Job\n"
        f"pool.COMMAND = {HOSTILE!r}\n"
        "p = pool.WorkerPool(1, 0.1)\n"
        "p.run([Job(('1',), 'yes', 'boxed')])\n"
        "print(p._workers[0].process.pid, flush=True)\n"
        "p.timeout_s = 3600\n"
        "p.run([Job(('1',), 'hang', 'boxed')])\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    time.sleep(0.3)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert running(worker), "the worker should hang for now"
    deadline = time.monotonic() + 10
    while running(worker) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running(worker)


def test_real_workers_do_without_torch_and_survive_extremes() -> None:
    completions = ["9^{9^{9^{9}}}", "{" * 900 + "1" + "}" * 900, "(" * 900, "\\frac{" * 300, "1/2", "\\sqrt{2}", "0.5"]
    started = time.monotonic()
    pool = WorkerPool(2, timeout_s=2.0)
    try:
        outcomes = pool.run([Job(("0.5",), completion, "boxed") for completion in completions])
        assert [outcome == "right" for outcome in outcomes] == [False, False, False, False, True, False, True]
        assert time.monotonic() - started < 30
        for worker in pool._workers:
            assert "libtorch" not in Path(f"/proc/{worker.process.pid}/maps").read_text(encoding="utf-8")
    finally:
        pool.close()
