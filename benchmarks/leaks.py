"""Whether a long run grows: memory, open descriptors and child processes of `prepo train`, every 100 steps.

A run of the embedded model is watched from outside. A row holds the medians over the steps since the row before, of the
run's process and of all processes that it started; the last line is the end against the first row. To be shown is that
the end is within 5 % of step 100.

    python -m benchmarks.leaks                                   # 1,000 steps of the recipe `everything`
    python -m benchmarks.leaks --steps 60 --every 10 --recipe prepo
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

MIB = 2**20
INTERVAL_S = 0.2
NAMES = ("RSS MiB", "of children", "descriptors", "children")
SMALL = ["prompts_per_step=4", "num_generations=4", "max_completion_length=32", "save_steps=100"]


def watch(command: list[str], metrics: Path, every: int) -> Iterator[tuple[int, list[float]]]:
    """Run a command; the step and the medians of `NAMES` each time that its metrics have `every` more lines.

    Raises:
        CalledProcessError: the command fails.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        samples: list[list[float]] = []
        step = 0
        while process.poll() is None:
            time.sleep(INTERVAL_S)
            if metrics.exists():
                samples += measured(process.pid)
                lines = metrics.read_bytes().count(b"\n")
                if lines // every > step // every and samples:
                    yield lines, [median(column) for column in zip(*samples, strict=True)]
                    samples = []
                step = lines
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def measured(pid: int) -> list[list[float]]:
    """One sample of `NAMES`; none if a process ends while it is looked at."""
    try:
        run = psutil.Process(pid)
        children = run.children(recursive=True)
        own, theirs = run.memory_info().rss, sum(child.memory_info().rss for child in children)
        return [[own / MIB, theirs / MIB, run.num_fds(), len(children)]]
    except psutil.NoSuchProcess:
        return []


def main() -> None:
    """Run, watch, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--recipe", default="everything")
    parser.add_argument("--set", action="append", default=[], help="any setting of the run; repeatable")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    sets = [f"training.{item}" for item in SMALL] + ["evaluation.dataset_name=null", *options.set]
    rows = []
    with TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "prepo_cli",
            "train",
            "--recipe",
            options.recipe,
            "--steps",
            str(options.steps),
        ]
        command += ["--output-dir", f"{folder}/run", *(part for item in sets for part in ("--set", item))]
        print("step".rjust(8), *(name.rjust(12) for name in NAMES), file=sys.stderr)
        for step, values in watch(command, Path(folder) / "run" / "metrics.jsonl", options.every):
            rows.append({"step": step, **dict(zip(NAMES, values, strict=True))})
            print(f"{step:>8}", *(f"{value:>12,.0f}" for value in values), file=sys.stderr)
    ratio = {name: rows[-1][name] / rows[0][name] if rows[0][name] else 1.0 for name in NAMES}
    if options.json:
        print(json.dumps({"recipe": options.recipe, "rows": rows, "end / start": ratio}))
    else:
        print("end/start".rjust(8), *(f"{ratio[name]:>11.3f}" for name in NAMES))


if __name__ == "__main__":
    main()
