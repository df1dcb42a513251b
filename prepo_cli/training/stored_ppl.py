"""Check that stored perplexities were computed as the run that selects by them would compute them."""

from __future__ import annotations

from collections.abc import Set

from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.evaluation.score_context import PerplexityContext, ScoreContext
from prepo_cli.sections import ModelConfig
from prepo_cli.training.stored_scores import recorded_contexts, warn_of_differences


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
    recorded = recorded_contexts(dataset, PerplexityContext)
    for context in filter(None, recorded):
        for scope in sorted(scopes - {context.scope}):
            raise UsageError(
                f"{dataset.name}: column 'ppl' was scored with scope={context.scope}, but the "
                f"selector uses scope={scope}; set scope={context.scope} on the selector, or run: "
                f"prepo score-ppl {dataset.name} --scope {scope}"
            )
    warn_of_differences(dataset, PerplexityContext, recorded, ScoreContext.of(model, renderer))
