"""The user's functions in worker processes: all that user code can do to a run, and what the run makes of it."""

from __future__ import annotations

import datetime
import math
import os
import re
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prepo_cli.errors import RunError, UsageError
from prepo_cli.rewards.calls import LARGEST
from prepo_cli.rewards.judge import Judge, Scores
from prepo_cli.sections import RewardConfig
from tests.rewards.processes import children, eventually, running

ROOT = Path(__file__).parents[2]
FAULTS = {
    "exit": r"failed at tests/rewards/unruly.py:\d+: SystemExit: 0",
    "raise": r"failed at tests/rewards/unruly.py:\d+: KeyError: 'gold'",
    "interrupt": r"failed at tests/rewards/unruly.py:\d+: KeyboardInterrupt",
    "stop": r"failed at tests/rewards/unruly.py:\d+: Stop",
    "eat": r"failed at tests/rewards/unruly.py:\d+: MemoryError",
    "os._exit": r"ended its process with exit code 0",
    "abort": r"ended its process with SIGABRT at tests/rewards/unruly.py:\d+",
    "crash": r"ended its process with SIGSEGV at tests/rewards/unruly.py:\d+",
    "kill": r"ended its process with SIGKILL, possibly out of memory",
    "close": r"ended its process with",
    "kill the parent": r"ended its process with",
    "nan": r"returned nan \(tests/rewards/unruly.py:\d+\); a reward is None or a number from -1e9 to 1e9",
    "sleep": r"took longer than [\d.]+ s for .*completions? \(stuck at tests/rewards/unruly.py:\d+\)",
    "stop the process": r"took longer than [\d.]+ s for .*completions?; raise rewards.\w*timeout_s, or",
}
SLOW = ("sleep", "stop the process")


@contextmanager
def judging(name: str, module: str = "tests.rewards.unruly", **options: Any) -> Iterator[Judge]:
    options = {"workers": 1, **options}
    with Judge(RewardConfig(functions=[f"{module}:{name}"], **options)) as judge:
        yield judge


def judged(judge: Judge, completions: Sequence[str], **columns: Any) -> Scores:
    return judge(["q"] * len(completions), completions, columns)


def values(scores: Scores) -> list[float]:
    [found] = scores.by_function.values()
    return list(found)


@pytest.mark.parametrize("kind", ["batch", "single"])
def test_all_that_fails_is_named_with_its_place_and_stops_the_run(kind: str) -> None:
    with judging(kind) as judge:
        for order, message in FAULTS.items():
            if order not in SLOW:
                with pytest.raises(RunError, match=rf"^reward 'tests.rewards.unruly:{kind}' {message}"):
                    judged(judge, ["fine", order, "fine"])


@pytest.mark.parametrize("order", SLOW)
@pytest.mark.parametrize("kind", ["batch", "single"])
def test_what_takes_too_long_is_named_too(order: str, kind: str) -> None:
    with judging(kind, timeout_s=0.3, batch_timeout_s=0.6) as judge, pytest.raises(RunError) as error:
        judged(judge, [order, "fine", "fine"])
    assert re.search(FAULTS[order], str(error.value))
    setting = "timeout_s" if kind == "single" else "batch_timeout_s"
    assert f"; raise rewards.{setting}, or skip such completions" in str(error.value)


@pytest.mark.parametrize("kind", ["batch", "single"])
@pytest.mark.parametrize(("mode", "value"), [("zero", 0.0), ("skip", math.nan)])
def test_one_completion_that_fails_spoils_no_other(
    kind: str, mode: str, value: float, capsys: pytest.CaptureFixture[str]
) -> None:
    orders = [order for order in FAULTS if order != "stop the process"]
    completions = [text for order in orders for text in (f"before {order}", order)] + ["none", "last"]
    with judging(kind, on_error=mode, timeout_s=0.5) as judge:
        judge._own.lost = type(judge._own.lost)(maxlen=1000)  # type: ignore[union-attr]
        scores = judged(judge, completions)
        again = judged(judge, ["fine"])
    expected = [value if text in FAULTS else math.nan if text == "none" else float(len(text)) for text in completions]
    np.testing.assert_array_equal(values(scores), expected)
    assert (scores.timeouts, scores.errors) == (1, len(orders) - 1)
    assert values(again) == [4.0]
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("prepo: reward")]
    assert len(told) == 1 and ("count as 0" if mode == "zero" else "are skipped") in told[0]


