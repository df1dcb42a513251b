"""The page as a file: what it holds, what it leaves out, how it grows, and that nothing in it can run or load."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.comparison.page import write_page
from prepo_cli.comparison.page_data import (
    MAX_POINTS,
    MAX_VALUES,
    chart_data,
    differing_settings,
    drawn_metrics,
    embedded,
    seed_means,
    thinned,
)
from prepo_cli.comparison.page_text import ratio_cell, styles
from prepo_cli.comparison.result import Comparison, CostRatio, Recipe
from prepo_cli.comparison.rollouts import LONGEST_TEXT, mixed, sample_rollouts
from prepo_cli.errors import UsageError
from tests.comparison.made import FATES, HOSTILE, HOSTILE_TEXT, make_comparison, make_run, write_rollouts

LIMIT = 5_000_000
TEXTS = st.text(alphabet=st.characters(codec=None))


class Elements(HTMLParser):
    """Every element of a page with its attributes, and the text outside of scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.cdata_elem is None:
            self.text += data


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparison, str]:
    folder = tmp_path_factory.mktemp("runs")
    comparison = make_comparison(folder)
    write_page(folder / "page.html", comparison)
    return comparison, (folder / "page.html").read_text(encoding="utf-8")


def test_the_page_holds_every_figure_in_words(made: tuple[Comparison, str]) -> None:
    comparison, page = made
    text = Elements(page).text
    for line in (*comparison.verdict, *comparison.notes):
        assert line in text
    for shown in (
        "Comparison of 3 recipes",
        "9 runs",
        "avg@8 on 200 prompts",
        "40,000",
        "9.60M",
        "9.00M",
        "600,000",
        "< 0.001",
        "> 1.80",
    ):
        assert shown in text
    assert text.index(comparison.verdict[0]) < text.index(comparison.notes[0]) < text.index("Final accuracy")


def test_nothing_of_a_name_becomes_markup(made: tuple[Comparison, str]) -> None:
    elements = Elements(made[1]).found
    tags = {tag for tag, _ in elements}
    assert not tags & {"img", "iframe", "object", "embed", "link", "base", "form", "b"}
    assert [attrs.get("type") for tag, attrs in elements if tag == "script"] == [
        "application/json",
        "application/gzip",
        None,
    ]
    assert not [name for _, attrs in elements for name in attrs if name.startswith("on")]
    assert not [attrs for _, attrs in elements if {"src", "href", "style"} & set(attrs)]


