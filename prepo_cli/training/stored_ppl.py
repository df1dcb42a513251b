"""Check that stored perplexities were computed as the run that selects by them would compute them."""

from __future__ import annotations

from collections.abc import Set

from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.ppl_context import COLUMN, PerplexityContext
from prepo_cli.sections import ModelConfig
from prepo_cli.terminal import say


def check_stored_ppl(scopes: Set[str], dataset: PromptDataset, model: ModelConfig, renderer: Renderer) -> None:
    """Compare the context of the dataset's stored perplexities with this run's; one line warns of all differences.

    Args:
        scopes: the selector's `stored_scopes`; nothing is checked if it has none.
        dataset: the training set.
        model: the model that the run starts from.
        renderer: what renders the run's prompts.

    Raises:
        UsageError: the perplexities were scored with another scope.
    """
    if not scopes:
        return
    cells = dataset.table.unique(COLUMN) if COLUMN in dataset.table.column_names else [None]
    known = [context for context in map(PerplexityContext.from_json, cells) if context is not None]
    for context in known:
        for scope in sorted(scopes - {context.scope}):
            raise UsageError(
                f"{dataset.name}: its column 'ppl' was scored with scope={context.scope}, but the selector uses "
                f"scope={scope}; set scope={context.scope} on the selector, or score again with: "
                f"prepo score-ppl {dataset.name} --scope {scope}"
            )
    faults = []
    if len(known) < len(cells):
        where = " in some rows" if known else ""
        faults.append(f"have no record of the model, scope and prompt rendering they were computed with{where}")
    run = PerplexityContext.of(model, renderer, min(scopes))
    others = [context for context in known if not context.same_model(run)]
    if others:
        faults.append(f"were computed with model {_named(others[0])}, not {_named(run)}")
    if any(context.rendering != run.rendering for context in known):
        faults.append("were computed with another chat template, template argument, system prompt or tokenizer")
    if faults:
        say(
            f"warning: the stored perplexities of {dataset.name} {' and '.join(faults)}; to match this run, score "
            "again with its model, system prompt and template arguments (prepo score-ppl)"
        )


def _named(context: PerplexityContext) -> str:
    revision = f"@{context.revision}" if context.revision else ""
    files = f" (files {context.weights})" if context.weights else ""
    return f"'{context.model}{revision}'{files}"
