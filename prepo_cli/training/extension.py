"""Resuming a run with other limits on its length: which are refused, and what they do to its schedules.

An extended run is the run as it stands, resumed with the new limits: progress, the share of the length that is done,
jumps back, and whatever follows progress jumps with it.
"""

from __future__ import annotations

from pathlib import Path

from prepo_cli.errors import UsageError
from prepo_cli.reporting.resuming import changed_limits, depends_on_length
from prepo_cli.sections import RunConfig
from prepo_cli.training.limits import UNITS, Limits
from prepo_cli.training.progress import Progress
from prepo_cli.training.schedule import learning_rate


def refuse_limits(path: Path, before: RunConfig, now: RunConfig, progress: Progress) -> None:
    """Refuse limits that the run in a folder has passed, and new ones that it would never get to.

    Raises:
        UsageError: which limit, how far the run is, and what to set.
    """
    changed, limits = changed_limits(before, now), Limits(now.training)
    for name, (_, limit) in changed.items():
        done = limits.done(progress)[UNITS[name]]
        if limit is not None and limit < done:
            raise UsageError(
                f"training.{name}={limit} is less than the {_shown(done)} {UNITS[name]} that "
                f"{path} has already done, and a run can't be shortened; choose a larger limit, or "
                "start a new run in another --output-dir"
            )
    for name, unit in UNITS.items() if changed else ():
        limit = limits.limits.get(unit)
        if name not in changed and limit is not None and limits.done(progress)[unit] >= limit:
            others = " and ".join(f"training.{other}" for other in changed)
            raise UsageError(
                f"{path} has reached training.{name}={limit}, so changing {others} alone doesn't "
                f"extend it; raise that limit too, or remove it with --set training.{name}=null"
            )


def what_changes(before: RunConfig, now: RunConfig, progress: Progress) -> str | None:
    """One line on the new limits and what they do to the schedules; None if the limits are the same."""
    changed = changed_limits(before, now)
    if not changed:
        return None
    limits = ", ".join(f"training.{name} {_shown(old)} -> {_shown(new)}" for name, (old, new) in changed.items())
    was, now_done = (min(1.0, Limits(config.training).share(progress)) for config in (before, now))
    line = f"resuming with a different length ({limits}): progress jumps from {was:.1%} to {now_done:.1%}"
    following = depends_on_length(now)
    if not following:
        return f"{line}; nothing in this run depends on it"
    return f"{line}, and with it {'; '.join(following)}{_rates(before, now, progress)}"


def _rates(before: RunConfig, now: RunConfig, progress: Progress) -> str:
    """The learning rate of the next step before and now, where the length changes it."""
    old, new = (
        learning_rate(config.training, progress.step, Limits(config.training).spent(progress))
        for config in (before, now)
    )
    return "" if old == new else f"; learning rate {old:.3g} -> {new:.3g}"


def _shown(amount: float | None) -> str:
    return "none" if amount is None else f"{amount:,.1f}" if isinstance(amount, float) else f"{amount:,}"
