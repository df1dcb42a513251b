"""The pictures of a comparison: which are drawn, what they say, and the numbers behind them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prepo_cli.comparison.figures import accuracy, cost_ratios, draw
from prepo_cli.comparison.figures.budgets import difficulty_bin
from prepo_cli.comparison.figures.cost_ratios import NARROWEST, WIDEST, limits
from prepo_cli.comparison.figures.perplexity import pass_rates_by_decile
from prepo_cli.comparison.figures.scene import Scene, band, by_progress
from prepo_cli.comparison.groups import MOST_FILES, Groups, by_bin, sample_groups
from prepo_cli.comparison.output import WRITTEN
from prepo_cli.comparison.result import Comparison, CostRatio, Recipe
from prepo_cli.comparison.style import label, panel_grid, styles
from prepo_cli.errors import UsageError
from tests.comparison.drawn import comparison, write_rollouts

NAMES = ("random", "prepo", "calibrated", "greso")
PNG = b"\x89PNG\r\n\x1a\n"
METRICS = {
    "frac_all_wrong": "zero_variance",
    "temperature": "temperature",
    "weighting/p": "weights",
    "selector/ppl_": "perplexity_selected",
}
VALUES = st.floats(-1e6, 1e6) | st.just(np.nan)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("drawn")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return draw(comparison(folder / "runs", NAMES, rollout_files=3), folder / "figures")


def texts(png: Path) -> set[str]:
    """All that is written in the picture's SVG."""
    root = ElementTree.parse(png.with_suffix(".svg")).getroot()
    return {"".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")}


def names_of(drawn: Mapping[str, Path]) -> set[str]:
    return {path.stem for path in drawn.values()}


def only(whole: Comparison, prefix: str) -> Comparison:
    """The comparison with those metrics alone, and neither curves nor ratios."""
    runs = [replace(r, metrics={k: v for k, v in r.metrics.items() if k.startswith(prefix)}) for r in whole.runs]
    recipes = [replace(recipe, curves={}, cost_ratios={}) for recipe in whole.recipes]
    return replace(whole, runs=tuple(runs), recipes=tuple(recipes))


def test_every_picture_is_a_png_and_an_svg_that_states_its_title(drawn: dict[str, Path]) -> None:
    assert names_of(drawn) == {
        "accuracy_rollouts", "accuracy_tokens", "accuracy_seconds", "cost_ratios", "zero_variance", "phases",
        "perplexity_pass_rate", "perplexity_selected", "budgets", "weights", "temperature",
    }  # fmt: skip
    for title, path in drawn.items():
        assert path.read_bytes().startswith(PNG)
        assert title in texts(path)


def test_the_folder_is_claimed_for_all_pictures(drawn: dict[str, Path]) -> None:
    written = {path.name for png in drawn.values() for path in png.parent.iterdir()}
    assert len(written) > 10 and written <= set(WRITTEN)


@pytest.mark.parametrize(
    ("stem", "words"),
    [
        ("accuracy_tokens", {*NAMES, "tokens generated and scored", "held-out accuracy (avg@8)", "target 0.610"}),
        ("accuracy_seconds", {"training seconds", "50", "100"}),
        (
            "cost_ratios",
            {"prepo", "1.10 [0.88, 1.44]", "0.80 [0.64, ∞)", "1/2", "multiple of random's cost (log scale)"},
        ),
        ("zero_variance", {*NAMES, "training progress (share of steps)", "all wrong"}),
        ("perplexity_pass_rate", {*NAMES, "decile of prompt perplexity (1: lowest)", "pass rate of the groups"}),
        ("perplexity_selected", {"prepo", "greso", "prompt perplexity"}),
        ("budgets", {"calibrated", "rollouts per group", "up to 25%"}),
        ("weights", {"prepo", "greso", "weight"}),
        ("temperature", {"calibrated", "temperature"}),
        ("phases", {*NAMES, "seconds per step", "generate", "scored", "tokens in a whole run"}),
    ],
)
def test_pictures_name_their_recipes_and_axes(drawn: dict[str, Path], stem: str, words: set[str]) -> None:
    (path,) = [path for path in drawn.values() if path.stem == stem]
    assert words <= texts(path)


def test_recipes_that_a_picture_does_not_concern_are_left_out(drawn: dict[str, Path]) -> None:
    by_stem = {path.stem: texts(path) for path in drawn.values()}
    assert by_stem["temperature"] & set(NAMES) == {"calibrated"}
    assert by_stem["budgets"] & set(NAMES) == {"calibrated"}
    assert by_stem["weights"] & set(NAMES) == {"prepo", "greso"}
    assert by_stem["cost_ratios"] & set(NAMES) == set(NAMES) - {"random"}


def test_many_recipes_get_panels_and_censored_ones_say_so(tmp_path: Path) -> None:
    names = ["random", *(f"recipe {i}" for i in range(12))]
    whole = comparison(tmp_path / "runs", names, seeds=10, steps=30)
    recipes = [replace(r, curves={"rollouts": r.curves["rollouts"]}) for r in whole.recipes]
    scene = Scene(replace(whole, recipes=tuple(recipes)), tmp_path)
    (path,) = accuracy.draw(scene).values()
    assert {*names, "other recipes"} <= texts(path)
    (path,) = cost_ratios.draw(scene).values()
    assert "> 1.60, never reached" in texts(path)


def test_the_same_comparison_gives_the_same_bytes(tmp_path: Path) -> None:
    whole = only(comparison(tmp_path / "runs", NAMES[:2], seeds=1, steps=10), "frac_all")
    first, second = (draw(whole, tmp_path / name) for name in ("first", "second"))
    for title, path in first.items():
        assert path.read_bytes() == second[title].read_bytes()
        assert path.with_suffix(".svg").read_bytes() == second[title].with_suffix(".svg").read_bytes()


def test_nothing_is_drawn_without_data(tmp_path: Path) -> None:
    whole = only(comparison(tmp_path / "runs", NAMES), "no metric at all")
    assert draw(whole, tmp_path / "figures") == {}
    assert list((tmp_path / "figures").iterdir()) == []


@pytest.mark.parametrize(("prefix", "stem"), METRICS.items())
def test_a_metric_alone_gives_its_picture_alone(tmp_path: Path, prefix: str, stem: str) -> None:
    assert names_of(draw(only(comparison(tmp_path / "runs", NAMES), prefix), tmp_path)) == {stem}


def test_constant_temperatures_and_weights_of_one_are_not_drawn(tmp_path: Path) -> None:
    whole = comparison(tmp_path / "runs", ["random"])
    assert whole.runs[0].metrics["temperature"].tolist() == [1] * 60
    assert draw(only(whole, "temperature"), tmp_path) == draw(only(whole, "weighting/"), tmp_path) == {}


def test_metrics_that_are_nan_throughout_are_as_good_as_none(tmp_path: Path) -> None:
    whole = comparison(tmp_path / "runs", NAMES)
    whole = replace(whole, recipes=tuple(replace(recipe, curves={}) for recipe in whole.recipes))
    runs = [replace(r, metrics={k: np.full(len(v), np.nan) for k, v in r.metrics.items()}) for r in whole.runs]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = names_of(draw(replace(whole, runs=tuple(runs)), tmp_path))
    assert found == {"cost_ratios"}


def test_panels_of_a_single_step_would_be_empty(tmp_path: Path) -> None:
    whole = comparison(tmp_path / "runs", NAMES, seeds=1, steps=1)
    for prefix in ("selector/ppl", "weighting/", "temperature"):
        assert draw(only(whole, prefix), tmp_path) == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "zero_variance" in names_of(draw(whole, tmp_path))


def test_hostile_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    names = ["$x_{$ & <b>", "統計", "two\nlines", "long " * 30]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (path,) = draw(only(comparison(tmp_path / "runs", names), "frac_all"), tmp_path).values()
    shown = texts(path)
    assert {"$x_{$ & <b>", "two lines", label("long " * 30)} <= shown


def test_a_label_is_short_and_drawable() -> None:
    assert label("a\tb") == "a b"
    assert label("\x1b[31m\u202ex") == r"\x1b[31m\u202ex"
    assert label("_hidden") == " _hidden"  # matplotlib would leave it out of the legend
    assert len(label("x" * 100)) == 36 and label("x" * 100).endswith("…")
    assert label("統計") == "\N{REPLACEMENT CHARACTER}" * 2


def test_styles_are_distinct_also_in_grey_and_the_baseline_is_black(tmp_path: Path) -> None:
    whole = comparison(tmp_path, [f"recipe {i}" for i in range(31)], seeds=0)
    found = styles(whole)
    assert (found["recipe 0"].color, found["recipe 0"].linestyle) == ("#000000", "-")
    assert len({(style.color, style.linestyle) for style in found.values()}) == 31
    assert len({(style.linestyle, style.marker) for style in found.values()}) == 31  # without color


@given(st.integers(1, 60))
def test_panels_fit_and_no_row_is_empty(count: int) -> None:
    rows, columns = panel_grid(count)
    assert (rows - 1) * columns < count <= rows * columns
    assert columns <= 4


@given(
    st.lists(hnp.arrays(np.float64, st.integers(1, 60), elements=VALUES), min_size=1, max_size=4), st.integers(1, 25)
)
def test_progress_bins_are_means_of_the_steps_in_them(logged: list[np.ndarray], points: int) -> None:
    points = min(points, *map(len, logged))
    values_RX = by_progress(logged, points)
    for row_X, values_S in zip(values_RX, logged, strict=True):
        bins: list[list[float]] = [[] for _ in range(points)]
        for step, value in enumerate(values_S):
            if not np.isnan(value):
                bins[int(points * step / len(values_S))].append(value)
        expected = [sum(kept) / len(kept) if kept else np.nan for kept in bins]
        np.testing.assert_allclose(row_X, expected, rtol=1e-9, atol=1e-6)


@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 8)), elements=VALUES))
def test_a_band_lies_around_its_mean(values_RX: np.ndarray) -> None:
    found = band(np.arange(values_RX.shape[1]), values_RX)
    for x, column_R in enumerate(values_RX.T):
        known = column_R[~np.isnan(column_R)]
        if not len(known):
            assert np.isnan([found.mean_X[x], found.low_X[x], found.high_X[x]]).all()
            continue
        assert found.mean_X[x] == pytest.approx(sum(known) / len(known), rel=1e-9, abs=1e-6)
        assert (found.low_X[x], found.high_X[x]) == (min(known), max(known))


