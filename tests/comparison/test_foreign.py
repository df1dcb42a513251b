"""Logs in the formats that TRL's trainer and verl's file logger write, read as runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.comparison.foreign import read_foreign
from prepo_cli.comparison.result import Run
from prepo_cli.errors import UsageError


def trl_row(step: int, **others: Any) -> dict[str, Any]:
    """A training log of TRL 1.x."""
    return {
        "clip_ratio/high_mean": 0.01,
        "clip_ratio/low_mean": 0.002,
        "completions/clipped_ratio": 0.25,
        "completions/mean_length": 100.0 + step,
        "entropy": 0.5,
        "epoch": step / 100,
        "frac_reward_zero_std": 0.375,
        "grad_norm": 0.125,
        "learning_rate": 1e-06,
        "loss": 0.01,
        "num_tokens": 1000.0 * step,
        "reward": 0.5 + step / 1000,
        "reward_std": 0.2,
        "rewards/accuracy_reward/mean": 0.5,
        "sampling/sampling_logp_difference/mean": 0.003,
        "step": step,
        "step_time": 2.0,
        **others,
    }


HISTORY = [
    trl_row(10),
    {"epoch": 0.15, "eval_loss": 0.0, "eval_num_tokens": 15000.0, "eval_reward": 0.55, "eval_runtime": 9.0, "step": 15},
    trl_row(20, kl=0.04, reward=None),
    trl_row(30, kl=0.05),
    {"epoch": 0.3, "eval_reward": 0.65, "eval_rewards/accuracy_reward/mean": 0.7, "eval_runtime": 9.0, "step": 30},
    {"epoch": 0.3, "step": 30, "total_flos": 0.0, "train_loss": 0.01, "train_runtime": 80.0},
]


def write_state(folder: Path, history: Any = HISTORY) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    state = {"best_metric": None, "epoch": 0.3, "global_step": 30, "log_history": history, "max_steps": 30}
    state |= {"train_batch_size": 8, "trial_params": None}
    (folder / "trainer_state.json").write_text(json.dumps(state, indent=2, sort_keys=True) + "\n")
    return folder


def read(path: Path) -> Run:
    run = read_foreign(path)
    assert run is not None
    return run


def test_trl_metrics_get_our_names(tmp_path: Path) -> None:
    run = read(write_state(tmp_path / "grpo"))
    assert (run.source, run.name, run.recipe, run.seed) == ("trl", "grpo", "TRL (grpo)", None)
    assert run.config == {"training": {"max_steps": 30, "train_batch_size": 8}}
    assert run.steps == 3
    assert run.metrics["step"].tolist() == [9, 19, 29]  # ours count from 0
    np.testing.assert_array_equal(run.metrics["reward"], [0.51, np.nan, 0.53])
    np.testing.assert_array_equal(run.metrics["kl"], [np.nan, 0.04, 0.05])
    assert run.metrics["completions/mean_length"].tolist() == [110, 120, 130]
    assert run.metrics["clip_ratio/low"].tolist() == [0.002] * 3
    assert run.metrics["sampling/logp_difference"].tolist() == [0.003] * 3
    assert run.metrics["rewards/accuracy_reward/mean"].tolist() == [0.5] * 3
    assert "frac_all_wrong" not in run.metrics  # TRL does not log it


def test_trl_evaluations_and_what_they_had_cost(tmp_path: Path) -> None:
    run = read(write_state(tmp_path / "grpo"))
    assert (run.metric, run.evaluations_EP) == ("eval_reward", None)
    assert run.evaluated_E is not None and run.evaluated_E.tolist() == [0.55, 0.65]
    assert {axis: cost.tolist() for axis, cost in run.cost_E.items()} == {
        "tokens": [15_000, 30_000],  # halfway between two logs, and the last one
        "seconds": [30, 60],  # 2 seconds for each of the steps
    }
    assert run.costs == {"tokens": 30_000, "seconds": 60}
    assert "rollouts" not in run.cost_E  # the log does not hold the batch size


def test_older_trl_and_several_evaluation_sets(tmp_path: Path) -> None:
    history = [{"completion_length": 7.5, "reward": 1.0, "step": 1}, {"eval_math_reward": 0.25, "step": 1}]
    run = read(write_state(tmp_path / "old", history))
    assert run.metrics["completions/mean_length"].tolist() == [7.5]
    assert run.metric == "eval_math_reward"
    assert (run.cost_E, run.costs) == ({}, {})


def test_trl_without_evaluations(tmp_path: Path) -> None:
    run = read(write_state(tmp_path / "grpo", [trl_row(1)]))
    assert (run.metric, run.evaluated_E) == (None, None)
    assert run.costs == {"tokens": 1000, "seconds": 2}


def test_the_newest_checkpoint_counts_unless_the_folder_has_a_state_of_its_own(tmp_path: Path) -> None:
    for step in (20, 100, 30):
        write_state(tmp_path / "out" / f"checkpoint-{step}", [trl_row(step)])
    assert read(tmp_path / "out").metrics["step"].tolist() == [99]
    assert read(tmp_path / "out" / "checkpoint-20").recipe == "TRL (out)"
    write_state(tmp_path / "out", [trl_row(101)])
    assert read(tmp_path / "out").metrics["step"].tolist() == [100]
    assert read(tmp_path / "out" / "trainer_state.json").name == "out"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{\n  "log_history": [\n    {"reward": 0.5,\n', r"trainer_state\.json:4: not JSON; copy it again"),
        ("[1, 2]", "no Trainer log_history"),
        ('{"epoch": 1}', "no Trainer log_history"),
        ('{"log_history": [1]}', "no Trainer log_history"),
        ('{"log_history": [{"loss": 1.0, "step": 1}]}', "logs no rewards; pass the output folder of a GRPOTrainer"),
    ],
)
def test_a_damaged_state_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(UsageError, match=message):
        read_foreign(tmp_path)


def verl_data(rollouts: int, prompt: float, response: float, **others: Any) -> dict[str, Any]:
    """A training step's data in verl 0.5 and later."""
    return {
        "training/epoch": 0,
        "critic/score/mean": 0.25,
        "critic/rewards/mean": 0.2,
        "actor/entropy": 0.75,
        "actor/grad_norm": None,
        "actor/lr": 1e-6,
        "prompt_length/mean": prompt,
        "response_length/mean": response,
        "perf/total_num_tokens": round(rollouts * (prompt + response)),
        "timing_s/gen": 4.0,
        "timing_s/step": 10.0,
        "timing_s/testing": 99.0,
    } | others


