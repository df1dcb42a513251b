"""`prepo eval` on a fake model and engine, with real folders."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from prepo_cli.data import loading
from prepo_cli.evaluation import evaluator as evaluator_module
from prepo_cli.evaluation import session
from prepo_cli.evaluation.run_settings import short_name
from prepo_cli.evaluation.settings import EvalConfig
from prepo_cli.main import main
from tests.evaluation.answering import CUT, CharacterRenderer, Characters, SumEngine, Sums

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def engines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[SumEngine]:
    """The engine of each run so far; a run takes the first that has not been used, or a plain one."""
    made: list[SumEngine] = []

    def build(*_: Any, **__: Any) -> SumEngine:
        engine = next((e for e in made if not e.calls and not e.closed), None)
        if engine is None:
            engine = SumEngine()
            made.append(engine)
        return engine

    def load(name: str, **options: Any) -> Sums:
        return Sums(min(int(name), options["limit"] or 10**9))

    policy = SimpleNamespace(tokenizer=Characters(), max_context=64)
    monkeypatch.setattr(session, "load_policy", lambda config: policy)
    monkeypatch.setattr(session, "model_source", lambda name: str(tmp_path / "model"))
    monkeypatch.setattr(loading, "load_prompts", load)
    monkeypatch.setattr(session, "build_engine", build)
    monkeypatch.setattr(session, "Renderer", lambda tokenizer, system_prompt, template_kwargs: CharacterRenderer())
    monkeypatch.setattr(evaluator_module, "ROLLOUTS_AT_ONCE", 16)
    monkeypatch.chdir(tmp_path)
    return made


@pytest.fixture
def run(engines: list[SumEngine], capsys: pytest.CaptureFixture[str]) -> Run:
    """Run `prepo eval` with these arguments: exit code, stdout, stderr."""

    def call(*arguments: str, dataset: str = "20") -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["eval", "--dataset", dataset, *arguments])
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


def test_samples_summary_config_and_table(run: Run) -> None:
    code, out, _ = run("--k", "4", "--limit", "12", "--output-dir", "out")
    assert code == 0
    for name in ("avg@4", "pass@1", "pass@2", "pass@4", "maj@4", "hard", "easy", "prompts/s"):
        assert name in out
    summary = json.loads(Path("out/summary.json").read_text(encoding="utf-8"))
    rows = pq.read_table("out/samples.parquet").to_pylist()
    assert [(row["prompt_id"], row["sample"]) for row in rows] == [(f"sum-{i}", j) for i in range(12) for j in range(4)]
    assert summary["avg@4"]["value"] == pytest.approx(sum(row["correct"] for row in rows) / 48)
    assert summary["mean_length"] == pytest.approx(sum(row["length"] for row in rows) / 48)
    assert re.search(rf"avg@4\W+{summary['avg@4']['value']:.3f}", out)
    assert all((row["reward"] == 1) == row["correct"] for row in rows)
    assert all(row["truncated"] == (row["text"] == CUT) == (row["answer"] is None) for row in rows)
    config = yaml.safe_load(Path("out/config.yaml").read_text(encoding="utf-8"))
    assert (config["k"], config["max_completion_length"], config["max_prompt_length"]) == (4, 32, 32)
    files = [".prepo.json", "config.yaml", "samples.parquet", "summary.json"]
    assert sorted(path.name for path in Path("out").iterdir()) == files


def test_json_is_one_object_and_the_default_folder_is_named_after_what_is_evaluated(run: Run) -> None:
    Path("runs/demo/final").mkdir(parents=True)
    Path("runs/demo/final/config.json").touch()
    code, out, _ = run("--k", "2", "--json", "--model", "runs/demo/final")
    assert code == 0
    assert json.loads(out)["output_dir"] == "evals/demo-20"
    assert Path("evals/demo-20/summary.json").exists()


def test_an_interrupted_evaluation_goes_on(run: Run, engines: list[SumEngine]) -> None:
    def interrupt(call: int) -> None:
        if call == 3:
            raise KeyboardInterrupt

    engines.append(SumEngine(before=interrupt))
    arguments = ["--k", "4", "--reward", "math", "--reward", "tests.rewards.graded:sometimes"]
    arguments += ["--set", "rewards.on_error=skip"]
    code, out, err = run(*arguments, "--output-dir", "out")
    assert (code, out) == (130, "")
    assert "run the same command to resume" in " ".join(err.split())
    assert engines[0].closed
    code, out, err = run(*arguments, "--output-dir", "out")
    assert code == 0
    assert "12 of 20 prompts are done" in " ".join(err.split())
    assert sum(len(call) for call in engines[1].calls) == 8
    run(*arguments, "--output-dir", "whole")
    assert pq.read_table("out/samples.parquet").equals(pq.read_table("whole/samples.parquet"))
    one, other = (json.loads(Path(d, "summary.json").read_text(encoding="utf-8")) for d in ("out", "whole"))
    for summary in (one, other):
        for name in ("seconds", "prompts_per_second", "output_dir"):
            summary.pop(name)
    assert one == other
    rows = pq.read_table("out/samples.parquet").to_pylist()
    for name in ("math", "tests.rewards.graded:sometimes"):
        values = [row[f"reward_{name}"] for row in rows if row[f"reward_{name}"] is not None]
        assert one["rewards"][name] == pytest.approx({"mean": fmean(values), "std": stdev(values)})
        assert re.search(rf"{name}\W+{fmean(values):.3f}\W+{stdev(values):.3f}", out)
    unscored = sum(row["reward_tests.rewards.graded:sometimes"] is None for row in rows)
    assert 0 < one["errors"] < unscored < len(rows), "None is not an error, NaN is"
    assert f"not scored because a reward failed or was not finite: {one['errors']} answers" in out


def test_a_finished_evaluation_is_shown_again_without_work(run: Run, engines: list[SumEngine]) -> None:
    _, first, _ = run("--k", "4", "--output-dir", "out")
    code, second, err = run("--k", "4", "--output-dir", "out")
    assert (code, second, len(engines)) == (0, first, 1)
    assert "--overwrite" in err


@pytest.mark.parametrize("other", [["--seed", "1"], ["--k", "2"], ["--temperature", "0.5"], ["--reward", "exact"]])
def test_another_evaluation_is_refused_unless_it_may_be_overwritten(run: Run, other: list[str]) -> None:
    run("--k", "4", "--output-dir", "out")
    before = Path("out/samples.parquet").read_bytes()
    code, _, err = run("--k", "4", *other, "--output-dir", "out")
    assert code == 2
    assert "--overwrite" in err
    assert err.count("\n") == 1
    assert Path("out/samples.parquet").read_bytes() == before
    assert run("--k", "4", *other, "--output-dir", "out", "--overwrite")[0] == 0
    assert run("--k", "4", *other, "--output-dir", "out")[0] == 0


def test_a_half_done_other_evaluation_is_refused_too(run: Run, engines: list[SumEngine]) -> None:
    def interrupt(call: int) -> None:
        raise KeyboardInterrupt

    engines.append(SumEngine(before=interrupt))
    run("--k", "4", "--output-dir", "out")
    assert run("--k", "2", "--output-dir", "out")[0] == 2


def test_a_training_runs_folder_is_never_written_to(run: Run) -> None:
    Path("runs").mkdir()
    for name, content in (("config.yaml", "seed: 0\n"), ("summary.json", "{}\n")):
        Path("runs", name).write_text(content, encoding="utf-8")
        code, _, err = run("--k", "4", "--output-dir", "runs", "--overwrite")
        assert code == 2
        assert "another --output-dir" in err
        assert Path("runs", name).read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--k", "0"], "k=0: must be at least 1"),
        (["--temperature", "0.0005"], "temperature"),
        (["--temperature", "-1"], "temperature"),
        (["--reward", "mth"], "did you mean 'math'"),
        (["--verdict", "exact"], "rewards.verdict=exact is not one of the reward functions: math"),
        (["--set", "rewards.verdict=mth"], "rewards.verdict=mth is not one of the reward functions: math"),
        (["--set", "rewards.weights=[1, 2]"], "rewards.weights: 2 weights for 1 functions"),
        (["--set", "rewards.wieghts=[1]"], "unknown setting 'rewards.wieghts' (did you mean 'rewards.weights'?"),
        (["--set", "training.seed=1"], "accepts only --set engine.key=value and --set rewards.key=value"),
        (["--set", "rewards=1"], "accepts only --set engine.key=value and --set rewards.key=value"),
        (["--engine", "vlm"], "hf"),
        (["--dtype", "float8"], "float32"),
        (["--max-completion-length", "64"], "context of 64 tokens"),
        (["--max-prompt-length", "1"], "--max-prompt-length"),
        (
            ["--output-dir", "file/out"],
            "--output-dir file/out can't be created, because file is a file; choose another folder",
        ),
    ],
)
def test_bad_input_is_one_line(run: Run, arguments: list[str], message: str) -> None:
    Path("file").write_text("", encoding="utf-8")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_prompts_longer_than_the_context_are_left_out_and_counted(run: Run) -> None:
    arguments = ["--k", "2", "--max-prompt-length", "4", "--output-dir", "out"]
    code, out, _ = run(*arguments)
    assert "left out for exceeding 4 tokens: 10 prompts" in out
    summary = json.loads(run(*arguments, "--json")[1])
    assert (code, summary["prompts"], summary["left_out"]) == (0, 10, 10)


def test_prompts_that_are_all_too_long_are_an_error(run: Run) -> None:
    code, out, err = run("--k", "2", "--max-prompt-length", "1", "--output-dir", "out")
    assert (code, out) == (2, "")
    assert "all 20 prompts are longer than 1 tokens; raise --max-prompt-length" in err.splitlines()[-1]


def test_one_function_has_no_table_of_rewards(run: Run) -> None:
    _, out, _ = run("--k", "2", "--output-dir", "out")
    assert "std" not in out
    assert json.loads(Path("out/summary.json").read_text(encoding="utf-8"))["rewards"] == {}
    assert "reward_math" in pq.read_schema("out/samples.parquet").names


def test_a_model_that_states_no_context_gets_a_usual_one() -> None:
    fitted = EvalConfig(output_dir="x", model={"model_name_or_path": "other"}).with_lengths(None)
    assert (fitted.max_completion_length, fitted.max_prompt_length) == (2560, 32768 - 2560)


ALWAYS = """
def always(prompts, completions, **columns):
    return [1.0] * len(completions)
