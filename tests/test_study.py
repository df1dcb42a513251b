"""The study's driver, its report and the replay, on runs of a few lines."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path

import numpy as np
import pytest
import yaml

from benchmarks import replay, study
from benchmarks.per_token import PerToken
from benchmarks.study_report import ablations_table, groups_table, report, splice
from prepo_cli.comparison.analysis import compare
from prepo_cli.comparison.plan import PlannedRun, plan
from prepo_cli.comparison.runs import read_run
from prepo_cli.config import resolve, to_yaml
from strategies.types import Completion, Group, Prompt, RunInfo, StepContext

ACCURACY = {"random": (0.4, 0.45, 0.5, 0.55, 0.6), "calibrated": (0.4, 0.55, 0.62, 0.63, 0.64)}


def finished(run: PlannedRun, rng: np.random.Generator) -> None:
    """Write what a finished run leaves, with the accuracies above on 40 prompts."""
    run.folder.mkdir(parents=True)
    (run.folder / "config.yaml").write_text(to_yaml(run.config))
    cost = {"rollouts_total": 400, "rollouts_trained": 400, "tokens_generated": 4000, "tokens_scored": 1000,
            "seconds": 40.0}  # fmt: skip
    lines = [
        {"step": step, "reward": 1 / 3, "frac_reward_zero_std": 0.25, "groups_rolled": 8, "grad_norm": float(step > 0),
         **{f"cost/{name}": value * (step + 1) / 4 for name, value in cost.items()}}
        for step in range(4)
    ]  # fmt: skip
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    evaluations = []
    for step, accuracy in enumerate(ACCURACY[run.recipe]):
        prompts = (rng.binomial(4, accuracy, 40) / 4).tolist()
        mean = {"value": float(np.mean(prompts)), "low": 0.0, "high": 1.0}
        evaluations.append(
            {"step": step, "name": "test", "avg@4": mean, "k": 4, "rollouts_total": 100 * step, "train_seconds": step,
             "prompt_ids": [str(i) for i in range(40)], "per_prompt": prompts}
        )  # fmt: skip
    (run.folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in evaluations))
    after = {"avg@4": evaluations[-1]["avg@4"], "prompts": 40}
    summary = {"recipe": run.recipe, "strategies": run.config.strategies.model_dump(), "seed": run.seed,
               "metric": "avg@4", "before": None, "after": after, "cost": cost, "steps": 4}  # fmt: skip
    (run.folder / "summary.json").write_text(json.dumps(summary))
    (run.folder / "final").mkdir()
    (run.folder / "final" / "model.safetensors").write_bytes(bytes(1000))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, rng = tmp_path_factory.mktemp("study"), np.random.default_rng(0)
    for dead in (0.0, 0.8):
        choices = [choice for choice in study.SIX if choice.recipe in ACCURACY]
        flags = {"data.dataset_name": f"embedded:dead={dead:g}"}
        for seed in range(3):
            for run in plan(choices, [seed], root / f"dead-{dead:g}", [study.CONFIG], flags):
                finished(run, rng)
                study.compress(run.folder)
    return root


def test_a_compressed_run_is_small_and_reads_the_same(folder: Path, tmp_path: Path) -> None:
    run = folder / "dead-0.8" / "random-seed0"
    assert {path.name for path in run.iterdir()} == set(study.KEPT)
    with gzip.open(run / "metrics.jsonl.gz", "rt") as file:
        assert json.loads(file.readline())["reward"] == 0.3333
    read = read_run(run)
    assert read.metrics["reward"].tolist() == [0.3333] * 4
    assert read.evaluated_E is not None and len(read.evaluated_E) == 5


def test_a_compressed_run_counts_as_finished_and_is_not_touched_again(folder: Path) -> None:
    flags = {"data.dataset_name": "embedded:dead=0.8"}
    runs = plan(study.parse_recipes("random"), [0, 1, 2], folder / "dead-0.8", [study.CONFIG], flags)
    assert all(run.finished for run in runs)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.gz")}
    study.compress(runs[0].folder)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.gz")} == before


def test_a_few_evenly_spaced_steps_of_rollouts_are_kept_where_asked(tmp_path: Path) -> None:
    for name in ("rollouts", "final"):
        (tmp_path / name).mkdir()
    for step in range(9):
        (tmp_path / "rollouts" / f"step_{step:06d}.parquet").write_bytes(b"x")
    study.compress(tmp_path, browsed=3)
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "rollouts", "step_000000.parquet", "step_000004.parquet", "step_000008.parquet"]  # fmt: skip
    study.compress(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_report_has_a_page_a_table_and_the_curve(folder: Path) -> None:
    (folder / "README.md").write_text(
        "# Study\n<!-- table dead-0.8 -->\nold\n<!-- end -->\n\n<!-- curve final -->\n<!-- end -->\nrest\n"
    )
    report(folder, [0.0, 0.8])
    text = (folder / "README.md").read_text()
    assert text.startswith("# Study\n<!-- table dead-0.8 -->\n| recipe |") and "old" not in text
    table = text[: text.index("<!-- end -->")]
    assert [line.split("|")[1].strip() for line in table.splitlines()[4:]] == ["`calibrated`", "`random`"]
    assert "| 0.25 |" in table
    curve = text[text.index("<!-- curve final -->") :].splitlines()[1:]
    assert curve[0] == "| recipe | dead 0 | dead 0.8 |"
    assert curve[2] == "| *zero variance under random* | 0.25 | 0.25 |"
    assert curve[3].startswith("| `calibrated` | 0.")
    for name in ("curve.png", "curve.svg", "dead-0.8/page.html", "dead-0.8/accuracy_rollouts.svg"):
        assert (folder / name).stat().st_size > 1000
    assert json.loads((folder / "dead-0.8" / "comparison.json").read_text())["baseline"] == "random"


def test_a_table_replaces_the_one_before_it(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("first\n<!-- a -->\nold\n<!-- end -->\nbetween\n<!-- b -->\n<!-- end -->\nlast\n")
    for _ in range(2):
        splice(page, {"a": "new a\n", "b": "new b\n", "c": "nowhere\n"})
        assert page.read_text() == (
            "first\n<!-- a -->\nnew a\n<!-- end -->\nbetween\n<!-- b -->\nnew b\n<!-- end -->\nlast\n"
        )


def test_groups_and_updates_are_counted_by_cost(folder: Path) -> None:
    """Four steps of 100 rollouts, each with 6 of 8 groups that differ; the first has no gradient."""
    runs = [read_run(path.parent) for path in sorted((folder / "dead-0.8").glob("*/summary.json"))]
    lines = groups_table(compare(runs, baseline="random")).splitlines()
    assert lines[0] == "| recipe | to 50 | to 100 | to 200 | to 300 | to 400 | in all |"
    assert lines[2] == "| `calibrated` | 0 / 0 | 6 / 0 | 6 / 1 | 6 / 1 | 6 / 1 | 24 / 3 |"


def test_ablations_stand_beside_the_plain_runs_of_their_seeds(folder: Path) -> None:
    rng = np.random.default_rng(1)
    flags = {"data.dataset_name": "embedded:dead=0.8", "training.lr_scheduler_type": "linear"}
    for run in plan(study.parse_recipes("random,calibrated"), range(2), folder / "ablations" / "linear", [study.CONFIG],
                    flags):  # fmt: skip
        finished(run, rng)
        study.compress(run.folder)
    lines = ablations_table(folder).splitlines()
    names = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in lines[2:]}
    assert names == {f"`{name}{setting}`": "2" for name in ("random", "calibrated")
                     for setting in ("", " (lr_scheduler_type=linear)")}  # fmt: skip
    assert ablations_table(folder / "none") == ""


def test_the_expected_tokens_of_the_ablation_follow_what_was_seen() -> None:
    run = RunInfo(num_prompts=2, total_steps=50, prompts_per_step=1, num_generations=4)
    selector = PerToken(PerToken.Params(), run)
    prompts = [Prompt(0, "0", source="a", num_tokens=8), Prompt(1, "1", source="b", num_tokens=8)]
    assert selector.expected_tokens(prompts).tolist() == [22.0, 22.0]
    completion = Completion(reward=1.0, correct=True, num_tokens=40, truncated=False, temperature=1.0)
    for step in range(50):
        selector.observe([Group(prompts[0], (completion,) * 4)], StepContext(step, 50, 0, 0, 7))
    assert selector.expected_tokens(prompts) == pytest.approx([42.0, 42.0], abs=0.3)
    again = PerToken(PerToken.Params(), run)
    again.load_state_dict(selector.state_dict())
    assert again.expected_tokens(prompts).tolist() == selector.expected_tokens(prompts).tolist()
    worth_B = selector.worth(prompts, np.array([0.5, 0.5]), 50)
    assert worth_B[1] / worth_B[0] == pytest.approx(1 + selector.recent_visits(prompts, 50)[0], rel=0.01)


@pytest.mark.parametrize("dead", list(study.WORLDS))
def test_every_run_of_the_study_can_be_planned(dead: float, tmp_path: Path) -> None:
    for seeds, choices in study.WORLDS[dead].items():
        runs = plan(choices, [seeds[0]], tmp_path, [study.CONFIG], {"data.dataset_name": f"embedded:dead={dead:g}"})
        assert len(runs) == len(choices)
        assert {run.config.training.max_rollouts for run in runs} == {yaml.safe_load(study.CONFIG.read_text())[
            "training"]["max_rollouts"]}  # fmt: skip
        assert {run.config.evaluation.split for run in runs} == {"test"}


@pytest.mark.parametrize("name", list(study.ABLATIONS))
def test_every_ablation_can_be_planned(name: str, tmp_path: Path) -> None:
    flags, choices = study.ABLATIONS[name]
    runs = plan(choices, study.ABLATION_SEEDS, tmp_path, [study.CONFIG], flags)
    assert len(runs) == 2 * len(choices)


def record(rates: np.ndarray) -> replay.Record:
    prompts = [Prompt(i, str(i), source="a", num_tokens=10) for i in range(len(rates))]
    return replay.Record([0, 4], np.stack([rates, 1 - rates]), np.full((2, len(rates)), 3.0), prompts)


def test_the_replay_of_random_choices_finds_what_the_rates_say() -> None:
    rates = np.repeat([0.0, 0.5, 0.9], 40)
    found = replay.replay("random", record(rates), steps=300, kept=8, rollouts=8, seed=0)
    exact = float(np.mean(1 - rates**8 - (1 - rates) ** 8))
    assert np.mean(found.differing) == pytest.approx(exact, abs=4 * math.sqrt(0.25 / (300 * 8)))
    assert found.distinct == 80
    assert found.scored == 0


def test_the_replay_tells_a_selector_that_learns_from_one_that_does_not() -> None:
    rates = np.repeat([0.0, 0.5], [180, 20])
    learns, random = (replay.replay(spec, record(rates), 100, 8, 8, 0) for spec in ("calibrated", "random"))
    assert np.mean(learns.differing) > 3 * np.mean(random.differing)
    assert learns.scored > 0


def test_the_replay_reads_what_the_oracle_writes(tmp_path: Path) -> None:
    for step in (0, 64):
        np.savez(tmp_path / f"step_{step:06d}.npz", rate=np.array([step / 64, 0.5]), ppl=np.array([2.0, 3.0]),
                 num_tokens=np.array([5, 6]), source=np.array(["a", "b"]))  # fmt: skip
    read = replay.read(tmp_path)
    assert (read.steps, read.look(63), read.look(64)) == ([0, 64], 0, 1)
    assert read.rate_LP.tolist() == [[0.0, 0.5], [1.0, 0.5]]
    assert [(p.source, p.num_tokens) for p in read.prompts] == [("a", 5), ("b", 6)]
    assert resolve(flags={"strategies.selector": "benchmarks.oracle:Oracle:record=x"}).recipe == "custom"
