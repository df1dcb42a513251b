"""`prepo score-ppl` as a user calls it, against perplexities taken one prompt at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import concatenate_datasets, load_dataset
from typer.testing import CliRunner

from prepo_cli.chunks import Chunks
from prepo_cli.data.loading import load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.evaluation import ppl_scoring
from prepo_cli.evaluation.score_context import PerplexityContext
from prepo_cli.evaluation.settings import ScoringConfig
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


def test_an_interrupted_scoring_resumes_and_equals_an_uninterrupted_one(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_scoring, "CHUNK_ROWS", 2)
    whole, broken = tmp_path / "whole.parquet", tmp_path / "broken.parquet"
    assert RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(whole)]).exit_code == 0
    write = Chunks.write

    def interrupt_at_the_second(self: Chunks, number: int, table: pa.Table) -> None:
        if number == 1:
            raise KeyboardInterrupt
        write(self, number, table)

    monkeypatch.setattr(Chunks, "write", interrupt_at_the_second)
    assert RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(broken)]).exit_code == 130
    assert not broken.exists()
    monkeypatch.setattr(Chunks, "write", write)
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(broken)])
    assert "resuming: 2 of 5 prompts are already scored" in result.stderr
    assert pq.read_table(broken).equals(pq.read_table(whole))


def test_ctrl_c_while_a_prompt_is_rendered_keeps_what_is_scored(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ppl_scoring, "CHUNK_ROWS", 1)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    assert RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(whole)]).exit_code == 0
    render = Renderer.__call__

    def interrupted(self: Renderer, messages: Any) -> Any:
        if messages[0]["content"] == QUESTIONS[3]:
            assert threading.current_thread() is not threading.main_thread()
            os.kill(os.getpid(), signal.SIGINT)
        return render(self, messages)

    monkeypatch.setattr(Renderer, "__call__", interrupted)
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(broken)])
    assert result.exit_code == 130
    assert "run the same command to resume" in result.stderr
    monkeypatch.setattr(Renderer, "__call__", render)
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(broken)])
    # The fourth is not rendered before the third is needed, and then the first is scored and the second being written.
    assert re.search(r"resuming: [234] of 5 prompts are already scored", result.stderr)
    assert broken.read_bytes() == whole.read_bytes()


def test_a_prompt_that_the_template_rejects_ends_in_one_line(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the thread that renders raises is what the command says."""
    monkeypatch.setattr(ppl_scoring, "CHUNK_ROWS", 2)
    template = "{{ raise_exception('no') if 'Anna' in messages[-1]['content'] else messages[-1]['content'] }}"
    load = ppl_scoring.load_policy

    def strict(*arguments: Any) -> Any:
        policy = load(*arguments)
        policy.tokenizer.chat_template = template
        return policy

    monkeypatch.setattr(ppl_scoring, "load_policy", strict)
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(tmp_path / "out.jsonl")])
    assert result.exit_code == 2
    assert "the model's chat template rejects messages with roles user (no)" in result.stderr.splitlines()[-1]
    assert (tmp_path / "out.jsonl.partial" / "chunk-000000.parquet").is_file()


def test_finished_chunks_of_other_settings_are_not_mixed_in(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    other = Chunks(tmp_path / "out.parquet.partial", "another")
    other.open()
    other.write(0, pa.table({"ppl": [7.0] * len(QUESTIONS), "tokens": [1.0] * len(QUESTIONS)}))
    result = RUNNER.invoke(app, ["score-ppl", str(dataset), "--output", str(out)])
    assert "starting over" in result.stderr
    assert pq.read_table(out)["ppl"][0].as_py() != 7.0


CHANGES: list[dict[str, Any]] = [
    {"scope": "prompt"},
    {"system_prompt": "Be brief."},
    {"chat_template_kwargs": {"enable_thinking": False}},
    {"model": {"revision": "v2"}},
    {"model": {"dtype": "bfloat16"}},
    {"max_prompt_length": 40},
    {"limit": 4},
    {"engine": {"name": "vllm"}},
]


def test_the_fingerprint_covers_what_the_perplexities_depend_on(dataset: Path, tmp_path: Path) -> None:
    def mark(**settings: Any) -> str:
        config = ScoringConfig.model_validate({"dataset_name": str(dataset), "output": tmp_path / "x.csv"} | settings)
        return ppl_scoring.fingerprint(config, load_prompts(str(dataset), limit=config.limit, need_answer=False))

    plain = mark()
    assert mark(output=tmp_path / "y.csv", batch_tokens=17, engine={"max_batch_tokens": 1}) == plain
    marks = [mark(**change) for change in CHANGES]
    dataset.write_text(dataset.read_text().replace("2 + 2", "2 + 3"))
    assert len({plain, *marks, mark()}) == len(CHANGES) + 2


@pytest.mark.parametrize("ending", ["jsonl", "parquet", "csv"])
def test_the_context_survives_files_joins_and_scoring_again(dataset: Path, tmp_path: Path, ending: str) -> None:
    first, second = tmp_path / f"first.{ending}", tmp_path / f"second.{ending}"
    score = ["score-ppl", str(dataset), "--scope", "prompt", "--revision", "v2", "--system-prompt", 'Say "é",\nthen x.']
    report = json.loads(RUNNER.invoke(app, [*score, "--output", str(first), "--json"]).stdout)
    RUNNER.invoke(app, ["score-ppl", str(first), "--output", str(second)])
    tables = [load_prompts(str(path), need_answer=False).table for path in (first, second)]
    assert [len(set(table["ppl_context"])) for table in tables] == [1, 1]
    joined = concatenate_datasets(tables).select([0, 2, len(QUESTIONS) + 1])
    contexts = [PerplexityContext.from_json(cell) for cell in joined["ppl_context"]]
    assert [context.scope for context in contexts] == ["prompt", "prompt", "question"]
    assert contexts[0].rendering != contexts[2].rendering
    assert asdict(contexts[0]) == report["context"]
    assert [(context.model, context.revision) for context in contexts[1:]] == [("embedded", "v2"), ("embedded", None)]


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
        (["embedded", "--output", "/proc/x.jsonl"], "can't write to /proc/x.jsonl"),
        (["embedded", "--output", "x.txt"], "must end in one of .jsonl, .parquet, .csv"),
        (["embedded", "--scope", "answer"], "scope=\"answer\": must be 'question' or 'prompt'"),
        (["embedded", "--dtype", "int8"], "dtype"),
        (["embedded", "--batch-tokens", "0"], "batch_tokens=0: must be at least 1"),
        (["embedded", "--limit", "0"], "limit=0: must be at least 1"),
        (["embedded", "--max-prompt-length", "-1"], "max_prompt_length=-1"),
        (["embedded", "--template-arg", "enable_thinking"], "write key=value"),
    ],
)
def test_bad_input(arguments: list[str], message: str) -> None:
    result = RUNNER.invoke(app, ["score-ppl", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
