"""The study: which strategy saves how much, at four shares of dead prompts. Makes docs/study from nothing.

Each world is `embedded:dead=X`. Its runs are trained seed by seed, several at a time, and compressed as they finish:
metrics.jsonl.gz (four digits) and evaluations.jsonl.gz, which is all that the tables and pictures are made from, and a
few steps' rollouts of one seed for the page. What is there already is not trained again, so the study can be
interrupted and continued, also on another machine.

    python -m benchmarks.study --jobs 2                  # everything, about 6 hours on two cores
    python -m benchmarks.study --jobs 2 --dead 0.8 --seeds 0..2
    python -m benchmarks.study --only-report             # tables and pictures of the runs that are there
"""

from __future__ import annotations

import argparse
import gzip
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.study_report import HEADLINE, report
from prepo_cli.comparison.groups import evenly, recorded_steps
from prepo_cli.comparison.launch import train_missing
from prepo_cli.comparison.plan import RecipeChoice, parse_recipes, parse_seeds, plan

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "benchmarks" / "study.yaml"
ORACLE = RecipeChoice("random", {"selector": "benchmarks.oracle:Oracle"})
MANY = [*parse_recipes("random,calibrated,prepo"), ORACLE]
SIX = parse_recipes("random,calibrated,prepo,mopps,dapo,greso")
ALL = parse_recipes(
    "random,calibrated,prepo,mopps,dapo,greso,full,ppl-schedule,random/weighting=rel-entropy,e3,"
    "random/selector=learnability,sgpo"
)
WORLDS: dict[float, dict[range, list[RecipeChoice]]] = {
    0.8: {range(5): [*ALL, ORACLE], range(5, 10): MANY},
    0.0: {range(3): [*SIX, ORACLE]},
    0.5: {range(3): [*SIX, ORACLE]},
    0.9: {range(3): [*SIX, ORACLE]},
}
"""Recipes by share of dead prompts and seeds."""
ABLATIONS: dict[str, tuple[dict[str, Any], list[RecipeChoice]]] = {
    "linear": ({"training.lr_scheduler_type": "linear"}, parse_recipes("random,calibrated,prepo")),
    "half-lr": ({"training.learning_rate": 2.5e-5}, parse_recipes("calibrated")),
    "per-token": ({}, [RecipeChoice("random", {"selector": "benchmarks.per_token:PerToken"})]),
    "knapsack": ({}, [RecipeChoice("calibrated", {"budget": "knapsack"})]),
    "lr-1e-4": ({"training.learning_rate": 1e-4}, parse_recipes("dapo")),
    "lr-2e-4": ({"training.learning_rate": 2e-4}, parse_recipes("dapo")),
    "half-cost": ({"training.max_rollouts": 16384}, parse_recipes("prepo")),
}
"""What is tried besides, at the headline's share of dead prompts: settings and recipes."""
ABLATION_SEEDS = range(2)
KEPT = ("config.yaml", "summary.json", "metrics.jsonl.gz", "evaluations.jsonl.gz")
BROWSED = 5
"""Steps whose rollouts are kept of one seed of each recipe, for the page."""


def train(dead: float, seeds: Sequence[int], only: Sequence[str], jobs: int, folder: Path) -> None:
    """Train what is missing of a world, seed by seed; with `only`, of these recipes."""
    for seed in seeds:
        choices = [choice for chosen, names in WORLDS[dead].items() if seed in chosen for choice in names]
        choices = [choice for choice in choices if not only or choice.label in only]
        plain = [choice for choice in choices if choice.recipe != "sgpo"]
        flags: dict[str, Any] = {"data.dataset_name": f"embedded:dead={dead:g}"}
        runs = plan(plain, [seed], folder, [CONFIG], flags)
        if len(plain) < len(choices):
            flags = {"data.dataset_name": str(pass_rates(dead, folder)), "data.charge_pass_rates": True,
                     "evaluation.dataset_name": "embedded"}  # fmt: skip
            runs += plan([RecipeChoice("sgpo")], [seed], folder, [CONFIG], flags)
        train_missing(runs, jobs)
        for run in runs:
            compress(run.folder, BROWSED if seed == max(next(iter(WORLDS[dead]))) else 0)


def train_ablations(jobs: int, folder: Path) -> None:
    """Train what is missing of the ablations."""
    for name, (settings, choices) in ABLATIONS.items():
        flags = {"data.dataset_name": f"embedded:dead={HEADLINE:g}", **settings}
        runs = plan(choices, ABLATION_SEEDS, folder / name, [CONFIG], flags)
        train_missing(runs, jobs)
        for run in runs:
            compress(run.folder)


def pass_rates(dead: float, folder: Path) -> Path:
    """The world's prompts with the base model's pass rates, which sgpo needs."""
    scored = folder / "pass_rates.jsonl"
    if not scored.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "prepo_cli", "score-passrate", f"embedded:dead={dead:g}", "--k", "8",
                   "--max-completion-length", "96", "--output", str(scored)]  # fmt: skip
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return scored


def compress(run: Path, browsed: int = 0) -> None:
    """Keep what the report needs of a finished run, and the rollouts of `browsed` of its steps."""
    for name in ("metrics", "evaluations"):
        path = run / f"{name}.jsonl"
        if path.is_file():
            lines = [json.dumps(rounded(json.loads(line))) for line in path.open(encoding="utf-8")]
            packed = gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)
            path.with_suffix(".jsonl.gz").write_bytes(packed)
    kept = set(evenly(recorded_steps(run / "rollouts"), browsed)) if browsed else set()
    for path in run.iterdir():
        if path.name == "rollouts" and kept:
            for step in set(path.iterdir()) - kept:
                step.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        elif path.name not in KEPT:
            path.unlink()


def rounded(value: Any) -> Any:
    """Numbers to four digits, in dictionaries and lists too.

    >>> rounded({"reward": 0.123456789, "step": 123456, "list": [1 / 3]})
    {'reward': 0.1235, 'step': 123456, 'list': [0.3333]}
    """
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def main() -> None:
    """Train, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("docs/study"))
    parser.add_argument("--dead", type=float, nargs="+", default=list(WORLDS), choices=list(WORLDS))
    parser.add_argument("--seeds", default="0..9")
    parser.add_argument("--only", nargs="+", default=[], help="labels of recipes")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--skip-ablations", action="store_true")
    parser.add_argument("--only-report", action="store_true")
    args = parser.parse_args()
    if not args.only_report:
        for dead in args.dead:
            wanted = [seed for seed in parse_seeds(args.seeds) if any(seed in chosen for chosen in WORLDS[dead])]
            train(dead, wanted, args.only, args.jobs, args.output / f"dead-{dead:g}")
        if not args.skip_ablations:
            train_ablations(args.jobs, args.output / "ablations")
    report(args.output, list(WORLDS))


if __name__ == "__main__":
    main()