@pytest.mark.parametrize("order", ["sleep", "os._exit"])
def test_a_function_that_mostly_hangs_or_dies_stops_the_run(order: str) -> None:
    with judging("single", on_error="skip", timeout_s=0.2) as judge:
        judged(judge, ["fine"] * 20 + [order] * 5)
        with pytest.raises(RunError, match=r"of the last 16 calls exceeded rewards\.timeout_s=0\.2 or ended"):
            judged(judge, [order] * 20)


def test_a_fork_makes_no_second_worker_and_its_child_dies_with_the_pool() -> None:
    with judging("forks") as judge:
        assert [values(judged(judge, ["a", "b"])) for _ in range(3)] == [[1.0, 1.0]] * 3
    with judging("leaves_a_child") as judge:
        child = int(values(judged(judge, ["a"]))[0])
        assert running(child)
        assert judged(judge, ["a", "b"]).errors == 0
    assert eventually(lambda: not running(child))


def test_a_worker_lives_on_from_call_to_call() -> None:
    with judging("who", workers=4) as judge:
        calls = [values(judged(judge, ["a", "b", "c"])) for _ in range(3)]
    assert [call[1:] for call in calls] == [[3.0, 1.0], [3.0, 2.0], [3.0, 3.0]]
    assert len({call[0] for call in calls}) == 1


def test_prints_reach_stderr_alone_and_in_measure(capfd: pytest.CaptureFixture[str]) -> None:
    with judging("prints") as judge:
        assert values(judged(judge, ["a"])) == [1.0]
    out, err = capfd.readouterr()
    assert out == ""
    assert "from print\nfrom os.write\\x1b[2J\nfrom stderr\n" in err
    assert "showing only the first 8,192 bytes that reward functions print per batch" in err
    assert len(err) < 10_000


def test_numbers_of_other_libraries() -> None:
    with judging("numbers") as judge:
        found = values(judged(judge, [""] * 6))
    np.testing.assert_array_equal(found, [float(np.float32(0.1)), 3.0, 0.5, 1.0, 0.25, math.nan])


def test_what_is_no_list_of_values_is_refused() -> None:
    with judging("text") as judge, pytest.raises(UsageError, match="returned str; return a list"):
        judged(judge, ["a"])
    with judging("endless") as judge, pytest.raises(UsageError, match="returned more than 2 values for 2 completions"):
        judged(judge, ["a", "b"])


def test_columns_of_any_type_arrive_and_pictures_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    days = [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)]
    with judging("dates") as judge:
        assert values(judged(judge, ["a", "b"], day=days, picture=[object(), None])) == [1.0, 0.0]
        judged(judge, ["a", "b"], day=days, picture=[object(), None])
    assert capsys.readouterr().err.count("column 'picture' is not passed to reward functions") == 1
    with judging("told") as judge:
        assert values(judged(judge, ["a", "bb"], level=[10, 20], prompt=["x", "y"])) == [11.0, 22.0]


@pytest.fixture(scope="module")
def given_values() -> Iterator[Judge]:
    with judging("given") as judge:
        yield judge


@given(
    st.lists(
        st.none() | st.floats(-LARGEST, LARGEST) | st.booleans() | st.integers(-int(LARGEST), int(LARGEST)),
        min_size=1,
    )
)
@settings(max_examples=60)
def test_values_are_those_of_a_call_in_this_process_bit_by_bit(given_values: Judge, returned: list[Any]) -> None:
    found = values(judged(given_values, [""] * len(returned), value=returned))
    expected = [math.nan if value is None else float(value) for value in returned]
    assert [struct.pack("d", value) for value in found] == [struct.pack("d", value) for value in expected]


