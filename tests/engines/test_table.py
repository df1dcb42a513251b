"""The table of engines agrees with the settings and the documentation, and no other code tests an engine's name."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from prepo_cli.engines import ENGINES, build_engine
from prepo_cli.engines.base import Engine, Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.engines.idle import IdleEngine
from prepo_cli.engines.vllm_server import VllmServerEngine
from prepo_cli.policy.policy import ModelSpec, Policy
from prepo_cli.sections import EngineConfig, ModelConfig
from tests.engines.fake_vllm import CONTEXT, END, FakeVllm
from tests.models import make_policy

PACKAGE = Path(__file__).parents[2] / "prepo_cli"
FLAGS = ("shares_weights", "serves_all", "exact_logprobs", "scores_prompts")


def build(config: EngineConfig, model: Policy | ModelSpec, folder: Path, **options: Any) -> Engine:
    model_config = ModelConfig(model_name_or_path="some/m")
    return build_engine(config, model, model_config, max_context=CONTEXT, seed=0, sync_dir=folder, **options)


def test_the_settings_name_the_engines_of_the_table() -> None:
    field = EngineConfig.model_fields["name"]
    assert get_args(field.annotation) == tuple(ENGINES)
    assert field.description == "; ".join(f"{name}: {entry.description}" for name, entry in ENGINES.items())


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_says_what_it_is(name: str) -> None:
    engine = ENGINES[name].load()
    assert all(type(getattr(engine, flag)) is bool for flag in FLAGS)
    assert hasattr(engine, "prompt_logprobs") == engine.scores_prompts
    # What the other processes hold instead of an engine that serves all must tell the learner the same.
    if engine.serves_all:
        assert (engine.shares_weights, engine.exact_logprobs) == (IdleEngine.shares_weights, IdleEngine.exact_logprobs)


@pytest.mark.parametrize("flag", FLAGS)
def test_the_documentation_says_what_the_engines_are(flag: str) -> None:
    lines = (PACKAGE.parent / "docs" / "engines.md").read_text(encoding="utf-8").splitlines()
    (row,) = (line for line in lines if line.startswith(f"| `{flag}` |"))
    answers = [cell.strip() for cell in row.split("|")[2 : 2 + len(ENGINES)]]
    assert answers == ["yes" if getattr(entry.load(), flag) else "no" for entry in ENGINES.values()]


def named_in_comparisons(path: Path) -> list[int]:
    """Lines of a file that compare something with an engine's name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            sides += [item for side in sides if isinstance(side, ast.Tuple | ast.List | ast.Set) for item in side.elts]
            if any(isinstance(side, ast.Constant) and side.value in ENGINES for side in sides):
                found.append(node.lineno)
    return found


def test_no_code_tests_an_engines_name() -> None:
    found = {str(path.relative_to(PACKAGE)): named_in_comparisons(path) for path in PACKAGE.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_hf_engine_generates_with_the_policy_it_is_given(tmp_path: Path) -> None:
    policy = make_policy()
    engine = build(EngineConfig(max_batch_tokens=60), policy, tmp_path)
    assert isinstance(engine, HfEngine)
    assert engine.policy is policy and engine.max_batch_tokens == 60
    with pytest.raises(AssertionError, match="policy with its weights"):
        build(EngineConfig(), ModelSpec(None, frozenset({END}), None, "some/m"), tmp_path)


def test_a_server_needs_no_weights_and_only_the_main_process_connects(fake: FakeVllm, tmp_path: Path) -> None:
    config = EngineConfig(name="vllm-server", vllm_server_base_url=fake.url)
    # A resumed run's weights come from a checkpoint; the server has the model that the run started with.
    spec = ModelSpec(None, frozenset({END}), None, source="run/checkpoints/step-000004/model")
    idle = build(config, spec, tmp_path, num_processes=2, is_main=False)
    assert isinstance(idle, IdleEngine) and not fake.paths
    engine = build(config, spec, tmp_path, num_processes=2)
    assert isinstance(engine, VllmServerEngine)
    (group,) = engine.generate([Request([4, 5], [1, 2], 1.0, 10)])
    assert [rollout.token_ids for rollout in group] == [[0, 11, END]] * 2


def test_an_idle_engine_takes_part_in_gathering_weights(tmp_path: Path) -> None:
    engine = build(EngineConfig(name="vllm-server"), make_policy(), tmp_path, is_main=False)
    gathered: list[str] = []

    def weights() -> Any:
        for name in ("a", "b"):
            gathered.append(name)
            yield name, torch.zeros(1)

    engine.sync(weights())
    assert gathered == ["a", "b"]
    assert engine.generate([]) == []
    engine.sleep()
    engine.close()


def test_every_row_gets_its_own_prompt_log_probs(fake: FakeVllm, tmp_path: Path) -> None:
    engine: Any = build(
        EngineConfig(name="vllm-server", vllm_server_base_url=fake.url),
        ModelSpec(None, frozenset({END}), None, "some/m"),
        tmp_path,
    )
    rows = [[i, i + 1, i + 2][: 1 + i % 3] for i in range(2, 40)]
    for row, scores in zip(rows, engine.prompt_logprobs(rows), strict=True):
        np.testing.assert_array_equal(scores, -np.float32(row[1:]))
