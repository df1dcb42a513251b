"""What the study shows: a page, pictures and a table for each world, and one table and one curve across them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from prepo_cli.comparison.analysis import as_json, compare
from prepo_cli.comparison.figures import draw
from prepo_cli.comparison.figures.cost_ratios import limits
from prepo_cli.comparison.page import write_page
from prepo_cli.comparison.result import Comparison, CostRatio, Recipe
from prepo_cli.comparison.runs import read_run
from prepo_cli.comparison.style import BLACK, label, picture, styles
from prepo_cli.statistics import Interval, interval_text

ROOT = Path(__file__).parents[1]
HEADLINE = 0.8
"""The world of the README's table."""
BELOW = 0.02
"""The second goal is this much below the baseline's final accuracy, where curves still rise."""
PICTURES = ("accuracy_rollouts", "cost_ratios", "zero_variance", "phases")
"""What is kept of a world's pictures besides its page."""


def report(folder: Path, worlds: Sequence[float]) -> None:
    """Write each world's page, pictures and table, and the table and curve over the worlds."""
    found: dict[float, Comparison] = {}
    earlier: dict[float, dict[str, CostRatio]] = {}
    for dead in sorted(worlds):
        world = folder / f"dead-{dead:g}"
        runs = sorted(path.parent for path in world.glob("*/summary.json"))
        if not runs:
            continue
        read = [read_run(run) for run in runs]
        comparison = compare(read, baseline="random")
        assert comparison.target is not None
        found[dead] = comparison
        earlier[dead] = ratios(compare(read, baseline="random", target=comparison.target - BELOW))
        draw(comparison, world)
        for path in [*world.glob("*.png"), *world.glob("*.svg")]:
            if path.stem not in PICTURES:
                path.unlink()
        write_page(world / "page.html", comparison)
        (world / "comparison.json").write_text(json.dumps(as_json(comparison), indent=1) + "\n", encoding="utf-8")
    if len(found) > 1:
        draw_curve(found, folder / "curve.png")
    tables = {f"table dead-{dead:g}": table(comparison, earlier[dead]) for dead, comparison in found.items()}
    splice(folder / "README.md", tables | {"curve": curve_table(found)})
    if folder.resolve() == ROOT / "docs" / "study":
        splice(ROOT / "README.md", {"headline": headline(found[HEADLINE], earlier[HEADLINE])})


def splice(path: Path, blocks: Mapping[str, str]) -> None:
    """Replace what a Markdown file has between `<!-- name -->` and `<!-- end -->`, for each name that it has."""
    text = path.read_text(encoding="utf-8")
    for name, block in blocks.items():
        before, mark, after = text.partition(f"<!-- {name} -->\n")
        if mark:
            text = before + mark + block + after[after.index("<!-- end -->") :]
    path.write_text(text, encoding="utf-8")


def ratios(comparison: Comparison) -> dict[str, CostRatio]:
    """The ratio of rollouts of every recipe that has one."""
    return {r.name: r.cost_ratios["rollouts"] for r in comparison.recipes if "rollouts" in r.cost_ratios}


def headline(comparison: Comparison, earlier: Mapping[str, CostRatio]) -> str:
    """For the project's README: rollouts to both goals as a multiple of the baseline's, cheapest first."""
    final, base = ratios(comparison), comparison.baseline
    by_name = {recipe.name: recipe for recipe in comparison.recipes}
    cheapest = sorted(final, key=lambda name: earlier[name].value or earlier[name].low + 1e3)
    lines = [
        f"| recipe | rollouts to {BELOW:g} below {base}'s final accuracy | rollouts to {base}'s final accuracy | "
        f"final {comparison.metric} |",
        "| --- | ---: | ---: | ---: |",
        f"| `{base}` | 1 | 1 | {_text(by_name[base].final, '.3f')} |",
        *(
            f"| `{name}` | {earlier[name].text} | {final[name].text} | {_text(by_name[name].final, '.3f')} |"
            for name in cheapest
        ),
    ]
    return "\n".join(lines) + "\n"