def test_a_value_too_large_to_sum_and_square_is_a_failure() -> None:
    returned = [1e300, LARGEST, -2 * LARGEST, -LARGEST, 10**400]
    with judging("given", on_error="zero") as judge:
        scores = judged(judge, [""] * len(returned), value=returned)
    assert values(scores) == [0.0, LARGEST, 0.0, -LARGEST, 0.0] and scores.errors == 3


def test_a_large_batch_passes() -> None:
    completions = [f"{i} " + "x" * 40_000 for i in range(1024)]
    with judging("batch", timeout_s=60) as judge:
        assert values(judged(judge, completions)) == [float(len(completion)) for completion in completions]


def test_nothing_is_left_after_closing() -> None:
    before = children(), set(os.listdir("/proc/self/fd"))
    with judging("single", workers=3, on_error="zero", timeout_s=0.3) as judge:
        judged(judge, ["fine"] * 8 + ["sleep", "os._exit"])
        assert children() != before[0]
    assert (children(), set(os.listdir("/proc/self/fd"))) == before


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os\nos._exit(3)", r"workers fail to start \(a worker exited with exit code 3, 3 times in a row\)"),
        ("import time\n\ntime.sleep(3600)", r"a worker did not start in time at .*early.py:3, 3 times in a row"),
        ("raise KeyboardInterrupt", r"fails to import at .*early.py:1: KeyboardInterrupt"),
        ("import ctypes\nctypes.string_at(0)", r"a worker exited with SIGSEGV at .*early.py:2, 3 times"),
        ("f = [", r"fails to import: SyntaxError: .*early.py, line 1"),
    ],
)
def test_a_module_that_does_not_import_is_bad_input(
    code: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("prepo_cli.rewards.forkserver.START_SECONDS", 60.0 if "sleep" not in code else 1.0)
    (tmp_path / "early.py").write_text(code, encoding="utf-8")
    before = children()
    with pytest.raises(UsageError, match=message), judging("f", "early"):
        pass
    assert children() == before


@pytest.mark.parametrize(
    ("number", "outcome"), [(signal.SIGKILL, "ended its process"), (signal.SIGSTOP, "took longer")]
)
def test_an_idle_worker_killed_is_replaced_and_one_stopped_is_noticed(number: signal.Signals, outcome: str) -> None:
    with judging("batch", timeout_s=0.5) as judge:
        judged(judge, ["a"])
        os.kill(judge._own.pool._workers[0].pid, number)  # type: ignore[union-attr]
        if number == signal.SIGKILL:
            assert eventually(lambda: not running(judge._own.pool._workers[0].pid))  # type: ignore[union-attr]
            assert values(judged(judge, ["a"])) == [1.0]
        else:
            with pytest.raises(RunError, match=outcome):
                judged(judge, ["a"])


def test_the_command_ends_with_one_line_that_names_the_place(tmp_path: Path) -> None:
    (tmp_path / "hostile_module.py").write_text(
        "import sys\n\ndef leave(prompts, completions, **_):\n    sys.exit(0)\n"
    )
    small = ["evaluation.at_start=false", "training.prompts_per_step=2", "training.num_generations=2"]
    prepo = [sys.executable, "-m", "prepo_cli", "train", "--steps", "2", "--reward", "hostile_module:leave"]
    done = subprocess.run(
        [*prepo, "--output-dir", str(tmp_path / "run"), *(part for item in small for part in ("--set", item))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)]), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    last = done.stderr.splitlines()[-1]
    assert (done.returncode, done.stdout) == (1, "")
    assert last.startswith("prepo: reward 'hostile_module:leave' failed at hostile_module.py:4: SystemExit: 0; ")
    assert "Traceback" not in done.stderr
