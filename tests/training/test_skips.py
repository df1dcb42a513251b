"""An update that isn't finite is as if it had never been tried, on its own, in a run, and in several processes."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from prepo_cli.distributed.layout import adamw
from prepo_cli.errors import RunError, UsageError
from prepo_cli.policy.policy import Policy
from prepo_cli.sections import TrainingConfig
from prepo_cli.training import batch_loss
from prepo_cli.training.loss import aggregate
from prepo_cli.training.rollouts import Sample
from prepo_cli.training.sample import TrainingSample, training_samples
from prepo_cli.training.schedule import refuse_overwriting
from prepo_cli.training.skips import SAVED_STEPS, Skips
from prepo_cli.training.update import Updater
from prepo_cli.training.update_stats import UpdateStats
from tests.metrics import timeless
from tests.models import make_policy
from tests.training.test_run import run
from tests.training.test_update import make_groups, make_updater, scored

RATE = 0.01


def with_adamw(**settings: Any) -> tuple[Policy, Updater]:
    policy = make_policy()
    return policy, make_updater(policy, adamw(list(policy.model.parameters()), TrainingConfig()), **settings)


def state(policy: Policy, updater: Updater) -> dict[str, torch.Tensor]:
    """Weights, moments and step counts."""
    found = {name: weight.detach().clone() for name, weight in policy.model.named_parameters()}
    for name, entry in updater.team.learner.layout.optimizer_state(keep=True).items():
        found |= {f"{name} {key}": value.clone() for key, value in entry.items()}
    return found


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []


def batches(count: int) -> list[list[TrainingSample]]:
    """The same ones for every policy."""
    policy = make_policy()
    groups: list[list[list[Sample]]] = [make_groups(policy) for _ in range(count)]
    return [training_samples(each, np.ones((sum(map(len, each)), 1))) for each in groups]


def infinite_factor(batch: list[TrainingSample]) -> None:
    batch[0].factor_T = np.full(batch[0].num_tokens, np.inf)


def no_number(batch: list[TrainingSample]) -> None:
    batch[0].factor_T = np.full(batch[0].num_tokens, np.nan)


def too_large_a_gradient(batch: list[TrainingSample]) -> None:
    """The loss is finite; the gradient's squares overflow."""
    batch[0].factor_T = np.full(batch[0].num_tokens, 1e30)


def infinite_ratio(batch: list[TrainingSample]) -> None:
    for sample in batch:
        sample.old_logprob_T = np.full(sample.num_tokens, -1e4, dtype=np.float32)
    batch[0].factor_T = np.full(batch[0].num_tokens, -1.0)


@pytest.mark.parametrize("poison", [infinite_factor, no_number, too_large_a_gradient, infinite_ratio])
@pytest.mark.parametrize("at", [0, 1])
def test_a_poisoned_update_never_happened(poison: Callable[[list[TrainingSample]], None], at: int) -> None:
    """Also the first one, before AdamW has any state."""
    poisoned = batches(3)
    poison(poisoned[at])
    policy, updater = with_adamw()
    others, reference = with_adamw()
    for number, batch in enumerate(poisoned):
        before = state(policy, updater)
        stats = updater.update(batch, RATE, number)
        if number != at:
            reference.update(batch, RATE, number)
            assert (stats.optimizer_steps, stats.skipped_steps, stats.skipped) == (1, 0, ())
            continue
        assert_same(state(policy, updater), before)
        assert (stats.optimizer_steps, stats.skipped_steps) == (0, 1)
        assert stats.metrics() == {"loss": 0.0, "grad_norm": 0.0, "skipped_steps": 1}
        assert [row.sample for row in sorted(stats.skipped, key=lambda row: batch.index(row.sample))] == [
            sample for sample in batch if sample.has_gradient
        ]
    assert_same(state(policy, updater), state(others, reference))
    assert (updater.skips.total, updater.skips.in_a_row) == (1, 0)


