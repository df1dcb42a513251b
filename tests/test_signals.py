"""Signals reach their handler, but not one that nohup ignores; a terminal that is gone stops nothing."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

from prepo_cli import signals

ROOT = Path(__file__).parents[1]


def test_all_stop_signals_are_handled_and_put_back() -> None:
    received: list[int] = []
    before = [signal.getsignal(number) for number in signals.STOP]
    with signals.handled(lambda number, frame: received.append(number)):
        for number in signals.STOP:
            os.kill(os.getpid(), number)
    assert received == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]
    assert [signal.getsignal(number) for number in signals.STOP] == before


def test_a_hang_up_that_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.handled(lambda number, frame: None):
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_off_the_main_thread_nothing_changes() -> None:
    entered: list[bool] = []

    def enter() -> None:
        with signals.handled(lambda number, frame: None):
            entered.append(True)

    thread = Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]


def test_a_process_whose_terminal_is_gone_goes_on(tmp_path: Path) -> None:
    script = (
        "import os, sys, time\n"
        "from prepo_cli import signals\n"
        "received = []\n"
        "def stop(number, frame):\n"
        "    signals.leave_terminal()\n"
        "    received.append(number)\n"
        "with signals.handled(stop):\n"
        "    print('ready', flush=True)\n"
        "    while not received:\n"
        "        time.sleep(0.01)\n"
        "    print('saving', flush=True)\n"
        "    print('saving', file=sys.stderr, flush=True)\n"
        "    open(sys.argv[1], 'w').write(str(received[0]))\n"
    )
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", script, str(tmp_path / "saved")])
    assert b"ready" in os.read(terminal, 100)
    os.close(terminal)
    assert os.waitpid(process, 0)[1] == 0
    assert (tmp_path / "saved").read_text() == str(int(signal.SIGHUP))


def test_output_that_is_no_terminal_stays(tmp_path: Path) -> None:
    script = "from prepo_cli import signals; signals.leave_terminal(); print('still here')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "still here\n"
