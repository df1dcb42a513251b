"""How long prepo takes to start: seconds from a command to its first rollouts and to its end.

The commands take turns, so that a slow minute of the machine hits all of them: Python itself, `import typer`,
`prepo --help`, the three libraries that every run needs, and `prepo train --steps 1` on the embedded model. It runs
once without evaluation, to show what starting costs, and once with the defaults, which add two evaluations of 200
prompts x 16 rollouts. "first rollouts" is the moment when the step's 256 rollouts reach the reward functions, recorded
by `first_rollouts` below.

Allowed on top of `import torch, transformers, accelerate`: 2 s until the first rollouts, 5 s for the whole command
without evaluation. Wall-clock times are meaningful only on an idle machine; CPU times (of the main process for
"first rollouts", including the reward workers for the others) depend less on other load.

    python -m benchmarks.startup                # five rounds
    python -m benchmarks.startup --rounds 1 --json
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
LIBRARIES = "import torch, transformers, accelerate"
UNCOMPILED = f"""
{LIBRARIES}, importlib, os, sys
specs = [vars(module).get("__spec__") for module in list(sys.modules.values())]
cached = [spec.cached for spec in specs if isinstance(spec, importlib.machinery.ModuleSpec) and spec.cached]
print(sum(not os.path.exists(path) for path in cached))
"""
STEP = ["-m", "prepo_cli", "train", "--steps", "1", "--overwrite", "--output-dir"]
WATCHED = ["--reward", "benchmarks.startup:first_rollouts", "--reward", "math"]
STAMP = "PREPO_BENCHMARK_STAMP"
LIMITS = {"first rollouts": 2.0, "one step": 5.0}
"""Seconds that may be added to importing the libraries."""

Seconds = dict[str, list[float]]


def first_rollouts(prompts: list[str], completions: list[str], **columns: Any) -> list[None]:
    """A reward function that applies to nothing and records when it was first called."""
    stamp = Path(os.environ[STAMP])
    if not stamp.exists():
        stamp.write_text(json.dumps([time.time(), time.process_time()]), encoding="utf-8")
    return [None] * len(completions)


def measure(rounds: int) -> tuple[Seconds, Seconds]:
    """Wall-clock and CPU seconds of each command in each round."""
    wall: Seconds = {}
    cpu: Seconds = {}
    with TemporaryDirectory(prefix="prepo-startup-") as scratch:
        run, stamp = Path(scratch) / "run", Path(scratch) / "stamp"
        commands = {
            "python": ["-c", "pass"],
            "import typer": ["-c", "import typer"],
            "prepo --help": ["-m", "prepo_cli", "--help"],
            "libraries": ["-c", LIBRARIES],
            "one step": [*STEP, str(run), *WATCHED, "--set", "evaluation.dataset_name=null"],
            "one step, evaluated": [*STEP, str(run)],
        }
        for _ in range(rounds):
            for name, command in commands.items():
                stamp.unlink(missing_ok=True)
                started, used = time.time(), _cpu_seconds()
                _python(command, **{STAMP: str(stamp)})
                wall.setdefault(name, []).append(time.time() - started)
                cpu.setdefault(name, []).append(_cpu_seconds() - used)
                if name == "one step":
                    seen, used = json.loads(stamp.read_text(encoding="utf-8"))
                    wall.setdefault("first rollouts", []).append(seen - started)
                    cpu.setdefault("first rollouts", []).append(used)
    return wall, cpu


def added(wall: Seconds) -> dict[str, float]:
    """Median seconds that the run adds to importing the libraries."""
    return {name: median(wall[name]) - median(wall["libraries"]) for name in LIMITS}


def uncompiled() -> int:
    """Number of imported modules without cached byte code, which every start compiles."""
    return int(_python(["-c", UNCOMPILED]))


def _python(arguments: list[str], **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object")
    args = parser.parse_args()
    cold = uncompiled()
    wall, cpu = measure(args.rounds)
    differences = added(wall)
    if args.json:
        result = {"uncompiled": cold, "wall_s": wall, "cpu_s": cpu, "added_s": differences, "allowed_s": LIMITS}
        print(json.dumps(result))
        return
    if cold:
        print(f"{cold} modules have no byte code and are compiled at every start; run make install")
    print(f"{'':22} {'min':>7} {'median':>7} {'max':>7} {'CPU':>7}  seconds of {args.rounds} rounds")
    for name, seconds in wall.items():
        print(f"{name:22} {min(seconds):7.2f} {median(seconds):7.2f} {max(seconds):7.2f} {median(cpu[name]):7.2f}")
    for name, limit in LIMITS.items():
        print(f"{name} - libraries: {differences[name]:.2f} s, allowed {limit:.0f} s")


if __name__ == "__main__":
    main()
