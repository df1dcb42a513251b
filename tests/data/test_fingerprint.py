"""A changed row, tokenizer or template is found, and the first row that changed is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prepo_cli.data.fingerprint import fingerprint, refuse_changes, rendering_digests, row_checksums
from prepo_cli.data.loading import PromptDataset, load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.policy.loading import load_tokenizer
from prepo_cli.policy.weights_digest import weights_digest
from tests.architectures import TOKENIZERS

ROWS = [{"id": f"r{i}", "prompt": f"{i} + 1?", "answer": str(i + 1), "source": "sum"} for i in range(5)]


def written(path: Path, rows: list[dict[str, Any]]) -> PromptDataset:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_prompts(str(path))


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(TOKENIZERS["qwen3"](), "Be brief.", {"enable_thinking": False})


def test_checksums_are_those_of_the_three_texts(tmp_path: Path) -> None:
    expected = [crc32(b"\xff".join(row[key].encode() for key in ("prompt", "answer", "id"))) for row in ROWS]
    assert row_checksums(written(tmp_path / "d.jsonl", ROWS)).tolist() == expected


def test_the_format_of_the_file_does_not_matter(tmp_path: Path) -> None:
    rows = [{**row, "answer": int(row["answer"])} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    lines = written(tmp_path / "d.jsonl", [{**row, "source": "another"} for row in ROWS])
    assert row_checksums(load_prompts(str(tmp_path / "d.parquet"))).tolist() == row_checksums(lines).tolist()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 4), st.sampled_from(["id", "prompt", "answer"]), st.text(min_size=1, max_size=3))
def test_the_first_changed_row_is_named(
    tmp_path_factory: pytest.TempPathFactory, renderer: Renderer, index: int, key: str, text: str
) -> None:
    folder = tmp_path_factory.mktemp("edits")
    before = {"training set": written(folder / "before.jsonl", ROWS)}
    text = f"{text.encode(errors='replace').decode()} edited"
    edited = [{**row, key: f"{text} {i}"} if i in (index, 4) else row for i, row in enumerate(ROWS)]
    after = {"training set": written(folder / "after.jsonl", edited)}
    saved = fingerprint(before, renderer)
    refuse_changes(saved, fingerprint(before, renderer), before)
    others = " (1 more changed)" if index < 4 else ""
    with pytest.raises(UsageError) as error:
        refuse_changes(saved, fingerprint(after, renderer), after)
    assert f"after.jsonl, line {index + 1} (id '" in str(error.value)
    assert f"in id, prompt or answer{others};" in str(error.value)


def test_nested_and_skipped_rows_are_known(tmp_path: Path) -> None:
    rows = [
        {"prompt": [{"role": "user", "content": "x"}], "reward_model": {"ground_truth": ["1", "2"], "n": 1}},
        {"prompt": None, "reward_model": None},
        {"prompt": [{"role": "user", "content": "y"}], "reward_model": {"ground_truth": ["3"], "n": 2}},
    ]
    path = tmp_path / "d.jsonl"
    sums = []
    for change in ("1", "1", "7"):
        rows[0]["reward_model"]["ground_truth"][0] = change  # type: ignore[index]
        rows[0]["reward_model"]["n"] = len(sums)  # type: ignore[index]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sums.append(row_checksums(load_prompts(str(path), skip_bad_rows=True)))
    assert [len(sum_) for sum_ in sums] == [2, 2, 2]
    assert (sums[0] == sums[1]).tolist() == [True, True]
    assert (sums[0] == sums[2]).tolist() == [False, True]


def test_another_number_of_rows_is_refused(tmp_path: Path, renderer: Renderer) -> None:
    before, after = written(tmp_path / "a.jsonl", ROWS), written(tmp_path / "b.jsonl", ROWS[:4])
    saved = fingerprint({"evaluation set": before}, renderer)
    with pytest.raises(UsageError, match=r"the checkpoint's evaluation set has 5 prompts, .*b.jsonl 4"):
        refuse_changes(saved, fingerprint({"evaluation set": after}, renderer), {"evaluation set": after})


@pytest.mark.parametrize("name", TOKENIZERS)
def test_saving_a_tokenizer_does_not_change_its_digests(tmp_path: Path, name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    tokenizer.save_pretrained(tmp_path)
    assert rendering_digests(Renderer(load_tokenizer(str(tmp_path)))) == rendering_digests(Renderer(tokenizer))


def test_what_differs_is_named(renderer: Renderer) -> None:
    tokenizer = TOKENIZERS["qwen3"]()
    longer, other = TOKENIZERS["qwen3"](), TOKENIZERS["qwen3"]()
    longer.add_tokens(["<new>"])
    other.chat_template += " "
    kwargs = {"enable_thinking": False}
    saved = fingerprint({}, renderer, base_model="1")
    for different, what in {
        Renderer(longer, "Be brief.", kwargs): "tokenizer",
        Renderer(other, "Be brief.", kwargs): "chat template",
        Renderer(tokenizer, "Be long.", kwargs): "system prompt",
        Renderer(tokenizer, "Be brief.", {}): "chat template kwargs",
    }.items():
        with pytest.raises(UsageError, match=rf"^the {what} differs from the checkpoint's; "):
            refuse_changes(saved, fingerprint({}, different, base_model="1"), {})
    with pytest.raises(UsageError, match=r"^the base model differs from the checkpoint's; "):
        refuse_changes(saved, fingerprint({}, renderer, base_model="2"), {})


def test_the_digest_of_weights() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(64, 64))
    whole = weights_digest(model)
    assert weights_digest(model) == whole
    for at in range(5 * 3):  # few values are all sampled
        with torch.no_grad():
            value = model[0].weight.view(-1)[at].clone()
            model[0].weight.view(-1)[at] += 1e-7
            changed = weights_digest(model)
            model[0].weight.view(-1)[at] = value
        assert changed != whole
    with torch.no_grad():
        model[1].weight *= 1 + 2**-20  # training changes all
    assert weights_digest(model) != whole
    assert weights_digest(model.to(torch.bfloat16)) != weights_digest(model.to(torch.float32))
    assert np.unique([weights_digest(torch.nn.Linear(2, n)) for n in (1, 2, 3)]).size == 3
