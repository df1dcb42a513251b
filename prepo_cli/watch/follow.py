"""Show a run until it ends."""

from __future__ import annotations

from time import sleep

from rich.console import Console
from rich.live import Live

from prepo_cli.watch.run import WatchedRun
from prepo_cli.watch.view import view

REFRESH_SECONDS = 1.0


def follow(run: WatchedRun, console: Console) -> None:
    """Redraw the run in place until no process runs it.

    Raises:
        KeyboardInterrupt: the user stopped watching; the run continues.
    """
    live = Live(view(run, console), console=console, auto_refresh=False, vertical_overflow="crop")
    try:
        live.start(refresh=True)
        while run.state == "running":
            sleep(REFRESH_SECONDS)
            run.refresh()
            live.update(view(run, console), refresh=True)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped watching; the run in {run.folder.path} continues") from None
    finally:
        live.stop()
