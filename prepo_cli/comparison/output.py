"""The folder of a comparison: the page, the pictures, and of a study also its runs and their logs.

It may hold other files, which its marker does not list and which stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from prepo_cli.comparison.plan import PlannedRun
from prepo_cli.comparison.result import AXES
from prepo_cli.errors import UsageError
from prepo_cli.lock import locked_folder
from prepo_cli.ownership import Marker, read_marker, refuse_foreign

PAGE = "page.html"
PICTURES = (
    *(f"accuracy_{axis}" for axis in AXES),
    "budgets",
    "cost_ratios",
    "perplexity_pass_rate",
    "perplexity_selected",
    "phases",
    "temperature",
    "weights",
    "zero_variance",
)
"""Names of all pictures that a comparison may draw, as PNG and SVG."""
WRITTEN = (PAGE, *(f"{name}.{ending}" for name in PICTURES for ending in ("png", "svg")))


@contextmanager
def claimed(folder: Path, runs: Sequence[PlannedRun], break_lock: bool = False) -> Iterator[None]:
    """Keep other processes out of the folder, in which the comparison, and the runs of a study, may be written.

    Raises:
        UsageError: another process uses it, or a file that prepo did not write is in the way.
    """
    with locked_folder(folder, break_lock):
        marker = read_marker(folder)
        if marker is not None and marker.kind != "comparison":
            raise UsageError(f"{folder} belongs to a prepo {marker.kind}; choose another --output-dir")
        logs = [name for run in runs for name in (run.log, run.settings)]
        names = [*WRITTEN, *(path.relative_to(folder).as_posix() for path in logs)]
        refuse_foreign(folder, names, "choose another --output-dir")
        for run in runs:
            _refuse_foreign_run(run, marker)
        files = [*(marker.files if marker is not None else ()), *names, *(f"{run.folder.name}/" for run in runs)]
        Marker("comparison", tuple(dict.fromkeys(files))).write(folder)
        yield


def _refuse_foreign_run(run: PlannedRun, marker: Marker | None) -> None:
    """Refuse a folder that the run would have to replace and that this study did not make for it."""
    is_listed = marker is not None and f"{run.folder.name}/" in marker.files
    if run.is_begun and not (run.finished or run.resumable) and not (is_listed and run.is_ours):
        raise UsageError(
            f"{run.folder} contains an unfinished run without a checkpoint that this study did not "
            "start; delete it, or choose another --output-dir"
        )
