"""Whether stored scores were computed as the run that uses them would compute them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from prepo_cli.data.loading import PromptDataset
from prepo_cli.evaluation.score_context import ScoreContext
from prepo_cli.terminal import say

C = TypeVar("C", bound=ScoreContext)


def recorded_contexts(dataset: PromptDataset, kind: type[C]) -> list[C | None]:
    """The different contexts of a dataset's stored scores; None stands for rows without one."""
    cells = dataset.table.unique(kind.column) if kind.column in dataset.table.column_names else [None]
    return [kind.from_json(cell) for cell in cells]


def warn_of_differences(
    dataset: PromptDataset,
    kind: type[ScoreContext],
    recorded: Sequence[ScoreContext | None],
    run: ScoreContext,
    others: Sequence[str] = (),
) -> None:
    """Say in one line where recorded contexts differ from the run's, or are missing; `others` are more faults."""
    known = [context for context in recorded if context is not None]
    faults = []
    if len(known) < len(recorded):
        where = " in some rows" if known else ""
        faults.append(f"have no record of the {kind.recorded} they were computed with{where}")
    other_models = [context for context in known if not context.same_model(run)]
    if other_models:
        faults.append(f"were computed with model {_named(other_models[0])}, not {_named(run)}")
    if any(context.rendering != run.rendering for context in known):
        faults.append("were computed with another chat template, template argument, system prompt or tokenizer")
    faults += others
    if faults:
        say(
            f"warning: the stored {kind.scores} of {dataset.name} {' and '.join(faults)}; to match this run, score "
            f"again with its model, system prompt and template arguments ({kind.command})"
        )


def _named(context: ScoreContext) -> str:
    revision = f"@{context.revision}" if context.revision else ""
    files = f" (files {context.weights})" if context.weights else ""
    return f"'{context.model}{revision}'{files}"
