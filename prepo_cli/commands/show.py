"""`prepo show`: print the completions that a run or an evaluation recorded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def show(
    folder: Annotated[
        Path, typer.Argument(help="Run or evaluation folder, or 'latest' for the most recently started run.")
    ],
    step: Annotated[
        int | None, typer.Option(min=0, help="Step to show, in a run [default: the latest recorded].")
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Only completions of the prompt with this id, from the latest step that has any.")
    ] = None,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only incorrect completions.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many completions.")] = 8,
    json_output: Annotated[bool, typer.Option("--json", help="Print the completions as one JSON object.")] = False,
) -> None:
    """Show completions from a run or an evaluation, with prompts, gold answers and rewards.

    \b
    Examples:
      prepo show latest
      prepo show runs/prepo-seed0 --step 20 --wrong --limit 3
      prepo show runs/prepo-seed0 --prompt train-00042
      prepo show evals/embedded-embedded --wrong --json
    """
    from prepo_cli.models import run_named
    from prepo_cli.reporting.shown_completions import find, print_completions

    found = find(Path(run_named(str(folder))), step=step, prompt=prompt, wrong=wrong, limit=limit)
    if json_output:
        import json
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(found)))
    else:
        print_completions(found)