VALIDATION = "val-core/openai/gsm8k/acc/mean@4"


def write_log(path: Path, lines: list[tuple[int, dict[str, Any]]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in lines))
    return path


VERL = [
    (0, {VALIDATION: 0.125, "val-aux/openai/gsm8k/reward/mean@4": 9.0}),
    (1, verl_data(64, 20.5, 100.25)),
    (2, verl_data(32, 30.25, 200.5) | {VALIDATION: 0.5, "val-core/openai/gsm8k/acc/best@4/mean": 0.9}),
]


def test_verl_metrics_get_our_names(tmp_path: Path) -> None:
    run = read(write_log(tmp_path / "project" / "first.jsonl", VERL))
    assert (run.source, run.name, run.recipe, run.seed, run.config) == ("verl", "first", "verl (first)", None, {})
    assert run.metrics["step"].tolist() == [0, 1]
    assert run.metrics["reward"].tolist() == [0.25, 0.25]  # the score, before a KL penalty
    assert run.metrics["timing_s/generate"].tolist() == [4, 4]
    assert np.isnan(run.metrics["grad_norm"]).all()
    assert run.metrics["cost/rollouts_total"].tolist() == [64, 96]


def test_verl_evaluations_and_what_they_had_cost(tmp_path: Path) -> None:
    run = read(write_log(tmp_path / "first.jsonl", VERL))
    assert run.metric == "avg@4"
    assert run.evaluated_E is not None and run.evaluated_E.tolist() == [0.125, 0.5]
    tokens = 64 * 120.75 + 32 * 230.75
    assert {axis: cost.tolist() for axis, cost in run.cost_E.items()} == {
        "rollouts": [0, 96],
        "tokens": [0, tokens],
        "seconds": [0, 20],  # validation is not training
    }
    assert run.costs == {"rollouts": 96, "tokens": tokens, "seconds": 20}


def test_verl_folder_and_its_several_data_sources(tmp_path: Path) -> None:
    data = {"val-core/aime/reward/mean@8": 0.2, "val-core/math/acc/mean@1": 0.6}
    write_log(tmp_path / "run.jsonl", [(1, verl_data(8, 1.0, 2.0) | data)])
    run = read(tmp_path)
    assert run.metric == "validation score"  # sampled differently
    assert run.evaluated_E is not None and run.evaluated_E.tolist() == [pytest.approx(0.4)]
    write_log(tmp_path / "other.jsonl", VERL)
    with pytest.raises(UsageError, match=r"several logs \(other\.jsonl, run\.jsonl\); pass one"):
        read_foreign(tmp_path)


def test_dynamic_sampling_hides_what_was_generated(tmp_path: Path) -> None:
    run = read(write_log(tmp_path / "dapo.jsonl", [(1, verl_data(8, 1.0, 2.0) | {"train/num_gen_batches": 3})]))
    assert run.costs == {"seconds": 10}


def test_a_damaged_verl_line_is_named(tmp_path: Path) -> None:
    log = write_log(tmp_path / "run.jsonl", VERL)
    log.write_text(log.read_text() + '{"step": 3, "data": {"critic/sc')
    with pytest.raises(UsageError, match=r"run\.jsonl:4: "):
        read_foreign(log)
    write_log(log, [*VERL, (3, [])])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=r"run\.jsonl:4: lacks the step and data"):
        read_foreign(log)


def test_what_is_neither_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "reward": 0.5}\n')
    (tmp_path / "notes.jsonl").write_text("not JSON\n")
    assert read_foreign(tmp_path) is None
    assert read_foreign(tmp_path / "notes.jsonl") is None
    assert read_foreign(tmp_path / "missing") is None


@given(
    st.lists(
        st.tuples(
            st.integers(1, 4096),
            st.floats(1, 4000),
            st.floats(1, 30_000),
            st.none() | st.floats(-5, 5),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_any_verl_log_gives_its_numbers_back(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, float, float, float | None]]
) -> None:
    data = [verl_data(n, prompt, response) | {"critic/score/mean": score} for n, prompt, response, score in steps]
    run = read(write_log(tmp_path_factory.mktemp("verl") / "run.jsonl", list(enumerate(data, 1))))
    scores = [np.nan if score is None else score for *_, score in steps]
    np.testing.assert_array_equal(run.metrics["reward"], scores)
    total = 0
    for i, (rollouts, *_) in enumerate(steps):
        total += rollouts
        assert run.metrics["cost/rollouts_total"][i] == total