def test_a_loss_that_is_not_finite_is_skipped_even_if_its_gradient_is(monkeypatch: pytest.MonkeyPatch) -> None:
    policy, updater = with_adamw()
    before = state(policy, updater)
    monkeypatch.setattr(batch_loss, "aggregate", lambda *arguments: aggregate(*arguments) + math.inf)
    assert updater.update(batches(1)[0], RATE, 0).skipped_steps == 1
    assert_same(state(policy, updater), before)


def test_what_a_skipped_update_computed_is_kept() -> None:
    policy, updater = with_adamw(max_tokens_per_micro_batch=30)
    groups = make_groups(policy)
    batch = training_samples(groups, np.ones((7, 1)))
    infinite_factor(batch)
    kept = updater.update(batch, RATE, 0).skipped
    samples = [sample for group in groups for sample in group]
    for sample, given, (logprobs, _) in zip(samples, batch, scored(policy, samples), strict=True):
        if not given.has_gradient:
            continue
        row = next(row for row in kept if row.sample is given)
        np.testing.assert_allclose(row.logprob_T, logprobs, atol=1e-5)
        np.testing.assert_allclose(row.loss_T, -given.factor_T, rtol=1e-5)  # the ratio is 1
        assert (given.prompt_id, given.advantage) == (sample.prompt.id, sample.advantage)


def test_so_many_in_a_row_end_the_step_and_the_count_goes_over_steps() -> None:
    policy, updater = with_adamw(mini_batch_prompts=1, max_skipped_steps=3)
    before = state(policy, updater)
    batch = batches(1)[0]
    for sample in batch:
        sample.factor_T = np.full(sample.num_tokens, np.inf)
    updater.skips.in_a_row = 1
    assert updater.update(batch, RATE, 0).skipped_steps == 2
    assert updater.skips.exhausted
    assert_same(state(policy, updater), before)


def test_the_counts_survive_a_checkpoint() -> None:
    skips = Skips(limit=9, total=4, in_a_row=2, saved_steps=3)
    restored = Skips(limit=9)
    restored.load_state_dict(json.loads(json.dumps(skips.state_dict())))
    assert restored == skips
    stopped = Skips(limit=2)
    stopped.load_state_dict(skips.state_dict())
    assert (stopped.in_a_row, stopped.exhausted) == (0, False), "a run that is resumed tries again"


def test_weights_that_are_not_finite_after_a_step_stop_the_run() -> None:
    """Here because a moment is infinite, which no gradient shows."""
    _, updater = with_adamw()
    first, second = batches(2)
    updater.update(first, RATE, 0)
    layout = updater.team.learner.layout
    assert layout.finite()
    layout.optimizer.state[layout.parameters[0]]["exp_avg"].fill_(math.inf)
    with pytest.raises(RunError, match="update in step 1 made weights infinite or NaN"):
        updater.update(second, RATE, 1)
    assert not layout.finite()


def test_parts_of_processes_add_up() -> None:
    parts = [UpdateStats(skipped_steps=1), UpdateStats(), UpdateStats(broken_weights=True)]
    total = sum(parts, start=UpdateStats())
    assert (total.skipped_steps, total.broken_weights) == (1, True)


def test_a_learning_rate_that_overwrites_the_model_is_refused() -> None:
    weights = [torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.zeros(2))]
    refuse_overwriting(0.83, weights)  # sqrt(25 / 4) is 2.5
    with pytest.raises(UsageError, match=r"root mean square of the trained weights is 2\.5;"):
        refuse_overwriting(0.84, weights)


POISON, MODEL = "strategies.weighting=tests.training.poison:Steps", "model/model.safetensors"


