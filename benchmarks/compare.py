"""How long `prepo compare` takes on a large study: 50 runs of 5,000 steps, read, analyzed, drawn and written as a page.

The runs are made up, but have the files and columns of real ones: 10 recipes with 5 seeds each, 66 metrics a step, 100
evaluations of 400 prompts, and the rollouts of 300 steps. The command runs in a process of its own, imports included.
CPU seconds depend less than wall-clock time on what else the machine does. Memory is that of the largest process.

    python -m benchmarks.compare
    python -m benchmarks.compare --steps 500 --folder /tmp/runs    # keep the runs; made again only if missing
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from prepo_cli.config import resolve, to_yaml
from prepo_cli.recipes import recipes
from prepo_cli.statistics import FloatArray

ROOT = Path(__file__).parents[1]
PROMPTS_PER_STEP, GROUP, SAMPLES, METRICS, DIFFERENT_STEPS = 8, 8, 8, 66, 20
"""Prompts and rollouts of a step, samples of an evaluation, metrics of a step, steps whose rollouts differ."""
MEASURED = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
sys.exit(done.returncode)
"""
"""Runs a command from a small process; a new one's peak memory is at least that of the process which started it."""
LIMITS = {"wall_s": 20.0, "memory_mib": 1000.0, "page_mb": 5.0}
PHASES = ("select", "generate", "reward", "logprob", "update", "sync", "checkpoint")
PPL = {"mean": 1.0, "min": 0.4, "max": 3.0}
WEIGHTS = {"p0": 0.2, "p10": 0.5, "p50": 0.9, "p90": 1.8, "p100": 4.0}


@dataclass(frozen=True)
class Size:
    """What the study consists of."""

    recipes: int = 10
    seeds: int = 5
    steps: int = 5000
    evaluations: int = 100
    prompts: int = 400
    rollout_steps: int = 300


def make_study(folder: Path, size: Size) -> list[Path]:
    """Write the runs that are missing; returns their folders."""
    runs = []
    for place, recipe in enumerate(list(recipes())[: size.recipes]):
        for seed in range(size.seeds):
            runs.append(folder / f"{recipe}-seed{seed}")
            if not (runs[-1] / "summary.json").is_file():
                make_run(runs[-1], recipe, place, seed, size)
    return runs


def make_run(folder: Path, recipe: str, place: int, seed: int, size: Size) -> None:
    """Write a run; later recipes learn a little faster."""
    rng = np.random.default_rng([place, seed])
    folder.mkdir(parents=True)
    config = resolve(flags={"recipe": recipe, "seed": seed, "training.total_steps": size.steps})
    columns = metrics(size.steps, place, rng)
    (folder / "config.yaml").write_text(to_yaml(config), encoding="utf-8")
    _write_lines(folder / "metrics.jsonl", [dict(zip(columns, row, strict=True)) for row in _rows(columns)])
    _write_lines(folder / "evaluations.jsonl", evaluations(size, place, seed, columns))
    write_rollouts(folder / "rollouts", size, varied=place % 3 == 2, rng=rng)
    costs = ("rollouts_total", "rollouts_trained", "tokens_generated", "tokens_scored", "seconds")
    summary = {
        "recipe": recipe,
        "strategies": config.strategies.model_dump(),
        "seed": seed,
        "metric": f"avg@{SAMPLES}",
        "cost": {name: columns[f"cost/{name}"][-1] for name in costs},
    }
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


def metrics(steps: int, place: int, rng: np.random.Generator) -> dict[str, FloatArray]:
    """Columns over steps, of which every other recipe selects by perplexity and weighs its rollouts."""
    done_S = np.linspace(0, 1, steps)
    wrong_S, right_S = (np.clip(x + rng.normal(0, 0.05, steps), 0, 0.5) for x in (0.5 - 0.3 * done_S, 0.4 * done_S))
    rollouts_S = np.arange(1.0, steps + 1) * PROMPTS_PER_STEP * GROUP
    found: dict[str, FloatArray] = {"step": np.arange(steps, dtype=np.float64), "reward": (right_S - wrong_S + 1) / 2}
    found |= {"frac_all_wrong": wrong_S, "frac_all_correct": right_S, "frac_reward_zero_std": wrong_S + right_S}
    found["temperature"] = 1 + 0.1 * (place == 3) * done_S
    found |= {f"cost/{name}": rollouts_S for name in ("rollouts_total", "rollouts_trained")}
    found |= {f"cost/tokens_{name}": rollouts_S * length for name, length in (("generated", 14.0), ("scored", 6.0))}
    found |= {f"timing_s/{name}": rng.gamma(2 + i, 0.01, steps) for i, name in enumerate(PHASES)}
    found["cost/seconds"] = np.cumsum(np.sum([found[f"timing_s/{name}"] for name in PHASES], axis=0))
    if place % 2:
        weight_S = rng.lognormal(0, 0.1, steps)
        found |= {f"weighting/{name}": level * weight_S for name, level in WEIGHTS.items()}
        for side, level_S in (("candidates", np.full(steps, 5.0)), ("kept", 2 + 6 * done_S)):
            found |= {f"selector/ppl_{side}_{name}": level_S * factor * weight_S for name, factor in PPL.items()}
    others = {f"other/{number:02d}": rng.normal(size=steps) for number in range(METRICS - len(found))}
    return found | others


