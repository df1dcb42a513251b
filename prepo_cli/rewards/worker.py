"""A worker process of the `math` reward: jobs in on stdin, one verdict line out for each as soon as it is known.

Run as `python -m prepo_cli.rewards.worker SECONDS`. A line of stdin is a JSON list of jobs; each verdict is '1' or
'0', which also is the heartbeat by which the pool knows the guilty job. Ends when stdin does.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import sys

from prepo_cli.rewards.verify import Job, check

MEMORY_BYTES = 4 * 2**30


def main() -> None:
    """Serve until the pool closes the pipe or kills the process."""
    seconds = float(sys.argv[1])
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; the pool decides
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    out = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # what parsers print must not mix with verdicts
        os.dup2(quiet, stream)
    _bound_memory()
    try:
        import math_verify  # noqa: F401
    except Exception as error:  # whatever the installation's fault is, the pool must be told
        out.write(f"!{type(error).__name__}: {error}".replace("\n", " ").encode("ascii", "replace").decode() + "\n")
        return
    logging.disable(logging.CRITICAL)
    out.write("ready\n")
    for line in sys.stdin:
        for golds, answer, kind in json.loads(line):
            # Should the pool be gone and this job hang, the kernel ends the process, lock held or not.
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5)
            out.write("1\n" if _verdict(Job(tuple(golds), answer, kind)) else "0\n")
        signal.setitimer(signal.ITIMER_REAL, 0)


def _verdict(job: Job) -> bool:
    try:
        return check(job)
    except Exception:  # hostile text makes parsers raise anything; it is no right answer
        return False


def _bound_memory() -> None:
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    except (ValueError, OSError):  # macOS refuses
        return


if __name__ == "__main__":
    main()
