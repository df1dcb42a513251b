"""What measured the stored pass rates that a run uses, and what that has cost."""

from __future__ import annotations

import pyarrow.compute as pc

from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.score_context import PassRateContext, ScoreContext
from prepo_cli.sections import RunConfig
from prepo_cli.terminal import say
from prepo_cli.training.costs import Costs
from prepo_cli.training.stored_scores import recorded_contexts, warn_of_differences

COLUMNS = ("pass_k", "pass_length")


def check_pass_rates(dataset: PromptDataset, config: RunConfig, renderer: Renderer) -> None:
    """Compare the context of the dataset's pass rates with this run's; one line warns of all differences."""
    recorded = recorded_contexts(dataset, PassRateContext)
    verdict = config.rewards.verdict_function
    judges = [context.verdict for context in recorded if context is not None and context.verdict != verdict]
    others = [f"used the verdict of '{judges[0]}', not '{verdict}'"] if judges else []
    warn_of_differences(dataset, PassRateContext, recorded, ScoreContext.of(config.model, renderer), others)


def account_for_pass_rates(dataset: PromptDataset, costs: Costs, charge: bool) -> None:
    """Say how many rollouts measured the dataset's pass rates, and charge them and their tokens if asked to.

    Raises:
        UsageError: they are to be charged, but the dataset has no record of them.
    """
    if any(name not in dataset.table.column_names for name in COLUMNS):
        if charge:
            raise UsageError(
                f"data.charge_pass_rates=true needs the columns {' and '.join(COLUMNS)}, which {dataset.name} lacks; "
                "add them with: prepo score-passrate"
            )
        say(f"the rollouts that measured the pass rates of {dataset.name} are not charged to this run")
        return
    rollouts, tokens = measured_with(dataset)
    each = f"the pass rates of {dataset.name} took {rollouts:,} rollouts, {rollouts / len(dataset):.3g} per prompt"
    if not charge:
        say(f"{each}: not charged to this run (data.charge_pass_rates=true charges them)")
        return
    say(f"{each}: charged to this run")
    costs.rollouts_total += rollouts
    costs.tokens_generated += tokens


def measured_with(dataset: PromptDataset) -> tuple[int, int]:
    """Rollouts and completion tokens behind the pass rates of all usable rows."""
    rollouts, tokens = 0, 0.0
    for batch in dataset.batches(COLUMNS):
        rollouts += int(pc.sum(batch["pass_k"]).as_py() or 0)
        tokens += float(pc.sum(pc.multiply(batch["pass_k"], batch["pass_length"])).as_py() or 0.0)
    return rollouts, round(tokens)
