"""What `prepo watch` knows of a run as its folder changes."""

from __future__ import annotations

import gzip
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from prepo_cli.errors import UsageError
from prepo_cli.lock import locked
from prepo_cli.ownership import LOCK
from prepo_cli.watch.run import WatchedRun
from prepo_cli.watch.tail import Tail
from tests.watch.folders import finish, metrics, roll_out, started, train


def test_a_tail_reads_what_is_added_and_nothing_twice(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    read: list[int] = []

    def parse(line: dict[str, int]) -> int:
        read.append(line["step"])
        return line["step"]

    tail = Tail(path, parse)
    tail.refresh()
    assert tail.rows == []
    path.write_text('{"step": 0}\n{"step": 1}\n{"st')
    tail.refresh()
    assert tail.rows == [0, 1]
    with path.open("a") as file:
        file.write('ep": 2}\nbroken\n[]\n{"other": 1}\n{"step": 3}\n{"step": 4')
    tail.refresh()
    tail.refresh()
    assert tail.rows == read == [0, 1, 2, 3]


def test_a_tail_starts_over_where_a_file_was_replaced_or_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0}\n{"step": 1}\n')
    tail = Tail(path, lambda line: line["step"])
    tail.refresh()
    other = tmp_path / "other"
    other.write_text('{"step": 7}\n{"step": 8}\n{"step": 9}\n')
    other.replace(path)
    tail.refresh()
    assert tail.rows == [7, 8, 9]
    os.truncate(path, 12)
    tail.refresh()
    assert tail.rows == [7]
    path.unlink()
    tail.refresh()
    assert tail.rows == []
    path.with_name("metrics.jsonl.gz").write_bytes(gzip.compress(b'{"step": 5}\n'))
    tail.refresh()
    assert tail.rows == [5]


def test_a_run_from_its_start_to_its_end(tmp_path: Path) -> None:
    folder = started(tmp_path)
    with locked(tmp_path / LOCK, tmp_path):
        run = WatchedRun(tmp_path)
        assert (run.state, run.steps, run.share, run.seconds_left) == ("running", 0, 0.0, None)
        assert run.holder is not None and run.holder.pid == os.getpid()
        train(folder, 0, 30)
        roll_out(folder, 29, "one", "two", "three", "four", "five")
        run.refresh()
        assert (run.state, run.steps, run.share) == ("running", 30, 0.6)
        assert run.seconds_left == pytest.approx(20 * 0.5)
        assert [accuracy.step for accuracy in run.accuracies] == [10, 20, 30]
        assert run.columns["reward"].tolist() == [step / 100 for step in range(30)]
        assert set(run.columns["rollouts"]) == {8}
        assert set(run.columns["tokens"]) == {120}
        assert set(run.columns["tokens_per_second"].round(6)) == {200}
        assert [completion.text for completion in run.completions] == ["one", "three", "five"]
        assert run.completions_step == 30
        train(folder, 30, 50)
        roll_out(folder, 49, "last")
        finish(folder, 50)
        run.refresh()
        assert (run.state, run.steps, run.share, run.seconds_left) == ("running", 50, 1.0, 0.0)
    run.refresh()
    assert (run.state, run.holder) == ("finished", None)
    assert [completion.text for completion in run.completions] == ["last"]


def test_a_run_that_resumes_drops_what_it_will_take_again(tmp_path: Path) -> None:
    folder = started(tmp_path)
    train(folder, 0, 25)
    run = WatchedRun(tmp_path)
    assert (run.state, run.steps) == ("stopped", 25)
    folder.truncate(20, finished=False)
    train(folder, 20, 22)
    run.refresh()
    assert run.steps == 22
    assert run.columns["step"].tolist() == list(range(22))
    finish(folder, 22)
    run.refresh()
    assert run.state == "finished"
    train(folder, 22, 23)  # extended beyond its summary, then interrupted
    run.refresh()
    assert run.state == "stopped"


def holder(path: Path, pid: int, host: str) -> None:
    started_at = psutil.Process(pid).create_time() if psutil.pid_exists(pid) else 0.0
    content = {"pid": pid, "host": host, "started": started_at, "since": "noon", "command": "prepo train"}
    (path / LOCK).write_text(json.dumps(content))


def test_who_holds_the_lock_decides_whether_it_runs(tmp_path: Path) -> None:
    started(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder(tmp_path, ended.pid, socket.gethostname())
    assert WatchedRun(tmp_path).state == "stopped"
    holder(tmp_path, os.getpid(), socket.gethostname())
    assert WatchedRun(tmp_path).state == "running"
    holder(tmp_path, ended.pid, "another-machine")
    assert WatchedRun(tmp_path).state == "running"


def test_limits_on_cost(tmp_path: Path) -> None:
    folder = started(tmp_path, **{"training.total_steps": None, "training.max_tokens": 1200})
    train(folder, 0, 5)
    run = WatchedRun(tmp_path)
    assert run.share == pytest.approx(0.5)
    assert run.seconds_left == pytest.approx(2.5)


def test_nulls_missing_metrics_and_damaged_rollouts(tmp_path: Path) -> None:
    folder = started(tmp_path)
    folder.append_metrics(metrics(0) | {"reward": float("nan")})
    folder.append_metrics({"step": 1})
    (folder.rollouts / "step_000001.parquet").write_bytes(b"PAR1")
    run = WatchedRun(tmp_path)
    assert (run.steps, run.completions, run.seconds_left) == (2, [], None)
    assert run.columns["tokens"].shape == (2,)


def test_no_run(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UsageError, match="is not a run folder; pass the output folder of prepo train"):
            WatchedRun(path)
