"""What docs/performance.md shows of benchmarks/results.json."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import growth_page
from benchmarks.paired import ROOT, benchmark

PAGE = ROOT / "docs" / "performance.md"
FIGURE = ROOT / "docs" / "images" / "growth.png"
LARGE = "large"
Kept = dict[str, Any]
"""By benchmark, then size: `measured` (when, where, with what), `rounds` and `ratios`; for `growth` its points."""


def write(kept: Kept, names: tuple[str, ...], page: Path = PAGE, figure: Path = FIGURE) -> None:
    """Replace the page's tables, and the figure, by what has been measured."""
    text = page.read_text(encoding="utf-8")
    sections = {}
    if any(name in kept for name in names):
        sections["ratios"] = ratios(kept, names)
    if "growth" in kept:
        growth_page.draw(kept["growth"]["points"], figure)
        sections["growth"] = growth(kept)
    for section, content in sections.items():
        begin, end = f"<!-- {section} -->", f"<!-- end of {section} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n\n{content}\n\n{end}{rest.partition(end)[2]}"
    page.write_text(text, encoding="utf-8")


def ratios(kept: Kept, names: tuple[str, ...]) -> str:
    """All ratios and amounts as one table."""
    lines = ["| ratio or amount | median | spread | rounds | goal |", "| --- | ---: | ---: | ---: | ---: |"]
    measured: dict[str, list[str]] = {}
    for name in (name for name in names if name in kept):
        for size in (size for size in ("full", LARGE) if size in kept[name]):
            entry = kept[name][size]
            measured.setdefault(entry["measured"], []).append(f"{name} ({size})")
            for claim, ratio in entry["ratios"].items():
                low, high, median = (shown(ratio[key], ratio["unit"]) for key in ("low", "high", "median"))
                spread = f"{low} to {high}" if entry["rounds"] > 1 else ""
                goal = shown(ratio["limit"], ratio["unit"]) if size == goals_at(name) else ""
                label = f"{claim}, *large*" if size == LARGE else claim
                lines.append(f"| {label} | {median} | {spread} | {entry['rounds']} | {goal} |")
    for when, of in measured.items():
        lines += ["", f"Measured {when}: {', '.join(of)}." if len(measured) > 1 else f"Measured {when}."]
    return "\n".join(lines)


def goals_at(name: str) -> str:
    """The size that a benchmark's goals are for: `large`, if it has one."""
    return LARGE if LARGE in benchmark(name).SIZES else "full"


def growth(kept: Kept) -> str:
    """The figure and the table of exponents."""
    image = f"![Seconds and megabytes of a step against each of the four, both axes logarithmic](images/{FIGURE.name})"
    return f"{image}\n\n{growth_page.markdown(kept['growth']['points'], kept['growth']['measured'])}"


def shown(value: float | None, unit: str) -> str:
    """A value with its unit; nothing for None.

    >>> shown(0.3333, ""), shown(1.1, ""), shown(2e9, "bytes"), shown(1234.5, "tokens/s"), shown(None, "")
    ('0.33', '1.10', '2.00 GB', '1,234 tokens/s', '')
    """
    if value is None:
        return ""
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB"
    return f"{value:,.0f} {unit}" if unit else f"{value:.2f}"
