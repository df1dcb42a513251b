"""The embedded model and task are the ones on record, and are what they claim to be."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.config import ASSETS
from prepo_cli.engines.base import Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.policy.loading import load_policy
from prepo_cli.policy.policy import Policy
from prepo_cli.sections import ModelConfig
from strategies.types import derive_seed

SCRIPTS = Path(__file__).parents[1] / "examples" / "embedded"


def rows(split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (ASSETS / "task" / f"{split}.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(ModelConfig())


@pytest.fixture(scope="module")
def scripts() -> dict[str, ModuleType]:
    """The generator's modules, which import each other by name."""
    modules = {}
    for name in ("problems", "solutions", "make_task", "make_tokenizer", "beyond", "make_dial"):
        spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(modules[name])
    return modules


def test_files_are_those_on_record() -> None:
    recorded = dict(reversed(line.split()) for line in (ASSETS / "SHA256SUMS").read_text().splitlines())
    there = {
        str(path.relative_to(ASSETS)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("model", "task")
        for path in (ASSETS / folder).iterdir()
    }
    assert there == recorded


def test_the_script_makes_the_task_again(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    for split, problems in scripts["make_task"].make_splits(0).items():
        scripts["make_task"].write(tmp_path / f"{split}.jsonl", problems, split)
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (ASSETS / "task" / f"{split}.jsonl").read_bytes()


def test_the_script_makes_the_tokenizer_again(scripts: dict[str, ModuleType], tmp_path: Path) -> None:
    scripts["make_tokenizer"].make_tokenizer(0).save_pretrained(tmp_path)
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / name).read_text() == (ASSETS / "model" / name).read_text()


def test_splits_are_balanced_and_apart(scripts: dict[str, ModuleType]) -> None:
    train, test = rows("train"), rows("test")
    assert (len(train), len(test)) == (4000, 400)
    for split, share in ((train, 100), (test, 10)):
        cells = Counter((row["source"], row["difficulty"]) for row in split)
        assert len(cells) == 8 * 5
        assert set(cells.values()) == {share}
    prompts = [row["prompt"] for row in train + test]
    assert len(set(prompts)) == len(prompts)
    splits = scripts["make_task"].make_splits(0)
    assert not {p.key for p in splits["train"]} & {p.key for p in splits["test"]}


def test_the_dial_has_only_the_scripts_candidates(scripts: dict[str, ModuleType]) -> None:
    made = scripts["make_dial"]
    candidates = {
        json.dumps(row) for kind, problems in made.candidates(0).items() for row in made.rows_of(kind, problems)
    }
    dial = rows("dial")
    assert {json.dumps(row) for row in dial} < candidates
    assert Counter(row["kind"] for row in dial) == made.SIZES


def test_worked_solutions_are_right_and_short(scripts: dict[str, ModuleType], policy: Policy) -> None:
    for problem in scripts["make_task"].make_splits(0)["test"]:
        text = problem.worked()
        assert len(policy.tokenizer(text)["input_ids"]) < 80
        for line in text.split(". ")[:-1]:
            left, value = line.rsplit(" = ", 1)
            if not re.search("[a-z]", left):
                assert eval(left.replace("/", "//")) == int(value)
        assert text.endswith(f"\\boxed{{{problem.answer}}}")


@given(st.text())
def test_every_text_encodes_and_decodes_back(policy: Policy, text: str) -> None:
    assert policy.tokenizer.decode(policy.tokenizer(text)["input_ids"]) == text


def test_numbers_and_the_box_are_cheap(policy: Policy) -> None:
    for number in range(100):
        assert len(policy.tokenizer(str(number))["input_ids"]) == 1
    assert len(policy.tokenizer("\\boxed{")["input_ids"]) == 1


def test_the_model_is_small_and_of_a_real_architecture(policy: Policy) -> None:
    assert policy.model.config.model_type == "llama"
    assert 0.8e6 < sum(p.numel() for p in policy.model.parameters()) < 1.2e6
    assert sum(path.stat().st_size for path in (ASSETS / "model").iterdir()) < 4 * 2**20


def test_the_base_is_a_base(policy: Policy) -> None:
    """avg@16 in [0.30, 0.55]; >= 15% of prompts at 0 of 16, >= 8% at 16 of 16; every family in [5%, 90%]."""
    test = rows("test")
    requests = [
        Request(
            policy.tokenizer.apply_chat_template(
                [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, return_dict=False
            ),
            [derive_seed(0, "eval", row["id"], j) for j in range(16)],
            1.0,
            96,
        )
        for row in test
    ]
    groups = HfEngine(policy, 131_072).generate(requests)
    box = re.compile(r"\\boxed\{(\d+)\}")
    correct_PK = np.array(
        [
            [box.findall(policy.tokenizer.decode(r.token_ids))[-1:] == [row["answer"]] for r in group]
            for row, group in zip(test, groups, strict=True)
        ]
    )
    assert 0.30 <= correct_PK.mean() <= 0.55
    assert (correct_PK.sum(axis=1) == 0).mean() >= 0.15
    assert (correct_PK.sum(axis=1) == 16).mean() >= 0.08
    for family in {row["source"] for row in test}:
        assert 0.05 <= correct_PK[[row["source"] == family for row in test]].mean() <= 0.90
