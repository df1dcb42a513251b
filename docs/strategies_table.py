"""Write docs/strategies.md: what every recipe took in 30 steps on the embedded task.

python docs/strategies_table.py [--runs FOLDER]      # about eight minutes on two cores; finished runs are kept
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.config import recipes, resolve
from prepo_cli.files import read_lines
from prepo_cli.training.train import train

PAGE = Path(__file__).parent / "strategies.md"
STEPS = 30
HEAD = f"""# What each recipe takes

Every recipe trained the embedded model for {STEPS} steps of 32 groups, 8 rollouts each on average, seed 0, on the CPU.
The table is what was measured, written by `docs/strategies_table.py`. It shows what a method spends, not how good it
is: one short run of one seed says nothing about that; `prepo compare` over many seeds does. Thirty steps are less than
an epoch, so what learns from a prompt's own earlier visits (GRESO's skipping, E3's budgets, MoPPS' and learnability's
pass rates) has hardly begun: `greso` still does what `dapo` does. The times were taken beside other work; what a
selector costs by itself is in `benchmarks/strategies.py`.

- **generated** and **trained**: rollouts; the difference was dropped by the filter, or surplus of a refill round.
- **zero variance**: mean share of the groups rolled out whose rewards were all equal, which teach nothing.
- **select**: mean time of selector and budget in a step, perplexity scoring included.
- **tokens generated** and **tokens scored**: sampled, and passed through the model to score perplexity.

| recipe | generated | trained | zero variance | select (ms) | tokens generated | tokens scored |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
"""


def row(recipe: str, root: Path) -> str:
    """The recipe's line, running it if it was not run."""
    folder = root / recipe
    if not (folder / "summary.json").is_file():
        sets = [f"training.total_steps={STEPS}", "evaluation.dataset_name=null", "reporting.figures=false"]
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


def main() -> None:
    """Run what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/strategies"))
    args = parser.parse_args()
    PAGE.write_text(HEAD + "\n".join(row(recipe, args.runs) for recipe in recipes()) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