def table(comparison: Comparison, earlier: Mapping[str, CostRatio]) -> str:
    """A world's recipes, best first, as Markdown."""
    rows = sorted(comparison.recipes, key=lambda recipe: -(recipe.final.value if recipe.final else 0.0))
    lines = [
        f"| recipe | seeds | {comparison.metric} | difference to {comparison.baseline} | p (Holm) | "
        f"rollouts to {BELOW:g} below its accuracy | rollouts to its accuracy | zero variance | tokens |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    final = ratios(comparison)
    for recipe in rows:
        baseline = recipe.name == comparison.baseline
        cells = [
            f"`{recipe.name}`",
            str(len(recipe.runs)),
            _text(recipe.final, ".3f"),
            "" if baseline else _text(recipe.difference, "+.3f"),
            "" if recipe.p_holm is None else f"{recipe.p_holm:.3f}",
            *("1" if baseline else goal[recipe.name].text if recipe.name in goal else "" for goal in (earlier, final)),
            f"{zero_variance(comparison, recipe):.2f}",
            f"{recipe.costs['tokens']:,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def zero_variance(comparison: Comparison, recipe: Recipe) -> float:
    """Share of a recipe's groups without variance, over whole runs."""
    runs = [run for run in comparison.runs if run.name in recipe.runs]
    groups = [run.metrics["groups_rolled"] for run in runs]
    shares = [run.metrics["frac_reward_zero_std"] for run in runs]
    return float(np.mean([np.average(s, weights=g) for s, g in zip(shares, groups, strict=True)]))


def curve_table(found: Mapping[float, Comparison]) -> str:
    """Cost ratios of every recipe in every world, as Markdown."""
    names = _names(found)
    zero = {dead: zero_variance(c, next(r for r in c.recipes if r.name == c.baseline)) for dead, c in found.items()}
    lines = [
        "| recipe | " + " | ".join(f"dead {dead:g}" for dead in found) + " |",
        "| --- |" + " ---: |" * len(found),
        "| *zero variance under random* | " + " | ".join(f"{share:.2f}" for share in zero.values()) + " |",
    ]
    for name in names:
        ratios = [_ratio(comparison, name) for comparison in found.values()]
        cells = ["" if ratio is None else ratio.text for ratio in ratios]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw_curve(found: Mapping[float, Comparison], path: Path) -> None:
    """The cost ratio of every recipe against the share of dead prompts."""
    look = styles(next(iter(found.values())))
    for comparison in found.values():
        look |= {name: style for name, style in styles(comparison).items() if name not in look}
    names = [name for name in _names(found) if sum(_ratio(c, name) is not None for c in found.values()) > 1]
    known = [ratio for c in found.values() for name in names if (ratio := _ratio(c, name)) is not None]
    low, high = limits(known)
    with picture(path, "Rollouts to random's final accuracy, as a multiple of random's own", 8.0, 4.6) as figure:
        axes = figure.subplots()
        for place, name in enumerate(names):
            points = [(dead, ratio) for dead, c in found.items() if (ratio := _ratio(c, name)) is not None]
            x = np.array([dead + 0.012 * (place - (len(names) - 1) / 2) for dead, _ in points])
            reached = [ratio.value is not None for _, ratio in points]
            y = np.array([min(max(r.low if r.value is None else r.value, low), high) for _, r in points])
            ends = [(max(r.low, low), high if r.high is None else min(r.high, high)) for _, r in points]
            color = look[name].color
            for i, (begin, end) in enumerate(ends):
                axes.plot([x[i], x[i]], [begin, end], color=color, linewidth=1.2)
                if points[i][1].high is None:
                    axes.plot([x[i]], [high], color=color, marker="^", markersize=5, clip_on=False)
            axes.plot(x, y, color=color, linestyle=look[name].linestyle, linewidth=1.2)
            shown = np.flatnonzero(reached)
            axes.plot(x[shown], y[shown], color=color, linestyle="", marker=look[name].marker, label=label(name))
        axes.axhline(1, color=BLACK, linewidth=0.9)
        axes.set_yscale("log", base=2)
        axes.set_ylim(low, high)
        axes.set_xticks(list(found))
        axes.set_xlabel("share of the training prompts that stay dead")
        axes.set_ylabel("multiple of random's rollouts (log scale)")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))


def _names(found: Mapping[float, Comparison]) -> list[str]:
    named = {r.name: None for comparison in found.values() for r in comparison.recipes if r.cost_ratios}
    return sorted(named)


def _ratio(comparison: Comparison, name: str) -> CostRatio | None:
    recipe = next((recipe for recipe in comparison.recipes if recipe.name == name), None)
    return None if recipe is None else recipe.cost_ratios.get("rollouts")


def _text(interval: Interval | None, form: str) -> str:
    return "" if interval is None else interval_text(interval._asdict(), form)
