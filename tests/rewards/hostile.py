"""A worker of the reward pool that obeys jobs: `hang`, `die`, or anything else for math-verify's verdict."""

from __future__ import annotations

import os
import time

from prepo_cli.rewards import verify, worker


def check(job: verify.Job) -> bool:
    if "hang" in job.answer:
        time.sleep(3600)
    if "die" in job.answer:
        os._exit(7)
    return "yes" in job.answer


if __name__ == "__main__":
    worker.check = check
    worker.main()
