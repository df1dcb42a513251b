"""Write docs/strategies.md: what every recipe cost in 30 steps on the embedded task.

python docs/strategies_table.py [--runs FOLDER]      # about eight minutes on 2 cores; finished runs are reused
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.config import resolve
from prepo_cli.evaluation.passrate_scoring import score_pass_rates
from prepo_cli.evaluation.settings import PassRateConfig
from prepo_cli.files import read_lines
from prepo_cli.recipes import recipes
from prepo_cli.training.train import train

PAGE = Path(__file__).parent / "strategies.md"
STEPS = 30
HEAD = f"""# What each recipe costs

The cost of a method, not its quality: every recipe trained the embedded model for {STEPS} steps of 32 groups, with 8
rollouts per group on average, seed 0, on two CPU cores. To find out which recipe is best, use [`prepo
compare`](compare.md) with many seeds.

- **generated**, **trained**: rollouts. The difference was dropped by the filter or left over in a refill round.
- **zero variance**: mean share of the generated groups whose rewards were all equal, so that they teach nothing.
- **select**: mean time per step for selector and budget, including perplexity scoring.
- **tokens generated**, **tokens scored**: sampled, and passed through the model to score perplexities.

In {STEPS} steps few prompts are rolled out twice, so whatever depends on earlier visits to a prompt (GRESO's
skipping, E3's budgets, MoPPS's pass rates) has hardly any effect yet: `greso` still does the same as `dapo`. `sgpo`
is charged here for scoring the 4,000 training prompts with 8 rollouts each, which is needed only once for any number
of runs.

| recipe | generated | trained | zero variance | select (ms) | tokens generated | tokens scored |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def row(recipe: str, root: Path) -> str:
    """The recipe's row; trains first if there is no finished run."""
    folder = root / recipe
    if not (folder / "summary.json").is_file():
        sets = [f"training.total_steps={STEPS}", "evaluation.dataset_name=null", "reporting.figures=false"]
        if recipe == "sgpo":
            sets += [f"data.dataset_name={scored(root)}", "data.charge_pass_rates=true"]
        train(resolve(flags={"recipe": recipe, "seed": 0, "output_dir": str(folder)}, sets=sets), overwrite=True)
    lines = read_lines(folder / "metrics.jsonl")
    cost: dict[str, Any] = json.loads((folder / "summary.json").read_text())["cost"]

    def mean(key: str) -> float:
        return float(np.mean([line[key] for line in lines]))

    return (
        f"| `{recipe}` | {cost['rollouts_total']:,} | {cost['rollouts_trained']:,} | "
        f"{mean('frac_reward_zero_std'):.2f} | {1e3 * mean('timing_s/select'):.1f} | "
        f"{cost['tokens_generated']:,} | {cost['tokens_scored']:,} |"
    )


def scored(root: Path) -> Path:
    """The embedded task with the base model's pass rates; scores it first if there is no such file."""
    path = root / "embedded_passrate.jsonl"
    if not path.is_file():
        root.mkdir(parents=True, exist_ok=True)
        score_pass_rates(PassRateConfig(output=path))
    return path


def main() -> None:
    """Train what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/strategies"))
    args = parser.parse_args()
    PAGE.write_text(HEAD + "\n".join(row(recipe, args.runs) for recipe in recipes()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