def too(prompts, completions, **columns):
    return [1.0] * len(completions)
"""


def test_other_rewards_and_weights_change_no_accuracy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the embedded model: a function that always returns 1, then weights whose float sum is just below 1."""
    (tmp_path / "own_rewards_of_eval.py").write_text(ALWAYS, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    own = ["own_rewards_of_eval:always", "own_rewards_of_eval:too"]

    def evaluated(*arguments: str) -> dict[str, Any]:
        with pytest.raises(SystemExit) as end:
            main(["eval", "--k", "4", "--limit", "12", "--json", "--output-dir", "out", "--overwrite", *arguments])
        assert not end.value.code
        summary: dict[str, Any] = json.loads(capsys.readouterr().out)
        return summary

    alone = evaluated("--reward", "math")
    assert 0 < alone["avg@4"]["value"] < 1
    with_short = evaluated("--reward", own[0], "--reward", "math")
    weighted = evaluated(
        *("--reward", "math", "--reward", own[0], "--reward", own[1], "--set", "rewards.weights=[0.7, 0.2, 0.1]")
    )
    for name in ("avg@4", "pass@1", "pass@2", "pass@4", "maj@4"):
        assert alone[name] == with_short[name] == weighted[name]
    mean = alone["avg@4"]["value"]
    assert with_short["reward"] == pytest.approx(1 + mean)
    assert weighted["reward"] == pytest.approx(0.7 * mean + 0.3)
    assert {name: row["mean"] for name, row in weighted["rewards"].items()} == {"math": mean, own[0]: 1, own[1]: 1}
    always = evaluated("--reward", "math", "--reward", own[0], "--verdict", own[0])
    assert always["avg@4"]["value"] == 1
    strict = evaluated("--reward", "math", "--set", "rewards.correct_reward=1.5")
    assert strict["avg@4"]["value"] == 0
    sys.modules.pop("own_rewards_of_eval", None)


def test_greedy_decoding_asks_once_for_every_prompt(run: Run, engines: list[SumEngine]) -> None:
    code, out, err = run("--temperature", "0", "--k", "4", "--output-dir", "out", "--json")
    assert (code, json.loads(out)["k"]) == (0, 1)
    assert "temperature 0 is greedy decoding: using 1 sample per prompt" in err
    asked = [request for call in engines[0].calls for request in call]
    assert {(request.temperature, len(request.seeds)) for request in asked} == {(0, 1)}


def test_several_datasets_share_a_model_and_a_table(run: Run, engines: list[SumEngine]) -> None:
    arguments = ["--k", "4", "--output-dir", "out"]
    code, out, _ = run(*arguments, dataset="20,30")
    assert (code, len(engines)) == (0, 1)
    assert [path.name for path in sorted(Path("out").iterdir())] == ["20", "30"]
    alone = [json.loads(run("--k", "4", "--output-dir", f"alone{n}", "--json", dataset=n)[1]) for n in ("20", "30")]
    joined = json.loads(run(*arguments, "--json", dataset="20,30")[1])
    assert list(joined["datasets"]) == ["20", "30"]
    for summary, expected in zip(joined["datasets"].values(), alone, strict=True):
        assert {name: summary[name] for name in summary if "@" in name} == {
            name: expected[name] for name in expected if "@" in name
        }
    values = [summary["avg@4"]["value"] for summary in alone]
    assert joined["mean"]["avg@4"]["value"] == pytest.approx(fmean(values))
    for name, value in zip(("20", "30", "mean"), (*values, fmean(values)), strict=True):
        assert re.search(rf"{name} .*{value:.3f} \[", out)


def test_several_datasets_resume_where_they_stopped(run: Run, engines: list[SumEngine]) -> None:
    def interrupt(call: int) -> None:
        if call == 7:
            raise KeyboardInterrupt

    engines.append(SumEngine(before=interrupt))
    arguments = ["--k", "4", "--output-dir", "out"]
    assert run(*arguments, dataset="20,30")[0] == 130
    code, out, err = run(*arguments, "--json", dataset="20,30")
    assert code == 0
    assert "out/20 already contains this evaluation" in err
    assert "8 of 30 prompts are done" in err
    whole = json.loads(run("--k", "4", "--output-dir", "whole", "--json", dataset="20,30")[1])
    assert json.loads(out)["mean"] == whole["mean"]


@pytest.mark.parametrize(
    ("datasets", "message"),
    [
        ("20,", "separate names with single commas"),
        ("20,a/20", "20 and a/20 would share the folder evals/embedded-20"),
    ],
)
def test_lists_of_datasets_that_make_no_sense(run: Run, datasets: str, message: str) -> None:
    code, out, err = run("--k", "2", dataset=datasets)
    assert (code, out) == (2, "")
    assert message in err


def test_short_names(tmp_path: Path) -> None:
    data = tmp_path / "my data.v2.jsonl"
    data.write_text("", encoding="utf-8")
    assert [short_name(name) for name in ("Qwen/Qwen2.5-Math-7B", "runs/demo/", str(data), "..")] == [
        "Qwen2.5-Math-7B",
        "demo",
        "my_data.v2",
        "here",
    ]
