"""Which recipes were evaluated as the baseline was, and on which prompts."""

from __future__ import annotations

from collections.abc import Sequence

from prepo_cli.comparison.recipes import Group, conditions
from prepo_cli.comparison.sample import common


def comparable(
    groups: Sequence[Group], baseline: Group
) -> tuple[list[Group], tuple[str, ...], dict[str, tuple[str, ...]], list[str]]:
    """The groups that can be compared with the baseline, their common prompts, how the others differ, and notes.

    The baseline is among the first. All groups must have been evaluated.
    No prompts are shared where only means are known.
    """
    kept, others, notes, most = [], {}, [], 0
    shared = common(baseline.runs[0].prompt_ids, baseline.runs)
    for group in groups:
        theirs = common(group.runs[0].prompt_ids, group.runs)
        left = common(shared, group.runs)
        differing = _differing(group, baseline)
        if not differing and shared and not left:
            differing = ["different prompts"]
        if differing:
            others[group.name] = tuple(differing)
            notes.append(
                f"{group.name} is not compared with {baseline.name}: it was evaluated with {', '.join(differing)}."
            )
        else:
            kept.append(group)
            shared, most = left, max(most, len(theirs), len(shared))
    if len(shared) < most:
        notes.append(f"Accuracies are over the {len(shared):,} of {most:,} prompts that all evaluations share.")
    return kept, shared, others, notes


def _differing(group: Group, baseline: Group) -> list[str]:
    """What the evaluations differ in apart from prompts, in words."""
    mine, others = conditions(group.runs[0]), conditions(baseline.runs[0])
    return [
        f"{name} {_text(mine.get(name))} instead of {_text(others.get(name))}"
        for name in mine | others
        if mine.get(name) != others.get(name)
    ]


def _text(value: object) -> str:
    return "unknown" if value is None else str(value)
