"""prepo's command lines, each in a process forked from one that has loaded everything, which saves seconds of each.

    with Prepo() as prepo:
        ended = prepo("train", "--steps", "3")
        process = prepo.start("eval", "--k", "2")
        process.send(signal.SIGSTOP)

Each has standard streams of its own, and ends as `prepo` does.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer
from types import TracebackType
from typing import Any

import psutil

from tests.chaos.filling import fill_at
from tests.chaos.striking import act_at

ROOT = Path(__file__).parents[1]
PRELOADED = (
    "prepo_cli.comparison.analysis", "prepo_cli.comparison.figures", "prepo_cli.comparison.page",
    "prepo_cli.comparison.tables", "prepo_cli.evaluation.passrate_scoring", "prepo_cli.evaluation.ppl_scoring",
    "prepo_cli.evaluation.table", "prepo_cli.main", "prepo_cli.reporting.card", "prepo_cli.reporting.figures",
    "prepo_cli.training.train", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "matplotlib.pyplot", "plotly.offline", "rich.console", "transformers.models.llama.modeling_llama",
)  # fmt: skip
LONGEST_SECONDS = 300.0
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG."""


@dataclass(frozen=True)
class Ended:
    """A process's exit code, and what it wrote to its standard streams."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The last line of stderr."""
        return (self.err.splitlines() or [""])[-1]


class Process:
    """One command line, running."""

    def __init__(self, prepo: Prepo, pid: int, out: Path, err: Path) -> None:
        self._prepo, self.pid, self._out, self._err = prepo, pid, out, err

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def until_stopped(self) -> None:
        """Wait until it has stopped itself."""
        process = psutil.Process(self.pid)
        while process.status() != psutil.STATUS_STOPPED:
            assert process.status() != psutil.STATUS_ZOMBIE, self._err.read_text()
            time.sleep(0.01)

    def wait(self) -> Ended:
        """Wait for its end; it is killed, and -9 its exit code, if that takes too long."""
        timer = Timer(LONGEST_SECONDS, self.send, [signal.SIGKILL])
        timer.start()
        code = int(self._prepo.ask({"pid": self.pid}))
        timer.cancel()
        return Ended(code, self._out.read_text(errors="replace"), self._err.read_text(errors="replace"))


class Prepo:
    """A context manager; its processes end with it.

    Args:
        before: put before the command that starts the first process.
        cwd: where the command lines run.
    """

    def __init__(self, before: Sequence[str] = (), cwd: Path = ROOT) -> None:
        self._before, self._cwd = before, cwd
        self._logs = TemporaryDirectory()
        self._started = 0

    def __enter__(self) -> Prepo:
        self._server = subprocess.Popen(
            [*self._before, sys.executable, "-m", "tests.forked"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.kill()
        self._server.communicate()
        self._logs.cleanup()

    @property
    def pid(self) -> int:
        """The first process."""
        return self._server.pid

    def __call__(self, *argv: str, **options: Any) -> Ended:
        """Run a command line to its end; see `start`."""
        return self.start(*argv, **options).wait()

    def start(self, *argv: str, out: Path | None = None, err: Path | None = None, **options: Any) -> Process:
        """Start a command line.

        Args:
            out, err: files for its standard streams.
            environment: variables to set.
            module: where `main` is, if not prepo's.
            fill: arguments of `filling.fill_at`, which see.
            stop: it stops itself before the first operation on a path with each of these texts; see `until_stopped`.
        """
        self._started += 1
        logs = Path(self._logs.name)
        out, err = out or logs / f"{self._started}.out", err or logs / f"{self._started}.err"
        call = {"argv": argv, "out": str(out), "err": str(err), "cwd": str(self._cwd), **options}
        return Process(self, int(self.ask(call)), out, err)

    def ask(self, call: dict[str, Any]) -> str:
        """The first process's answer."""
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(call), file=self._server.stdin, flush=True)
        return self._server.stdout.readline()


def serve() -> None:
    """Answer calls: start a process and tell its number, or wait for one and tell its exit code."""
    for module in PRELOADED:
        import_module(module)
    for line in sys.stdin:
        call = json.loads(line)
        if "argv" in call:
            pid = os.fork()
            if not pid:
                run(**call)
            answer = pid
        else:
            answer = os.waitstatus_to_exitcode(os.waitpid(call["pid"], 0)[1])
        print(answer, flush=True)


def run(
    argv: Sequence[str],
    out: str,
    err: str,
    cwd: str,
    environment: dict[str, str] | None = None,
    module: str = "prepo_cli.main",
    fill: dict[str, Any] | None = None,
    stop: Sequence[str] = (),
) -> None:
    """Be the process."""
    ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
    for descriptor, path in enumerate((os.devnull, out, err)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND), descriptor)
    os.chdir(cwd)
    os.environ.update(environment or {})
    if fill is not None:
        fill_at(**fill)
    for place in stop:
        act_at(1, [place], lambda: os.kill(os.getpid(), signal.SIGSTOP))
    code = 0
    try:
        import_module(module).main(argv)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    os._exit(code)  # without half a second in which Python would free all that is loaded


if __name__ == "__main__":
    serve()
