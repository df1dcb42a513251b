"""Workers of the math reward: hostile jobs, and processes that are killed or stopped at any time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prepo_cli.rewards import forkserver
from prepo_cli.rewards.pool import Call, Lost, StartError, WorkerPool
from prepo_cli.rewards.verify import Job
from prepo_cli.rewards.worker import Role
from tests.rewards.processes import children, eventually, running

ROOT = Path(__file__).parents[2]
MATH = Role([], 4 * 2**30)


def outcomes(pool: WorkerPool, *answers: str, seconds: float = 1.0) -> list[str]:
    """What becomes of jobs with these answers, in their order."""
    calls = [Call(json.dumps(Job(("gold",), answer, "boxed")), seconds) for answer in answers]
    found = dict(pool.run(calls))
    assert sorted(found) == list(range(len(calls)))
    return [
        o.kind if isinstance(o, Lost) else {1.0: "right", 0.0: "wrong"}[o["values"][0]]
        for _, o in sorted(found.items())
    ]


@pytest.fixture
def hostile(monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkerPool]:
    monkeypatch.setattr(forkserver, "MODULE", "tests.rewards.hostile")
    pool = WorkerPool(MATH, 2, "reward 'math'")
    yield pool
    pool.close()


def test_the_guilty_alone_pay(hostile: WorkerPool) -> None:
    answers = [f"yes {i}" if i % 3 else f"no {i}" for i in range(120)]
    answers[17], answers[60], answers[61], answers[119] = "hang", "die", "hang", "die"
    expected = ["right" if i % 3 else "wrong" for i in range(120)]
    expected[17], expected[60], expected[61], expected[119] = "timeout", "died", "timeout", "died"
    assert outcomes(hostile, *answers) == expected
    assert outcomes(hostile, "yes", "no") == ["right", "wrong"], "the pool lives on"


def test_an_idle_worker_that_dies_costs_nothing(hostile: WorkerPool) -> None:
    assert outcomes(hostile, "yes") == ["right"]
    for worker in hostile._workers:
        os.kill(worker.pid, signal.SIGKILL)
        assert eventually(lambda pid=worker.pid: not running(pid))  # type: ignore[misc]
    assert outcomes(hostile, *["yes"] * 40) == ["right"] * 40


def test_an_idle_server_that_dies_costs_nothing(hostile: WorkerPool) -> None:
    assert outcomes(hostile, "yes") == ["right"]
    os.kill(hostile._servers[0]._process.pid, signal.SIGKILL)
    assert eventually(lambda: not any(running(worker.pid) for worker in hostile._workers))
    assert outcomes(hostile, *["yes"] * 40) == ["right"] * 40


def test_a_call_that_is_abandoned_leaves_no_answers_behind(hostile: WorkerPool) -> None:
    answers = hostile.run([Call(json.dumps(Job(("gold",), "no", "boxed")), 1.0)] * 20)
    next(answers)
    answers.close()
    assert outcomes(hostile, *["yes"] * 20) == ["right"] * 20


def test_it_works_off_the_main_thread(hostile: WorkerPool) -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.extend(outcomes(hostile, "yes", "hang", "no")))
    thread.start()
    thread.join()
    assert found == ["right", "timeout", "wrong"]


def test_closing_leaves_neither_processes_nor_descriptors(hostile: WorkerPool) -> None:
    def descriptors() -> set[str]:
        return set(os.listdir("/proc/self/fd"))

    assert outcomes(hostile) == []
    assert not hostile._servers, "no job needs no process"
    before = children(), descriptors()
    outcomes(hostile, "yes", "hang", "die", "yes", seconds=0.3)
    workers = [worker.pid for worker in hostile._workers]
    hostile.close()
    assert (children(), descriptors()) == before
    assert not any(map(running, workers))


@pytest.fixture
def strikes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder whose files strike processes that start."""
    monkeypatch.setenv("STRIKES", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("victim", ["server", "worker"])
@pytest.mark.parametrize(("number", "count"), [(signal.SIGKILL, 2), (signal.SIGSTOP, 1)])
def test_a_process_killed_or_stopped_while_it_starts_is_replaced(
    victim: str,
    number: signal.Signals,
    count: int,
    strikes: Path,
    hostile: WorkerPool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if number == signal.SIGSTOP:
        monkeypatch.setattr(forkserver, "SLOW_SECONDS", 0.5)
        monkeypatch.setattr(forkserver, "SERVER_SECONDS", 3.0)
        monkeypatch.setattr(forkserver, "START_SECONDS", 1.0)
        monkeypatch.setattr(forkserver, "END_SECONDS", 0.5)
    for i in range(count):
        (strikes / f"{victim}-{number.value}-{i}").touch()
    assert outcomes(hostile, "yes", seconds=60.0) == ["right"]
    assert not list(strikes.iterdir())
    if number == signal.SIGSTOP:
        what = (
            "the process that forks reward workers, for up to 3"
            if victim == "server"
            else "a worker to start, for up to 0.5"
        )
        assert f"waiting for {what} s more" in capsys.readouterr().err


def test_workers_that_never_start_are_told(strikes: Path, hostile: WorkerPool) -> None:
    for i in range(4):
        (strikes / f"worker-{signal.SIGKILL.value}-{i}").touch()
    with pytest.raises(
        StartError, match=r"^reward 'math': workers fail to start \(a worker exited with SIGKILL, 3 times"
    ):
        outcomes(hostile, "yes")
    assert not hostile._workers and not hostile._servers


@pytest.mark.parametrize(("number", "outcome"), [(signal.SIGKILL, "died"), (signal.SIGSTOP, "timeout")])
def test_a_worker_killed_or_stopped_at_work_costs_one_job(
    number: signal.Signals, outcome: str, hostile: WorkerPool
) -> None:
    assert outcomes(hostile, "yes") == ["right"]
    striker = threading.Timer(0.2, os.kill, (hostile._workers[0].pid, number))
    striker.start()
    assert outcomes(hostile, "hang", "yes", seconds=2.0) == [outcome, "right"]
    striker.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_server_killed_or_stopped_at_work_costs_one_job(
    number: signal.Signals, hostile: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forkserver, "END_SECONDS", 0.5)
    assert outcomes(hostile, "yes") == ["right"]
    striker = threading.Timer(0.2, os.kill, (hostile._servers[0]._process.pid, number))
    striker.start()
    found = outcomes(hostile, "hang", "yes", seconds=1.0)
    assert found[0] in ("died", "timeout") and found[1] == "right"
    striker.join()


def test_a_killed_parent_leaves_no_process(tmp_path: Path) -> None:
    script = (
        "import json\n"
        "from prepo_cli.rewards import forkserver, pool, verify, worker\n"
        "forkserver.MODULE = 'tests.rewards.hostile'\n"
        "p = pool.WorkerPool(worker.Role([], 2**32), 1, 'math')\n"
        "p.start()\n"
        "print(p._servers[0]._process.pid, p._workers[0].pid, flush=True)\n"
        "next(p.run([pool.Call(json.dumps(verify.Job(('1',), 'hang', 'boxed')), 3600)]))\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    server, worker = map(int, parent.stdout.readline().split())
    time.sleep(0.2)
    assert running(server) and running(worker)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert eventually(lambda: not running(server) and not running(worker))


def test_real_workers_do_without_torch_and_survive_extremes() -> None:
    answers = ["1/2", "(" * 900, "9^{9^{9^{9}}}", "\\sqrt{2}", "0.5"]
    pool = WorkerPool(MATH, 2, "reward 'math'")
    try:
        calls = [
            Call(json.dumps(Job(("0.5",), answer, "boxed")), 2.0 if "((" in answer else 60.0) for answer in answers
        ]
        found = [outcome for _, outcome in sorted(pool.run(calls))]
        assert [o == {"values": [1.0]} for o in found] == [True, False, False, False, True]
        for worker in pool._workers:
            assert "libtorch" not in Path(f"/proc/{worker.pid}/maps").read_text(encoding="utf-8")
    finally:
        pool.close()
