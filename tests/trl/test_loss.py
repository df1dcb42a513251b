"""The loss of a batch that was rearranged: TRL's own formula over what was kept, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prepo_cli.integrations.trl_hooks import ROW_MEANS, TOKEN_MEANS
from strategies import RolloutFilter, RolloutWeighting, StrategySet
from strategies.base import StrategyParams
from strategies.types import RunInfo
from tests.trl.worlds import coin, trainer

MODULE = "tests.trl.test_loss"


class OddOnes(RolloutFilter):
    """Keeps the first rollouts of a group: one more of each next group, until all are kept."""

    def keep(self, group: Any, ctx: Any) -> Any:
        self.seen = getattr(self, "seen", 0) + 1
        return np.arange(len(group.completions)) < min(self.seen, len(group.completions))


class ByPlace(RolloutWeighting):
    """Weight 1, 2, 3 .. by the place of the token."""

    def weigh(self, batch: Any, ctx: Any) -> Any:
        n, t = batch.mask_NT.shape
        return np.broadcast_to(np.arange(1, t + 1), (n, t))


def first_batch(folder: Path, strategies: dict[str, str], **changes: Any) -> tuple[Any, list[dict[str, Any]]]:
    """A trainer, and the micro-batches that it would train on first."""
    made = trainer(folder, strategies, **changes)
    made.model.train()
    made.current_gradient_accumulation_steps = made.args.gradient_accumulation_steps
    batches = []
    for _ in range(made.args.steps_per_generation):
        batches.append(made._prepare_inputs([{"prompt": "unused"}]))
        made._step += 1
    return made, batches


def rows_of(batches: list[dict[str, Any]]) -> list[tuple[list[int], list[int], float]]:
    """Prompt, completion and advantage of each row with an effect."""
    found = []
    for batch in batches:
        for i in range(len(batch["prompt_ids"])):
            prompt = batch["prompt_ids"][i][batch["prompt_mask"][i].bool()].tolist()
            completion = batch["completion_ids"][i][batch["completion_mask"][i].bool()].tolist()
            if completion:
                found.append((prompt, completion, batch["advantages"][i].flatten()[0].item()))
    return found


def naive_loss(made: Any, rows: list[tuple[list[int], list[int], float]], by_place: bool) -> float:
    """On-policy, with ratios of 1: minus advantage times weight, averaged as the loss type says."""
    sums = [sum(-a * (t + 1 if by_place else 1) for t in range(len(ids))) for _, ids, a in rows]
    lengths = [len(ids) for _, ids, _ in rows]
    kind, longest = made.loss_type, made.args.max_completion_length
    if kind == "dapo":
        return sum(sums) / sum(lengths)
    if kind == "dr_grpo":
        return sum(sums) / len(rows) / longest
    if kind == "luspo":
        return sum(sums) / len(rows)
    return float(np.mean([s / n for s, n in zip(sums, lengths, strict=True)]))


@pytest.mark.parametrize("by_place", [False, True])
@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo", "luspo"])
def test_loss_over_what_was_kept(loss_type: str, by_place: bool, tmp_path: Path) -> None:
    slots = {"selector": "full", "filter": f"{MODULE}:OddOnes"} | (
        {"weighting": f"{MODULE}:ByPlace"} if by_place else {}
    )
    made, batches = first_batch(tmp_path, slots, loss_type=loss_type, gradient_accumulation_steps=4)
    kept = 1 + 2 + 3 + 4 * 5
    rows = rows_of(batches)
    assert len(rows) == kept
    assert [len(batch["prompt_ids"]) for batch in batches] == [7] * 4  # 28 rows, of which 2 have no effect
    loss = sum(made._compute_loss(made.model, batch).item() for batch in batches)
    np.testing.assert_allclose(loss, naive_loss(made, rows, by_place), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss_type", sorted(ROW_MEANS | TOKEN_MEANS))
def test_every_loss_type_trains_on_what_was_kept_with_token_weights(loss_type: str, tmp_path: Path) -> None:
    slots = {"filter": f"{MODULE}:OddOnes", "weighting": f"{MODULE}:ByPlace"}
    made = trainer(tmp_path, slots, loss_type=loss_type, max_steps=2, beta=0.1)
    made.train()
    losses = [line["grad_norm"] for line in made.state.log_history if "grad_norm" in line]
    assert len(losses) == 2 and all(np.isfinite(losses)) and losses[1] > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"steps_per_generation": 1},
        {"steps_per_generation": 4, "num_iterations": 2},
        {"mask_truncated_completions": True, "scale_rewards": "batch"},
        {"scale_rewards": "none", "importance_sampling_level": "sequence", "pad_to_multiple_of": 4},
        {"off_policy_mask_threshold": 0.5, "top_entropy_quantile": 0.5, "steps_per_generation": 4},
    ],
    ids=str,
)
def test_trls_other_settings_go_together_with_rounds_and_weights(changes: dict[str, Any], tmp_path: Path) -> None:
    slots = {"recipe": "everything", "weighting": f"{MODULE}:ByPlace"}
    made = trainer(tmp_path, slots, max_steps=4, **changes)
    made.train()
    norms = [line["grad_norm"] for line in made.state.log_history if "grad_norm" in line]
    assert len(norms) == 4 and all(np.isfinite(norms)) and any(norms)


def test_advantages_are_those_of_the_kept_rollouts_alone(tmp_path: Path) -> None:
    made, batches = first_batch(tmp_path, {"selector": "full", "filter": f"{MODULE}:OddOnes"})
    by_prompt: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for prompt, ids, advantage in rows_of(batches):
        text = made.processing_class.decode(ids, skip_special_tokens=True)
        reward = coin([[{"role": "assistant", "content": text}]])[0]
        by_prompt.setdefault(tuple(prompt), []).append((reward, advantage))
    assert sorted(map(len, by_prompt.values())) == [1, 2, 3, 4]
    for pairs in by_prompt.values():
        rewards = np.array([reward for reward, _ in pairs])
        expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4) if len(rewards) > 1 else [0.0]
        np.testing.assert_allclose([advantage for _, advantage in pairs], expected, rtol=1e-5, atol=1e-6)
    assert any(advantage for pairs in by_prompt.values() for _, advantage in pairs)


def test_a_step_that_keeps_nothing_has_no_loss(tmp_path: Path) -> None:
    def ones(completions: list[Any], **columns: Any) -> list[float]:
        return [1.0] * len(completions)

    slots = {"selector": "full", "filter": "nonzero-variance"}
    made, batches = first_batch(tmp_path, slots, reward=ones, options={"max_rounds": 2})
    assert rows_of(batches) == []
    losses = [made._compute_loss(made.model, batch) for batch in batches]
    assert [loss.item() for loss in losses] == [0.0, 0.0]
    losses[0].backward()
    assert all(p.grad is None or not p.grad.any() for p in made.model.parameters())


def test_a_strategy_set_of_the_users_own(tmp_path: Path) -> None:
    run = RunInfo(num_prompts=64, total_steps=2, prompts_per_step=4, num_generations=4)
    made = trainer(tmp_path, StrategySet({"filter": "nonzero-variance"}, run), max_steps=2)
    made.train()
    assert made.state.global_step == 2
    assert OddOnes.Params is StrategyParams  # which have none, so that it needs no registration


def test_weights_scale_advantages_of_rollouts(tmp_path: Path) -> None:
    """The same seed without and with weights: rel-entropy's are one for each rollout."""
    _, plain = first_batch(tmp_path, {"selector": "full"})
    made, weighted = first_batch(tmp_path, {"selector": "full", "weighting": "rel-entropy"})
    one = torch.cat([batch["advantages"] for batch in plain])
    other = torch.cat([batch["advantages"] for batch in weighted])
    assert one.shape == other.shape
    assert (torch.sign(one) == torch.sign(other)).all() and not torch.equal(one, other)
    assert made.session.costs.tokens_scored > 0