def checkpoint(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Weights and optimizer after so many steps."""
    at = folder / "checkpoints" / f"step-{step:06d}"
    found = dict(load_file(at / MODEL))
    for name, entry in torch.load(at / "optimizer.pt", weights_only=True).items():
        found |= {f"{name} {key}": value for key, value in entry.items()}
    return found


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "poisoned"
    run(folder, "recipe=random", POISON)
    return folder


def test_a_run_with_a_poisoned_step_is_the_run_without_its_update(poisoned: Path, tmp_path: Path) -> None:
    run(tmp_path / "without", "recipe=random", f"{POISON}:value=0.0")
    lines, others = timeless(poisoned), timeless(tmp_path / "without")
    assert [line["skipped_steps"] for line in lines] == [0, 0, 1, 0]
    assert [line["updated"] for line in lines] == [True, False, False, True]  # step 1 has nothing to learn from
    assert [line | {"skipped_steps": 0} for line in lines] == others
    for step in range(1, 5):
        assert_same(checkpoint(poisoned, step), checkpoint(tmp_path / "without", step))
    assert json.loads((poisoned / "summary.json").read_text())["skipped_steps"] == 1


def test_the_samples_of_a_skipped_update_are_saved(poisoned: Path) -> None:
    assert [path.name for path in (poisoned / "skipped").iterdir()] == ["step_000002.parquet"]
    rows = pq.read_table(poisoned / "skipped" / "step_000002.parquet").to_pylist()
    rollouts = pq.read_table(poisoned / "rollouts" / "step_000002.parquet").to_pylist()
    (row,) = rows  # the other rollouts' weights are 0
    assert (row["prompt_id"], row["reward"], row["advantage"]) in [
        (rollout["prompt_id"], rollout["reward"], rollout["advantage"]) for rollout in rollouts
    ]
    length = len(row["token_ids"]) - row["prompt_tokens"]
    assert [len(row[name]) for name in ("factor", "engine_logprob", "logprob", "loss")] == [length] * 4
    assert not np.isfinite(row["loss"]).any()
    np.testing.assert_allclose(row["logprob"], row["engine_logprob"], atol=1e-4)


def test_a_run_resumed_after_a_skip_is_the_uninterrupted_one(poisoned: Path, tmp_path: Path) -> None:
    """From before the skipped step, whose file is written again, and from after it."""
    for after in (2, 3):
        folder = tmp_path / str(after)
        shutil.copytree(poisoned, folder)
        for late in sorted((folder / "checkpoints").iterdir())[after:]:
            shutil.rmtree(late)
        run(folder, "recipe=random", POISON, resume=True)
        assert timeless(folder) == timeless(poisoned)
        assert_same(checkpoint(folder, 4), checkpoint(poisoned, 4))
        tables = [pq.read_table(each / "skipped" / "step_000002.parquet").to_pydict() for each in (folder, poisoned)]
        assert str(tables[0]) == str(tables[1])  # NaN is not equal to itself


def test_too_many_in_a_row_stop_the_run_with_its_last_good_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sets = ["recipe=random", f"{POISON}:last=9", "training.max_skipped_steps=2", "training.save_steps=100"]
    sets.append("training.total_steps=8")
    with pytest.raises(
        RunError,
        match=r"last 2 updates were skipped .* in \S+step-000004: inspect the samples in \S+skipped, fix .* --resume",
    ):
        run(tmp_path, *sets, overwrite=True)
    assert not (tmp_path / "final").exists()
    assert len(list((tmp_path / "skipped").iterdir())) == 2
    run(tmp_path / "two", "recipe=random", POISON, "training.total_steps=2")
    assert_same(checkpoint(tmp_path, 4), checkpoint(tmp_path / "two", 2))
    assert "step 2: skipped 1 update whose loss" in capsys.readouterr().err
    with pytest.raises(RunError, match="last 2 updates were skipped"):
        run(tmp_path, *sets, resume=True)
    assert len(list((tmp_path / "skipped").iterdir())) == 4


def test_a_run_that_goes_on_skipping_saves_a_few_steps_only(tmp_path: Path) -> None:
    steps = SAVED_STEPS + 2
    sets = [f"{POISON}:first=0,last=99", "training.max_skipped_steps=100", f"training.total_steps={steps}"]
    run(tmp_path, "recipe=random", "training.save_steps=100", "training.prompts_per_step=2", *sets, overwrite=True)
    lines = timeless(tmp_path)
    skipped = [path.stem for path in sorted((tmp_path / "skipped").iterdir())]
    assert skipped == [f"step_{line['step']:06d}" for line in lines if line["skipped_steps"]][:SAVED_STEPS]
