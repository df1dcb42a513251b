"""`prepo score-passrate` as a user calls it, against `prepo eval`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from scipy.stats import binomtest
from typer.testing import CliRunner

from prepo_cli.api.flags import beside
from prepo_cli.config import ASSETS
from prepo_cli.data.loading import load_prompts
from prepo_cli.evaluation.settings import PassRateConfig, fingerprint
from prepo_cli.main import app

RUNNER = CliRunner()
ROWS, K = 24, 3
MEASURED = ["pass_rate", "pass_rate_low", "pass_rate_high", "pass_length"]
NEW = [*MEASURED[:3], "pass_k", "pass_length", "pass_context"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded task's first rows with made-up perplexities, and one prompt that fits no context."""
    path = tmp_path_factory.mktemp("data") / "d.jsonl"
    lines = (ASSETS / "task" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:ROWS]
    rows: list[dict[str, Any]] = [json.loads(line) | {"ppl": 1.0 + i % 7} for i, line in enumerate(lines)]
    rows[5]["prompt"] = "1 + 1 " * 2000
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def samples(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What `prepo eval` samples for the same prompts."""
    folder = tmp_path_factory.mktemp("eval") / "out"
    evaluate = ["eval", "--dataset", str(dataset), "--k", str(K), "--seed", "4", "--split", "train"]
    assert RUNNER.invoke(app, [*evaluate, "--output-dir", str(folder)]).exit_code == 0
    return list(pq.read_table(folder / "samples.parquet").to_pylist())


def score(dataset: Path, output: Path, *arguments: str) -> Any:
    command = ["score-passrate", str(dataset), "--k", str(K), "--output", str(output), *arguments]
    return RUNNER.invoke(app, command)


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_pass_rates_are_those_of_an_evaluation(
    dataset: Path, samples: list[dict[str, Any]], tmp_path: Path, ending: str
) -> None:
    out = tmp_path / f"out.{ending}"
    result = score(dataset, out, "--seed", "4", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    given = [json.loads(line) for line in dataset.read_text(encoding="utf-8").splitlines()]
    table = load_dataset("json" if ending == "jsonl" else ending, data_files=str(out), split="train")
    assert table.column_names == [*given[0], *NEW]
    for row, old in zip(table, given, strict=True):
        # A CSV file has no types: its answers are read as numbers.
        assert all(str(row[name]) == str(old[name]) for name in ("id", "prompt", "answer", "ppl"))
        mine = [sample for sample in samples if sample["prompt_id"] == str(row["id"])]
        assert row["pass_k"] == len(mine)
        if not mine:
            assert [row[name] for name in MEASURED] == [None] * 4
            continue
        right = sum(sample["correct"] for sample in mine)
        interval = binomtest(right, K).proportion_ci(method="wilson")
        assert row["pass_rate"] == pytest.approx(right / K)
        assert [row["pass_rate_low"], row["pass_rate_high"]] == pytest.approx([interval.low, interval.high], abs=1e-9)
        assert row["pass_length"] == pytest.approx(np.mean([sample["length"] for sample in mine]))
    assert {row["pass_context"] for row in table} == {json.dumps(report["context"], separators=(",", ":"))}
    rates = [row["pass_rate"] for row in table if row["pass_k"]]
    assert report["mean"] == pytest.approx(np.mean(rates))
    assert report["dead"]["value"] == pytest.approx(np.mean([rate in (0, 1) for rate in rates]))
    assert 0 < report["dead"]["value"] < 1
    assert (report["prompts"], report["scored"], report["rollouts"]) == (ROWS, ROWS - 1, K * (ROWS - 1))
    assert report["tokens"] == sum(sample["length"] for sample in samples)
    assert report["truncated"] == sum(sample["truncated"] for sample in samples)
    assert sum(part["prompts"] for part in report["by_perplexity"]) == ROWS - 1


def test_table_plot_and_default_output(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy = tmp_path / "d.jsonl"
    copy.write_bytes(dataset.read_bytes())
    result = RUNNER.invoke(app, ["score-passrate", "d.jsonl", "--k", "2", "--plot", "p.png", "--limit", "12"])
    assert result.exit_code == 0, result.output
    for words in ("always solved (2 of 2)", "never solved (0 of 2)", "varying", "decile 9", "prompts / s",
                  "pass rate by perplexity", "dead prompts", "groups of 2", "1 prompts have no pass rate",
                  "written: d_passrate.jsonl, p.png"):  # fmt: skip
        assert words in result.stdout, words
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "d_passrate.jsonl", "p.png"]


CHANGES: list[dict[str, Any]] = [
    {"k": 4},
    {"seed": 1},
    {"temperature": 0.5},
    {"top_p": 0.9},
    {"max_completion_length": 64},
    {"system_prompt": "Be brief."},
    {"rewards": {"functions": ["exact"]}},
    {"model": {"revision": "v2"}},
    {"limit": 4},
    {"engine": {"name": "vllm"}},
]


def test_the_fingerprint_covers_what_the_pass_rates_depend_on(dataset: Path, tmp_path: Path) -> None:
    def mark(**settings: Any) -> str:
        config = PassRateConfig.model_validate({"dataset_name": str(dataset), "output": tmp_path / "x.csv"} | settings)
        return fingerprint(config, str(ASSETS / "model"), load_prompts(str(dataset), limit=config.limit))

    plain = mark()
    assert mark(output=tmp_path / "y.csv", engine={"max_batch_tokens": 1}, rewards={"workers": 1}) == plain
    assert len({plain, *(mark(**change) for change in CHANGES)}) == len(CHANGES) + 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "no such dataset file"),
        (["embedded", "--output", "/proc/x.jsonl"], "can't write to /proc/x.jsonl"),
        (["embedded", "--output", "x.txt"], "must end in one of .jsonl, .parquet, .csv"),
        (["embedded", "--k", "0"], "k=0: must be at least 1"),
        (["embedded", "--temperature", "0.0005"], "temperature=0.0005"),
        (["embedded", "--reward", "maths"], "maths"),
        (
            ["embedded", "--max-prompt-length", "2", "--output", "{tmp}/o.csv", "--limit", "5"],
            "all 5 prompts are longer",
        ),
    ],
)
def test_bad_input(arguments: list[str], message: str, tmp_path: Path) -> None:
    result = RUNNER.invoke(app, ["score-passrate", *(word.replace("{tmp}", str(tmp_path)) for word in arguments)])
    assert result.exit_code == 2, result.output
    assert message in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("dataset", "output"),
    [
        ("{tmp}/d.parquet", "{tmp}/d_passrate.parquet"),
        ("{tmp}/d.json", "{tmp}/d_passrate.jsonl"),
        ("embedded:dead=0.8", "embedded_dead_0.8_passrate.jsonl"),
        ("open-r1/DAPO-Math", "DAPO-Math_passrate.jsonl"),
    ],
)
def test_the_default_output_is_named_after_the_dataset(dataset: str, output: str, tmp_path: Path) -> None:
    (tmp_path / "d.parquet").touch()
    (tmp_path / "d.json").touch()
    assert beside(dataset.replace("{tmp}", str(tmp_path)), "passrate") == Path(output.replace("{tmp}", str(tmp_path)))
