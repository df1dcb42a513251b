"""`prepo watch`: follow a run in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[
        Path, typer.Argument(help="Run folder of prepo train, or 'latest' for the most recently started run.")
    ],
    once: Annotated[bool, typer.Option("--once", help="Print the current state and exit.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the current state as one JSON object and exit.")
    ] = False,
) -> None:
    """Follow a training run in the terminal until it ends.

    Shows reward, held-out accuracy, share of zero-variance groups, throughput, cost, time left and the last
    completions, refreshed every second. It only reads the run folder, so it works for any run on this machine or a
    shared disk without slowing it down. Ctrl-C stops watching, not the run. When piped, it prints the current state
    once.

    \b
    Examples:
      prepo watch latest
      prepo watch runs/prepo-seed0 --once
      prepo watch runs/prepo-seed0 --json
    """
    import sys
    from shutil import get_terminal_size

    from rich.console import Console

    from prepo_cli.models import run_named
    from prepo_cli.watch.follow import follow
    from prepo_cli.watch.run import WatchedRun
    from prepo_cli.watch.view import as_json, view

    watched = WatchedRun(Path(run_named(str(run))))
    if json_output:
        import json

        from prepo_cli.files import finite

        typer.echo(json.dumps(finite(as_json(watched))))
        return
    size = None if sys.stdout.isatty() else get_terminal_size((80, 24))
    console = Console(file=sys.stdout, width=size and size.columns, height=size and size.lines, highlight=False)
    if once or not console.is_terminal or console.is_dumb_terminal:
        console.print(view(watched, console))
    else:
        follow(watched, console)
