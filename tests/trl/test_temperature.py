"""The step's temperature holds wherever TRL uses one, and log-probs are those of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.errors import UsageError
from prepo_cli.integrations.trl_temperature import Temperature
from strategies import TemperatureSchedule
from tests.trl.worlds import task, trainer

RISING = {"temperature_schedule": "tests.trl.test_temperature:Rising"}


class Rising(TemperatureSchedule):
    """0.5, 0.75, 1 .."""

    def temperature(self, ctx: Any) -> float:
        return 0.5 + 0.25 * ctx.step


def naive_logprobs(model: Any, prompt: torch.Tensor, completion: torch.Tensor, temperature: float) -> torch.Tensor:
    """Of one row without padding, from the model's own logits."""
    logits = model.base_model(torch.cat([prompt, completion])[None]).last_hidden_state @ model.lm_head.weight.T
    logprobs = (logits[0].double() / temperature).log_softmax(dim=-1)[len(prompt) - 1 : -1]
    return logprobs.gather(1, completion[:, None])[:, 0]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_logprobs_and_entropies_of_a_step_are_taken_at_its_temperature(temperature: float, tmp_path: Path) -> None:
    made = trainer(tmp_path, {"temperature_schedule": f"constant:value={temperature}", "weighting": "rel-entropy"})
    made.model.train()
    batch = made._generate_and_score_completions([])
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    with torch.no_grad():
        found, _, _ = made._get_per_token_logps_and_entropies(made.model, ids, mask, batch["completion_ids"].shape[1])
        for i in range(3):
            prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()]
            own = batch["completion_mask"][i].bool()
            expected = naive_logprobs(made.model, prompt, batch["completion_ids"][i][own], temperature)
            torch.testing.assert_close(found[i][own].double(), expected, rtol=1e-4, atol=1e-4)


def test_every_place_follows_the_schedule(tmp_path: Path) -> None:
    made = trainer(tmp_path, RISING, beta=0.1, max_steps=3)
    seen = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((made.temperature, made.generation_config.temperature, made.generation_kwargs["temperature"]))
        return generate(*args, **kwargs)

    generate = made._generate_single_turn
    made._generate_single_turn = watched
    made.train()
    assert seen == [(t, t, t) for t in (0.5, 0.75, 1.0)]
    assert [cell.cell_contents for cell in made._temperature._cells] == [1.0, 1.0]
    logged = [line["temperature"] for line in made.state.log_history if "temperature" in line]
    assert logged == [0.5, 0.75, 1.0]


def test_no_schedule_means_trls_own_temperature(tmp_path: Path) -> None:
    made = trainer(tmp_path, {"selector": "full"}, temperature=0.7, max_steps=1)
    made.train()
    assert [line["temperature"] for line in made.state.log_history if "temperature" in line] == [0.7]


def test_evaluations_and_probes_leave_it_as_it_is(tmp_path: Path) -> None:
    slots = RISING | {"selector": "ppl-schedule"}
    settings = {"eval_strategy": "steps", "eval_steps": 1, "max_steps": 2, "per_device_eval_batch_size": 4}
    made = trainer(tmp_path, slots, temperature=0.9, options={"eval_dataset": task(4)}, **settings)
    seen: list[tuple[bool, float]] = []

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((made.model.training, made._temperature._cells[0].cell_contents))
        return generate(*args, **kwargs)

    generate = made._generate_single_turn
    made._generate_single_turn = watched
    made.train()
    assert seen[0] == (True, 0.5) and set(seen) == {(True, 0.5), (False, 0.9), (True, 0.75)}
    assert seen.count((True, 0.75)) == 1


def test_a_head_that_keeps_its_temperature_elsewhere_is_refused(tmp_path: Path) -> None:
    made = trainer(tmp_path, {"selector": "full"})
    made.model.forward = lambda *args, **kwargs: None
    with pytest.raises(UsageError, match="keeps the temperature of its fused head where prepo can't set it"):
        Temperature(made)


def test_a_change_is_not_lost_by_training(tmp_path: Path) -> None:
    """`accelerate` wraps the model's forward when training starts; the head is still the one that was found."""
    made = trainer(tmp_path, RISING, max_steps=2)
    made.train()
    batch = made._buffered_inputs[0]
    ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
    mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
    prompt, own = batch["prompt_ids"][0][batch["prompt_mask"][0].bool()], batch["completion_mask"][0].bool()
    with torch.no_grad():
        found, _, _ = made._get_per_token_logps_and_entropies(made.model, ids, mask, batch["completion_ids"].shape[1])
        expected = naive_logprobs(made.model, prompt, batch["completion_ids"][0][own], 0.75)
    np.testing.assert_allclose(found[0][own].numpy(), expected.numpy(), rtol=1e-4, atol=1e-4)