def test_the_policy_names_the_page_s_own_script_and_nothing_else(made: tuple[Comparison, str]) -> None:
    (policy,) = (a["content"] for t, a in Elements(made[1]).found if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    assert all(re.fullmatch(r"'sha256-[A-Za-z0-9+/]{43}='( 'sha256-[A-Za-z0-9+/]{43}=')", rules[kind]) for kind in (
        "script-src", "style-src",
    ))  # fmt: skip
    assert set(rules) == {"default-src", "img-src", "script-src", "style-src"}


@given(TEXTS)
def test_embedded_json_reads_back_and_ends_no_element(text: str) -> None:
    block = embedded({"name": text, "value": float("nan")})
    assert json.loads(block) == {"name": text, "value": None}
    assert block.isascii() and not set("<>&") & set(block)


@given(st.lists(TEXTS.filter(bool), min_size=1, max_size=60, unique=True))
def test_recipes_look_different(names: list[str]) -> None:
    comparison = Comparison("avg@8", names[0], None, 1, (), (), (), ())
    first = make_comparison(Path("unused"), names[:1], seeds=1, steps=2, rollout_steps=()).recipes[0]
    look = styles(replace(comparison, recipes=tuple(replace(first, name=name) for name in names)))
    assert look[0] == "c0 d0 m0"
    assert len(set(look)) == len(names)


def test_a_comparison_without_evaluations_metrics_or_rollouts_has_a_page(tmp_path: Path) -> None:
    full = make_comparison(tmp_path, ("random", "prepo"), seeds=1, rollout_steps=())
    bare = replace(
        full,
        metric=None,
        target=None,
        verdict=(),
        notes=(),
        runs=tuple(replace(run, metrics={}, evaluated_E=None, costs={}, seed=None, config={}) for run in full.runs),
        recipes=tuple(
            Recipe(r.name, r.runs, (), None, None, None, None, None, None, {}, None, {}, {}) for r in full.recipes
        ),
    )
    write_page(tmp_path / "page.html", bare)
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    hidden = {attrs.get("id") for tag, attrs in elements.found if "hidden" in attrs and tag in ("section", "figure")}
    assert hidden == {"charts", "curves", "training", "ratios", "rollouts"}
    assert "The configurations are identical." in elements.text


def test_a_folder_whose_name_is_no_text(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", make_comparison(tmp_path, ("random", "\udcff"), seeds=1, rollout_steps=()))
    assert "Comparison of 2 recipes" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_many_long_runs_stay_small(tmp_path: Path) -> None:
    names = [f"recipe {i}" for i in range(50)]
    comparison = make_comparison(tmp_path, names, seeds=1, steps=5000, rollout_steps=())
    extra = {f"rewards/{i}/mean": np.random.default_rng(i).standard_normal(5000) for i in range(60)}
    runs = tuple(replace(run, metrics={**run.metrics, **extra}) for run in comparison.runs)
    write_page(tmp_path / "page.html", replace(comparison, runs=runs))
    assert (tmp_path / "page.html").stat().st_size < LIMIT
    data = chart_data(replace(comparison, runs=runs))
    assert sum(len(values) for recipe in data["recipes"] for values in recipe["metrics"].values()) <= MAX_VALUES
    assert max(len(recipe["steps"]) for recipe in data["recipes"]) <= MAX_POINTS


def test_rollouts_that_swell_when_escaped_stay_small(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, [f"recipe {i}" for i in range(30)], seeds=1, rollout_steps=range(5))
    for path in tmp_path.glob("*/rollouts/*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.set_column(3, "text", [["<\N{GRINNING FACE}" * 600] * table.num_rows]), path)
    write_page(tmp_path / "page.html", comparison)
    assert (tmp_path / "page.html").stat().st_size < LIMIT
    assert {row["recipe"] for row in sample_rollouts(comparison.recipes, comparison.runs)} == set(range(30))


def test_metrics_are_means_over_the_seeds_that_have_them(tmp_path: Path) -> None:
    runs = [make_run(tmp_path, "a", 0, seed, steps, ()) for seed, steps in ((0, 4), (1, 6))]
    runs[0] = replace(runs[0], metrics={**runs[0].metrics, "kl": np.array([1.0, np.nan, 3.0, 4.0])})
    means = seed_means(runs)
    naive = [np.mean([run.metrics["reward"][i] for run in runs if i < run.steps]) for i in range(6)]
    assert means["reward"] == pytest.approx(naive)
    np.testing.assert_array_equal(means["kl"], [1.0, np.nan, 3.0, 4.0, np.nan, np.nan])
    assert means["step"].tolist() == list(range(6))


def test_the_menu_starts_with_the_best_known_metrics_and_leaves_out_constants(tmp_path: Path) -> None:
    metrics = seed_means([make_run(tmp_path, "a", 1, 0, 10, ())])
    assert drawn_metrics([metrics]) == ["reward", "frac_reward_zero_std", "entropy", "selector/ppl_kept_mean"]


@given(st.lists(st.floats(-1e6, 1e6) | st.just(float("nan")), min_size=1, max_size=120), st.integers(1, 40))
def test_thinning_takes_the_mean_of_each_stretch(values: list[float], points: int) -> None:
    thin = thinned(np.array(values), points)
    assert len(thin) == min(len(values), points)
    if len(values) > points:
        bounds = [i * len(values) // points for i in range(points + 1)]
        for mean, low, high in zip(thin, bounds, bounds[1:], strict=False):
            known = [value for value in values[low:high] if not np.isnan(value)]
            assert mean == pytest.approx(sum(known) / len(known), abs=1e-6) if known else np.isnan(mean)


def test_settings_that_differ(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, rollout_steps=())
    assert differing_settings(comparison) == {
        "selector": ["random", "calibrated", HOSTILE],
        "training.beta": ["0.0", "0.0", "0.01"],
    }


def test_cost_ratios_in_a_cell() -> None:
    assert ratio_cell(CostRatio(0.45, 0.38, 0.57, 1.0)).html == "0.45 <small>[0.38, 0.57]</small>"
    assert ratio_cell(CostRatio(0.9, 0.5, None, 0.9)).html == "0.90 <small>[0.50, ∞)</small>"
    never, once = ratio_cell(CostRatio(None, 1.8, None, 0.1)), ratio_cell(CostRatio(5.0, 4.0, 6.0, 1.0))
    assert isinstance(never.key, float) and isinstance(once.key, float) and never.key > once.key


def test_rollouts_come_from_evenly_spaced_steps_and_mix_fates(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, ("random",), seeds=3, rollout_steps=range(0, 41, 2))
    rows = sample_rollouts(comparison.recipes, comparison.runs)
    assert sorted({row["step"] for row in rows}) == [0, 10, 20, 30, 40]
    for step in (0, 10, 20, 30, 40):
        here = [row for row in rows if row["step"] == step]
        assert {row["kept"] for row in here} == {True, False}
        assert {row["reward"] for row in here} == {0.0, 1.0}
    long = next(row for row in rows if row["text"].startswith("again"))
    assert (len(long["text"]), long["text_cut"]) == (LONGEST_TEXT, 10_000 - LONGEST_TEXT)
    assert HOSTILE_TEXT in {row["text"] for row in rows}


def test_a_small_page_keeps_some_rollouts_of_every_recipe(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, ("random", "prepo", "greso"), rollout_steps=(0, 5))
    everything = sample_rollouts(comparison.recipes, comparison.runs)
    some = sample_rollouts(comparison.recipes, comparison.runs, max_bytes=6000)
    assert 0 < len(some) < len(everything)
    assert sum(len(embedded(row)) for row in some) <= 6000
    assert {row["recipe"] for row in some} == {0, 1, 2}
    assert [row for row in everything if row in some] == some


@given(st.lists(st.tuples(st.sampled_from(FATES), st.booleans()), max_size=40))
def test_mixing_keeps_every_row_once_and_shows_each_kind_early(rows: list[tuple[str, bool]]) -> None:
    order = mixed([fate for fate, _ in rows], [correct for _, correct in rows])
    assert sorted(order) == list(range(len(rows)))
    kinds = set(rows)
    assert {rows[i] for i in order[: len(kinds)]} == kinds


def test_rollouts_without_a_prompt_are_shown_and_damaged_ones_named(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, ("random",), seeds=1, rollout_steps=(3,))
    (path,) = (comparison.runs[0].folder / "rollouts").iterdir()
    pq.write_table(pq.read_table(path).drop_columns("prompt"), path)
    assert {row["prompt"] for row in sample_rollouts(comparison.recipes, comparison.runs)} == {""}
    path.write_bytes(b"PAR1")
    with pytest.raises(UsageError, match=r"step_000003\.parquet; delete the file"):
        sample_rollouts(comparison.recipes, comparison.runs)


def test_a_missing_column_is_named_as_damage(tmp_path: Path) -> None:
    comparison = make_comparison(tmp_path, ("random",), seeds=1, rollout_steps=())
    folder = comparison.runs[0].folder / "rollouts"
    write_rollouts(folder, 0, np.random.default_rng(0))
    path = folder / "step_000000.parquet"
    pq.write_table(pq.read_table(path).drop_columns("fate"), path)
    with pytest.raises(UsageError, match="can't read the rollouts"):
        sample_rollouts(comparison.recipes, comparison.runs)