@given(st.lists(st.tuples(st.integers(0, 5), st.floats(-1e3, 1e3)), max_size=40))
def test_means_by_bin(pairs: list[tuple[int, float]]) -> None:
    found = by_bin(np.array([b for b, _ in pairs], dtype=np.int64), np.array([v for _, v in pairs]), 6)
    for number in range(6):
        values = [value for at, value in pairs if at == number]
        expected = sum(values) / len(values) if values else np.nan
        assert found[number] == pytest.approx(expected, nan_ok=True, abs=1e-9)


@given(st.integers(1, 64), st.data())
def test_a_pass_rate_falls_into_its_quarter(size: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, size))
    (found,) = difficulty_bin(np.array([correct / size]))
    if correct in (0, size):
        assert found == (0 if correct == 0 else 5)
    else:
        assert (found - 1) / 4 < correct / size <= found / 4


positive = st.floats(1e-3, 1e3)


@given(st.lists(st.builds(CostRatio, st.none() | positive, positive, st.none() | positive, st.floats(0, 1))))
def test_limits_are_powers_of_two_around_every_interval(ratios: list[CostRatio]) -> None:
    low, high = limits(ratios)
    assert NARROWEST <= low <= 0.5 and 2 <= high <= WIDEST
    assert np.log2([low, high]).tolist() == np.round(np.log2([low, high])).tolist()
    for end in (end for ratio in ratios for end in (ratio.value, ratio.low, ratio.high) if end is not None):
        assert low <= end or low == NARROWEST
        assert end <= high or high == WIDEST


