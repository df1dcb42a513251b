"""A worker process of the `math` reward: reads jobs from stdin and writes one verdict line per job as it is decided.

Run as `python -m prepo_cli.rewards.worker SECONDS`. A line of stdin is a JSON list of jobs; each verdict is '1' or
'0', and also tells the pool which job is running, should one hang. Ends when stdin does.
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the pool decides when to stop
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    out = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    quiet = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # parsers' output must not mix with verdicts
        os.dup2(quiet, stream)
    _bound_memory()
    try:
        import math_verify  # noqa: F401
    except Exception as error:  # the pool must learn of any installation problem
        out.write(f"!{type(error).__name__}: {error}".replace("\n", " ").encode("ascii", "replace").decode() + "\n")
        return
    logging.disable(logging.CRITICAL)
    out.write("ready\n")
    for line in sys.stdin:
        for golds, answer, kind in json.loads(line):
            # If this job hangs and the pool is gone, the kernel ends the process, even while it holds the GIL.
            signal.setitimer(signal.ITIMER_REAL, 2 * seconds + 5)
            out.write("1\n" if _verdict(Job(tuple(golds), answer, kind)) else "0\n")
        signal.setitimer(signal.ITIMER_REAL, 0)


def _verdict(job: Job) -> bool:
    try:
        return check(job)
    except Exception:  # hostile text makes parsers raise anything; it is not a correct answer
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
