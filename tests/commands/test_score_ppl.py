"""`prepo score-ppl` as a user calls it, against perplexities taken one prompt at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from typer.testing import CliRunner

from prepo_cli.data.rendering import Renderer
from prepo_cli.evaluation import ppl_scoring
from prepo_cli.main import app
from prepo_cli.policy.loading import load_policy
from prepo_cli.sections import ModelConfig
from tests.models import naive_scores

RUNNER = CliRunner()
QUESTIONS = [
    "What is 2 + 2?",
    "Find x: 3x + 1 = 7.",
    "Anna has 3 bags of 4 eggs. How many eggs in all?",
    "é",
    "x" * 300,
]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps({"question": q, "extra": i}) + "\n" for i, q in enumerate(QUESTIONS)))
    return path


@pytest.mark.parametrize("scope", ["question", "prompt"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_perplexities_are_right_and_rows_keep_their_order(
    dataset: Path, tmp_path: Path, scope: str, ending: str
) -> None:
    out = tmp_path / f"out.{ending}"
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(out), "--scope", scope, "--json"])
    assert result.exit_code == 0, result.output
    rows = load_dataset("json" if ending == "jsonl" else ending, data_files=str(out), split="train").to_list()
    assert [row["question"] for row in rows] == QUESTIONS
    assert [row["extra"] for row in rows] == list(range(len(QUESTIONS)))
    policy = load_policy(ModelConfig())
    renderer = Renderer(policy.tokenizer)
    for row in rows:
        rendered = renderer([{"role": "user", "content": row["question"]}])
        span = rendered.question_span if scope == "question" else (0, len(rendered.token_ids))
        logprobs, _ = naive_scores(policy.model, rendered.token_ids, *span, 1.0)
        assert row["ppl_tokens"] == len(logprobs)
        assert row["ppl"] == pytest.approx(np.exp(-np.mean(logprobs)), rel=1e-4)
    report = json.loads(result.stdout)
    assert report["scored"] == len(QUESTIONS)
    assert report["median"] == pytest.approx(np.median([row["ppl"] for row in rows]))
    assert len(report["deciles"]) == 9


def test_output_table_and_plot(dataset: Path, tmp_path: Path) -> None:
    plot = tmp_path / "p.png"
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--plot", str(plot)])
    assert result.exit_code == 0, result.output
    assert "decile 9" in result.stdout
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "d_ppl.jsonl").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl", "d_ppl.jsonl", "p.png"]


def test_interrupted_goes_on_and_equals_uninterrupted(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_scoring, "CHUNK_ROWS", 2)
    whole, broken = tmp_path / "whole.parquet", tmp_path / "broken.parquet"
    assert RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(whole)]).exit_code == 0
    write = ppl_scoring._Parts.write

    def interrupt_at_the_second(self: ppl_scoring._Parts, number: int, values: np.ndarray) -> None:
        if number == 1:
            raise KeyboardInterrupt
        write(self, number, values)

    monkeypatch.setattr(ppl_scoring._Parts, "write", interrupt_at_the_second)
    assert RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(broken)]).exit_code == 130
    assert not broken.exists()
    monkeypatch.setattr(ppl_scoring._Parts, "write", write)
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(broken)])
    assert "going on: 2 prompts were scored before" in result.stderr
    assert pq.read_table(broken).equals(pq.read_table(whole))


def test_finished_chunks_of_other_settings_are_not_mixed_in(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.parquet"
    folder = tmp_path / "out.parquet.partial"
    folder.mkdir()
    (folder / "fingerprint").write_text("another")
    np.save(folder / "chunk-000000.npy", np.full((len(QUESTIONS), 2), 7.0))
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(out)])
    assert "starting anew" in result.stderr
    assert pq.read_table(out)["ppl"][0].as_py() != 7.0


def test_too_long_prompts_have_no_perplexity(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(out), "--max-prompt-length", "40"])
    table = pq.read_table(out)
    assert table["ppl"].to_pylist()[-1] is None
    assert table["ppl"].null_count == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.jsonl"], "no such dataset file"),
        (["embedded", "--output", "/proc/x.jsonl"], "can't be written"),
        (["embedded", "--output", "x.txt"], "end it in one of"),
        (["embedded", "--scope", "answer"], "question or prompt"),
        (["embedded", "--dtype", "int8"], "dtype"),
        (["embedded", "--batch-tokens", "0"], "at least 1"),
    ],
)
def test_bad_input(arguments: list[str], message: str) -> None:
    result = RUNNER.invoke(app, ["score-ppl", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