def test_deciles_are_taken_over_all_runs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ppl_G, rate_G = rng.permutation(np.arange(1.0, 201.0)), rng.random(200)
    ones = np.ones(100)
    groups = {
        "a": Groups(ones, rate_G[:100], ppl_G[:100]),
        "b": Groups(ones, rate_G[100:], ppl_G[100:]),
        "unknown": Groups(ones, rate_G[:100], np.full(100, np.nan)),
    }
    found = pass_rates_by_decile(groups)
    assert set(found) == {"a", "b"}
    for name, half in (("a", slice(0, 100)), ("b", slice(100, 200))):
        for decile in range(10):
            rates = [r for p, r in zip(ppl_G[half], rate_G[half], strict=True) if (p - 1) // 20 == decile]
            assert found[name][decile] == pytest.approx(sum(rates) / len(rates))


@pytest.mark.parametrize("ppl", [np.full(500, np.nan), np.full(500, 3.0), np.arange(1.0, 90.0)])
def test_no_deciles_without_enough_perplexities_that_differ(ppl: np.ndarray) -> None:
    assert pass_rates_by_decile({"a": Groups(np.ones(len(ppl)), np.ones(len(ppl)), ppl)}) == {}


def one_run(folder: Path) -> Comparison:
    return comparison(folder, ["random"], seeds=1)


def test_groups_are_read_from_rollouts(tmp_path: Path) -> None:
    runs = one_run(tmp_path).runs
    write_rollouts(runs[0].folder / "rollouts", 0, [2, 4], [1, 4], [3.5, 7.25])
    write_rollouts(runs[0].folder / "rollouts", 1, [8], [2], [1.5])
    (groups,) = sample_groups(runs).values()
    assert groups.size_G.tolist() == [2, 4, 8]
    assert groups.pass_rate_G.tolist() == [0.5, 1, 0.25]
    assert groups.ppl_G.tolist() == [3.5, 7.25, 1.5]


def test_rollouts_without_perplexities_and_runs_without_rollouts(tmp_path: Path) -> None:
    run, bare = comparison(tmp_path, ["random"], seeds=2).runs
    (run.folder / "rollouts").mkdir(parents=True)
    rows = pa.table({"group": [0, 0, 1, 1], "correct": [True, False, True, True]})
    pq.write_table(rows, run.folder / "rollouts" / "step_000000.parquet")
    found = sample_groups([run, bare])
    assert set(found) == {run.name}
    assert np.isnan(found[run.name].ppl_G).all()


def test_few_files_are_read_evenly_from_first_to_last(tmp_path: Path) -> None:
    run = one_run(tmp_path).runs[0]
    for step in range(30):
        write_rollouts(run.folder / "rollouts", step, [step + 1], [1], [1.0])
    names = [f"{i}" for i in range(MOST_FILES // 5)]
    absent = [replace(run, name=name, folder=tmp_path / "absent") for name in names[1:]]
    assert sample_groups([run, *absent])[run.name].size_G.tolist() == [1, 8, 15, 23, 30]


@pytest.mark.parametrize("content", [b"not parquet", b""])
def test_damaged_rollouts_are_named(tmp_path: Path, content: bytes) -> None:
    whole = one_run(tmp_path)
    folder = whole.runs[0].folder / "rollouts"
    folder.mkdir(parents=True)
    (folder / "step_000007.parquet").write_bytes(content)
    with pytest.raises(UsageError, match=r"step_000007\.parquet is damaged"):
        draw(whole, tmp_path / "figures")


def test_rollouts_of_something_else_are_named(tmp_path: Path) -> None:
    run = one_run(tmp_path).runs[0]
    (run.folder / "rollouts").mkdir(parents=True)
    pq.write_table(pa.table({"text": ["a"]}), run.folder / "rollouts" / "step_000000.parquet")
    with pytest.raises(UsageError, match="no columns 'group' and 'correct'"):
        sample_groups([run])


def test_a_recipe_without_curves_leaves_the_others(tmp_path: Path) -> None:
    whole = comparison(tmp_path / "runs", NAMES[:2])
    empty: Recipe = replace(whole.recipes[1], curves={}, cost_ratios={})
    scene = Scene(replace(whole, recipes=(whole.recipes[0], empty)), tmp_path)
    for path in accuracy.draw(scene).values():
        assert texts(path) & set(NAMES) == {"random"}
    assert cost_ratios.draw(scene) == {}
