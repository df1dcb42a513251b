"""What the study shows: a page, pictures and a table for each world, and one table and one curve across them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.study_curve import Goal, draw_curve, everywhere
from prepo_cli.comparison.analysis import as_json, compare
from prepo_cli.comparison.figures import draw
from prepo_cli.comparison.page import write_page
from prepo_cli.comparison.recipes import group_runs
from prepo_cli.comparison.result import Comparison, CostRatio, Recipe, Run
from prepo_cli.comparison.runs import read_run
from prepo_cli.statistics import Interval, interval_text

ROOT = Path(__file__).parents[1]
HEADLINE = 0.8
"""The world of the README's table."""
BELOW = 0.02
"""The second goal is this much below the baseline's final accuracy, where curves still rise."""
PARTS = (0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1)
"""Shares of the cost between which groups are counted."""
PLAIN = ("training.lr_scheduler_type=constant", "training.learning_rate=5e-05", "training.max_rollouts=32768")
"""The study's own settings, which the names of ablations need not repeat."""
PICTURES = ("accuracy_rollouts", "cost_ratios", "zero_variance", "phases")
"""What is kept of a world's pictures besides its page."""


def report(folder: Path, worlds: Sequence[float]) -> None:
    """Write each world's page, pictures and table, and the table and curve over the worlds."""
    found: dict[float, Comparison] = {}
    earlier: Goal = {}
    final: Goal = {}
    for dead in sorted(worlds):
        world = folder / f"dead-{dead:g}"
        runs = sorted(path.parent for path in world.glob("*/summary.json"))
        if not runs:
            continue
        read = [read_run(run) for run in runs]
        comparison = compare(read, baseline="random")
        assert comparison.target is not None
        found[dead] = comparison
        final[dead] = ratios(comparison)
        earlier[dead] = ratios(compare(read, baseline="random", target=comparison.target - BELOW))
        draw(comparison, world)
        for path in [*world.glob("*.png"), *world.glob("*.svg")]:
            if path.stem not in PICTURES:
                path.unlink()
        write_page(world / "page.html", comparison)
        (world / "comparison.json").write_text(json.dumps(as_json(comparison), indent=1) + "\n", encoding="utf-8")
    tables = {f"table dead-{dead:g}": table(comparison, earlier[dead]) for dead, comparison in found.items()}
    if HEADLINE in found:
        tables |= {"groups": groups_table(found[HEADLINE]), "ablations": ablations_table(folder)}
    if len(found) > 1:
        goals = {f"{BELOW:g} below random's final accuracy": earlier, "random's final accuracy": final}
        draw_curve(goals, folder / "curve.png")
        tables |= {"curve below": curve_table(found, earlier), "curve final": curve_table(found, final)}
    splice(folder / "README.md", tables)
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


def groups_table(comparison: Comparison) -> str:
    """Groups with differing rewards and updates with a gradient in each part of the cost, means over seeds."""
    whole = min(run.costs["rollouts"] for run in comparison.runs)
    lines = [
        "| recipe | " + " | ".join(f"to {whole * end:,.0f}" for end in PARTS[1:]) + " | in all |",
        "| --- |" + " ---: |" * len(PARTS),
    ]
    for recipe in comparison.recipes:
        counts = []
        for run in (run for run in comparison.runs if run.name in recipe.runs):
            differing = run.metrics["groups_rolled"] * (1 - run.metrics["frac_reward_zero_std"])
            updates = np.nan_to_num(run.metrics["grad_norm"]) > 0
            edges = np.array(PARTS) * whole
            part = np.clip(np.searchsorted(edges, run.metrics["cost/rollouts_total"], side="left"), 1, len(PARTS) - 1)
            counts.append([np.bincount(part, values, len(PARTS))[1:] for values in (differing, updates)])
        differing_C, updates_C = np.mean(counts, axis=0)
        cells = [f"{d:,.0f} / {u:,.0f}" for d, u in zip(differing_C, updates_C, strict=True)]
        cells.append(f"{differing_C.sum():,.0f} / {updates_C.sum():,.0f}")
        lines.append(f"| `{recipe.name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ablations_table(folder: Path) -> str:
    """The ablations beside the plain runs of the same recipes and seeds, as Markdown."""
    runs = [read_run(path.parent) for path in sorted((folder / "ablations").glob("*/*/summary.json"))]
    if not runs:
        return ""
    seeds = {run.seed for run in runs}
    plain = [read_run(path.parent) for path in sorted((folder / f"dead-{HEADLINE:g}").glob("*/summary.json"))]
    names = {run.recipe for run in runs} | {"random", "calibrated"}
    plain = [run for run in plain if run.seed in seeds and run.recipe in names]
    groups, _ = group_runs([*plain, *runs])
    [base] = [group.name for group in groups if any(run.folder == plain_random(plain) for run in group.runs)]
    comparison = compare([*plain, *runs], baseline=base)
    assert comparison.target is not None
    earlier = ratios(compare([*plain, *runs], baseline=base, target=comparison.target - BELOW))
    shown = table(comparison, earlier)
    for setting in PLAIN:
        shown = shown.replace(f"{setting}, ", "").replace(setting, "")
    return shown.replace(", )", ")").replace(" ()", "").replace("training.", "")


def plain_random(runs: Sequence[Run]) -> Path:
    """The folder of a run of the baseline."""
    return next(run.folder for run in runs if run.recipe == "random")


def zero_variance(comparison: Comparison, recipe: Recipe) -> float:
    """Share of a recipe's groups without variance, over whole runs."""
    runs = [run for run in comparison.runs if run.name in recipe.runs]
    groups = [run.metrics["groups_rolled"] for run in runs]
    shares = [run.metrics["frac_reward_zero_std"] for run in runs]
    return float(np.mean([np.average(s, weights=g) for s, g in zip(shares, groups, strict=True)]))


def curve_table(found: Mapping[float, Comparison], goal: Goal) -> str:
    """Cost ratios to one goal of the recipes of several worlds, as Markdown."""
    zero = {dead: zero_variance(c, next(r for r in c.recipes if r.name == c.baseline)) for dead, c in found.items()}
    lines = [
        "| recipe | " + " | ".join(f"dead {dead:g}" for dead in found) + " |",
        "| --- |" + " ---: |" * len(found),
        "| *zero variance under random* | " + " | ".join(f"{share:.2f}" for share in zero.values()) + " |",
    ]
    for name in everywhere(goal):
        cells = [ratios[name].text if name in ratios else "" for ratios in goal.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _text(interval: Interval | None, form: str) -> str:
    return "" if interval is None else interval_text(interval._asdict(), form)
