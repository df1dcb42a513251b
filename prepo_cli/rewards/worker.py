"""The processes that check answers: a fork server, and the workers that it forks.

The server imports what its workers need and then runs none of it: whatever a worker does to itself, a fresh one takes
milliseconds. It has a single thread, holds no data, and ends all workers when the pool closes the socket or dies. A
worker reads lists of jobs, a JSON line each, and answers every job by a JSON line as it is done. What is printed goes
to a pipe of its own, and nothing can be read from stdin, so that no code disturbs the answers.

The pool starts it with three arguments: `sys.path`, the socket's descriptor and a `Role` as JSON.
"""

from __future__ import annotations

import ctypes
import faulthandler
import json
import logging
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from prepo_cli.rewards.calls import LoadError, Signature, answer, load
from prepo_cli.rewards.verify import Job, check
from prepo_cli.rewards.wire import decode

PR_SET_PDEATHSIG = 1
READ_BYTES = 2**20
TRACE_SIGNAL = signal.SIGUSR1
"""Makes a worker write where it is, even while it is stuck."""


class Role(NamedTuple):
    """What workers do: the user's `functions` (names and paths), or `math` if there are none.

    `memory` is their limit in bytes.
    """

    functions: dict[str, str]
    memory: int


def main() -> None:
    """Fork a worker whenever three descriptors arrive, end and reap one whenever its id does."""
    server, role = socket.socket(fileno=int(sys.argv[3])), Role(*json.loads(sys.argv[4]))
    fault = "" if role.functions else _import_math_verify()
    workers: set[int] = set()
    while True:
        message, descriptors, _, _ = socket.recv_fds(server, 64, 3)
        if not message:
            break
        if descriptors:
            worker = os.fork()
            if worker == 0:
                server.close()
                _work(role, fault, *descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            workers.add(worker)
            server.sendall(b"%d" % worker)
        else:
            workers.remove(int(message))
            server.sendall(b"%d" % _end(int(message)))
    for worker in workers:
        _end(worker)
    os._exit(0)  # without tidying up thousands of modules


def _end(worker: int) -> int:
    """Kill a worker and all that it has started; its exit code, negative for a signal."""
    with suppress(ProcessLookupError):  # it may not lead its group yet
        os.killpg(worker, signal.SIGKILL)
    os.kill(worker, signal.SIGKILL)  # at least a zombie, since nobody else reaps it
    return os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])


def _import_math_verify() -> str:
    try:
        import math_verify  # noqa: F401
    except Exception as error:  # the pool must learn of any installation problem
        return f"{type(error).__name__}: {error}"
    logging.disable(logging.CRITICAL)
    return ""


def _work(role: Role, fault: str, jobs: int, answers: int, prints: int) -> None:
    """The life of a worker; never returns."""
    os.setsid()
    for standard in (1, 2):
        os.dup2(prints, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(prints)
    for descriptor in (jobs, answers):
        os.set_inheritable(descriptor, False)
    if sys.platform == "linux":  # elsewhere a worker that hangs outlives a server that is killed
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    os.register_at_fork(after_in_child=lambda: _leave(jobs, answers))
    faulthandler.enable(answers, all_threads=False)
    faulthandler.register(TRACE_SIGNAL, answers, all_threads=False)
    _bound_memory(role)
    try:
        if fault:
            raise LoadError(fault)
        signatures, evaluate = _evaluator(role)
        _write(answers, {"ready": signatures})
        _serve(jobs, answers, evaluate)
    except LoadError as error:
        _write(answers, {"failed": str(error)})
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)
    os._exit(0)  # no exit handler of the user's, and none of the server's


def _serve(jobs: int, answers: int, evaluate: Callable[[Any], Any]) -> None:
    me = os.getpid()
    with os.fdopen(jobs, "rb", READ_BYTES) as lines:
        for line in lines:
            for job in decode(line):
                outcome = evaluate(job)
                if os.getpid() != me:  # the user's function has forked, and this is the child
                    return
                _write(answers, outcome)


def _evaluator(role: Role) -> tuple[dict[str, Signature], Callable[[Any], Any]]:
    """What the worker tells when it is ready, and how it answers a job."""
    if not role.functions:
        return {}, lambda job: {"values": [float(_verdict(Job(tuple(job[0]), job[1], job[2])))]}
    functions = load(role.functions)
    return {name: function.signature for name, function in functions.items()}, lambda job: answer(functions, job)


def _verdict(job: Job) -> bool:
    try:
        return check(job)
    except Exception:  # hostile text makes parsers raise anything; it is not a correct answer
        return False


def _write(descriptor: int, message: Any) -> None:
    line = memoryview(json.dumps(message).encode("ascii") + b"\n")
    while line:
        line = line[os.write(descriptor, line) :]


def _leave(jobs: int, answers: int) -> None:
    """In a process that a worker forks: give up the worker's pipes, so that the pool hears of the worker's death."""
    faulthandler.disable()
    faulthandler.unregister(TRACE_SIGNAL)
    for descriptor in (jobs, answers):
        with suppress(OSError):
            os.close(descriptor)


def _bound_memory(role: Role) -> None:
    """Limit what the process allocates; of a user's function not the address space, of which CUDA reserves terabytes.

    Should memory run out all the same, Linux kills this process and not the run.
    """
    kind = resource.RLIMIT_DATA if role.functions else resource.RLIMIT_AS
    with suppress(ValueError, OSError):  # macOS refuses
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (role.memory if hard == resource.RLIM_INFINITY else min(role.memory, hard), hard))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