def evaluations(size: Size, place: int, seed: int, columns: dict[str, FloatArray]) -> list[dict[str, Any]]:
    """Lines as a run writes them: every prompt's accuracy rises from its own start to its own height."""
    rng = np.random.default_rng([seed, size.prompts])
    easy_P, gain_P = rng.beta(0.6, 0.7, size.prompts), rng.beta(1, 4, size.prompts)
    ids, lines = [f"test-{prompt:04d}" for prompt in range(size.prompts)], []
    for number in range(size.evaluations):
        share = number / (size.evaluations - 1)
        step = round(share * size.steps)
        rate_P = np.clip(easy_P + gain_P * (1 - np.exp(-(2 + 0.3 * place) * share)), 0, 1)
        accuracy_P = rng.binomial(SAMPLES, rate_P) / SAMPLES
        value = float(accuracy_P.mean())
        lines.append(
            {
                "step": step,
                f"avg@{SAMPLES}": {"value": value, "low": value - 0.04, "high": value + 0.04},
                "rollouts_total": step * PROMPTS_PER_STEP * GROUP,
                "train_seconds": float(columns["cost/seconds"][step - 1]) if step else 0.0,
                "prompt_ids": ids,
                "per_prompt": accuracy_P.tolist(),
            }
        )
    return lines


def write_rollouts(folder: Path, size: Size, varied: bool, rng: np.random.Generator) -> None:
    """Files of the last steps; they repeat after a while, since writing them takes longest."""
    folder.mkdir()
    contents = [_rollouts(varied, rng) for _ in range(min(DIFFERENT_STEPS, size.rollout_steps))]
    for number in range(size.rollout_steps):
        step = size.steps - size.rollout_steps + number
        (folder / f"step_{step:06d}.parquet").write_bytes(contents[number % len(contents)])


def _rollouts(varied: bool, rng: np.random.Generator) -> bytes:
    size_G = rng.integers(4, 13, PROMPTS_PER_STEP) if varied else np.full(PROMPTS_PER_STEP, GROUP)
    ppl_G = rng.lognormal(1, 0.6, PROMPTS_PER_STEP)
    group_N = np.repeat(np.arange(PROMPTS_PER_STEP), size_G)
    correct_N = rng.random(len(group_N)) < 1 / (1 + ppl_G[group_N] / 4)
    table = {
        "prompt_id": [f"train-{group:04d}" for group in group_N],
        "group": group_N,
        "prompt": [f"What is {group} * 12 + 7?" for group in group_N],
        "text": [f"{group} * 12 = {12 * group}. {12 * group} + 7 = \\boxed{{{12 * group + 7}}}" for group in group_N],
        "reward": correct_N.astype(np.float64),
        "correct": correct_N,
        "advantage": rng.normal(size=len(group_N)),
        "weight": rng.lognormal(0, 0.5, len(group_N)),
        "length": rng.integers(8, 60, len(group_N)),
        "ppl": ppl_G[group_N],
        "fate": rng.choice(["trained", "trained", "filtered"], len(group_N)).tolist(),
    }
    file = BytesIO()
    pq.write_table(pa.table(table), file)
    return file.getvalue()


def measure(runs: Sequence[Path], output: Path) -> dict[str, float]:
    """Run the command once; seconds, MiB of memory, and what it wrote in MB."""
    command = [sys.executable, "-m", "prepo_cli", "compare", *map(str, runs), "--output-dir", str(output)]
    started = perf_counter()
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], cwd=ROOT, capture_output=True, text=True)
    seconds = perf_counter() - started
    if done.returncode:
        raise SystemExit(f"prepo compare failed:\n{done.stderr}")
    cpu_seconds, peak_kib = map(float, done.stdout.split())
    return {
        "wall_s": seconds,
        "cpu_s": cpu_seconds,
        "memory_mib": peak_kib / 2**10,
        "page_mb": (output / "page.html").stat().st_size / 1e6,
        "pictures_mb": sum(path.stat().st_size for path in output.glob("*.[ps][nv]g")) / 1e6,
        "runs_mb": sum(path.stat().st_size for run in runs for path in run.rglob("*") if path.is_file()) / 1e6,
    }


def _rows(columns: dict[str, FloatArray]) -> list[list[float]]:
    rows: list[list[float]] = np.column_stack(list(columns.values())).tolist()
    return rows


def _write_lines(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in asdict(Size()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--folder", type=Path, help="keep runs and results here")
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object")
    args = parser.parse_args()
    size = Size(**{name: getattr(args, name) for name in asdict(Size())})
    with TemporaryDirectory(prefix="prepo-compare-") as scratch:
        folder: Path = args.folder or Path(scratch)
        found = measure(make_study(folder / "runs", size), folder / "comparison")
    if args.json:
        print(json.dumps(asdict(size) | found))
        return
    print(f"{size.recipes} recipes x {size.seeds} seeds, {size.steps:,} steps, {found['runs_mb']:,.0f} MB of runs")
    for name, value in found.items():
        limit = f"  (at most {LIMITS[name]:g})" if name in LIMITS else ""
        print(f"{name:12} {value:8.2f}{limit}")


if __name__ == "__main__":
    main()
