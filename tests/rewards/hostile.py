"""A worker of the math reward that obeys jobs: `hang`, `die`, or anything else for a verdict.

A file such as `worker-9-0` in the folder $STRIKES sends that signal once to a worker, or to the server, as it starts.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from prepo_cli.rewards import verify, worker


def check(job: verify.Job) -> bool:
    if "hang" in job.answer:
        time.sleep(3600)
    if "die" in job.answer:
        os._exit(7)
    return "yes" in job.answer


def strike(victim: str) -> None:
    for file in sorted(Path(os.environ.get("STRIKES", "/nowhere")).glob(f"{victim}-*"))[:1]:
        file.unlink()
        os.kill(os.getpid(), int(file.name.split("-")[1]))


def bound_memory(role: worker.Role) -> None:
    strike("worker")


def main() -> None:
    worker.check = check
    worker._bound_memory = bound_memory
    worker._import_math_verify = lambda: ""
    strike("server")
    worker.main()
