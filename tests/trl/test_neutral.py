"""With strategies that do nothing, the adapter's trainer is TRL's own, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from tests.trl.worlds import FIGURES, NEUTRAL, coin, lines, task, trainer, weights

CASES: dict[str, dict[str, Any]] = {
    "as TRL has it": {},
    "a reference, masks, reuse": {
        "loss_type": "grpo", "beta": 0.1, "num_iterations": 2, "mask_truncated_completions": True, "temperature": 0.8,
    },
    "several updates a batch": {"steps_per_generation": 4, "scale_rewards": "batch"},
    "several batches an update": {"steps_per_generation": 1, "loss_type": "dr_grpo"},
    "several epochs": {"max_steps": 9, "data": task(16)},
    "the set's own order": {"shuffle_dataset": False, "loss_type": "bnpo", "max_steps": 5},
    "adapters": {"options": {"peft_config": LoraConfig(target_modules=["q_proj", "v_proj"])}, "beta": 0.1},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_losses_gradients_and_weights_are_those_of_trl(case: str, tmp_path: Path) -> None:
    def ends(strategies: Any) -> tuple[dict[str, torch.Tensor], list[list[float | None]]]:
        trained = trainer(tmp_path, strategies, **CASES[case])
        trained.train()
        return weights(trained), lines(trained, *FIGURES)

    plain, neutral = ends(None), ends(NEUTRAL)
    assert neutral[1] == plain[1]
    assert all(torch.equal(neutral[0][name], value) for name, value in plain[0].items())


def test_the_cases_train(tmp_path: Path) -> None:
    trained = trainer(tmp_path, NEUTRAL)
    before = weights(trained)
    trained.train()
    assert any(not torch.equal(before[name], value) for name, value in weights(trained).items())
    assert len({line[1] for line in lines(trained, "loss", "grad_norm")}) == 10


def test_unscored_completions_and_weighted_rewards(tmp_path: Path) -> None:
    def half(completions: list[Any], **columns: Any) -> list[float | None]:
        return [value if i % 2 else None for i, value in enumerate(coin(completions))]

    found = []
    for strategies in (None, NEUTRAL):
        trained = trainer(tmp_path, strategies, reward=half, max_steps=4, reward_weights=[0.5])
        trained.train()
        found.append((weights(trained), lines(trained, *FIGURES)))
    assert found[0][1] == found[1][1]
    assert all(torch.equal(found[1][0][name], value) for name, value in found[0][0].items())


def test_an_evaluation_is_trls(tmp_path: Path) -> None:
    found = []
    for strategies in (None, NEUTRAL):
        settings = {"eval_strategy": "steps", "eval_steps": 2, "max_steps": 4, "per_device_eval_batch_size": 4}
        trained = trainer(tmp_path, strategies, options={"eval_dataset": task(4)}, **settings)
        trained.train()
        found.append(lines(trained, "eval_reward", "eval_completions/mean_length") + lines(trained, *FIGURES))
    assert found[0] == found[1]
    assert len(found[0]) == 2 + 4
