"""The section `prepo`, its environment variable, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import open_dict
from verl.trainer.ppo.v1 import PPOTrainerSync, get_trainer_cls

from prepo_cli.errors import UsageError
from prepo_cli.integrations.verl import PrepoReplayBuffer, PrepoTrainer
from prepo_cli.integrations.verl_data import TrainingSet
from prepo_cli.integrations.verl_hooks import TRAINER, check_hooks, check_verl, check_version
from prepo_cli.integrations.verl_settings import read_settings
from strategies.errors import StrategyError
from tests.verl.queue import MemoryQueue
from tests.verl.world import World, config

PREPO = "trainer.v1.trainer_mode=prepo"


def test_verl_knows_the_trainer_by_name() -> None:
    assert get_trainer_cls("prepo") is PrepoTrainer


def test_the_section_gives_recipe_slots_and_parameters(tmp_path: Path, queue: MemoryQueue) -> None:
    overrides = ["+prepo.recipe=greso", "+prepo.weighting=entropy-share", "+prepo.max_rounds=4", "+prepo.seed=11"]
    trainer = World(config(tmp_path, PREPO, *overrides)).trainer
    strategies = trainer.session.strategies
    assert (strategies.selector.name, strategies.filter.name) == ("greso", "nonzero-variance")
    assert strategies.weighting.name == "entropy-share"
    assert (trainer.session.shape.max_rounds, strategies.run.seed) == (4, 11)


def test_run_info_is_that_of_verls_configuration(tmp_path: Path, queue: MemoryQueue) -> None:
    trainer = World(config(tmp_path, PREPO)).trainer
    run = trainer.session.strategies.run
    assert (run.num_prompts, run.total_steps, run.prompts_per_step, run.num_generations, run.seed) == (24, 10, 6, 4, 3)
    assert run.columns == {"id", "source", "ppl", "difficulty"} | {"rank", "pass_rate"}
    prompt = trainer.training_set.prompt(3)
    assert (prompt.index, prompt.id, prompt.source, prompt.difficulty, prompt.ppl) == (3, "q3", "odd", 0.125, 47.0)
    assert (prompt.rank, prompt.pass_rate) == (None, None)


def test_the_environment_counts_where_there_is_no_section(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREPO_CONFIG", "{recipe: e3, max_rounds: 3}")
    settings = read_settings(config(tmp_path, PREPO))
    assert (settings.given, settings.max_rounds) == ({"recipe": "e3"}, 3)
    assert read_settings(config(tmp_path, PREPO, "+prepo.filter=keep-all")).given == {"filter": "keep-all"}
    monkeypatch.setenv("PREPO_CONFIG", "greso")
    assert read_settings(config(tmp_path, PREPO)).given == {"recipe": "greso"}
    assert read_settings(config(tmp_path, PREPO, "+prepo=e3")).given == {"recipe": "e3"}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["+prepo.selektor=full"], "unknown key 'selektor' in prepo (did you mean 'selector'?)"),
        (["+prepo.max_rounds=0"], "prepo.max_rounds=0: "),
        (["+prepo=[greso]"], "prepo must be a recipe, or keys and values"),
        (["algorithm.filter_groups.enable=True"], "prepo.filter=nonzero-variance"),
        (["reward.reward_model.enable=True"], "reward.reward_model.enable_resource_pool=True"),
        (["trainer.v1.sampler.sync_refill_failed_groups=True"], "leave it off"),
        (["+trainer.v1.sync.parameter_sync_step=2"], "leave it at 1"),
        (["skip.rollout_tq.enable=True"], "turn it off"),
        (["+prepo.weighting=rel-entropy", "algorithm.rollout_correction.bypass_mode=True"], "set it to False"),
        (["+prepo.weighting=rel-entropy", "actor_rollout_ref.actor.policy_loss.loss_mode=geo_mean"], "geo_mean"),
        (["+prepo.recipe=nothing"], "unknown recipe 'nothing'"),
        (["data.train_batch_size=30"], "the training set has 24 rows, fewer than the 30 of a step"),
        (
            ["trainer.v1.sampler.custom_sampler={path: pkg://verl.trainer.ppo.v1.replay_buffer, name: ReplayBuffer}"],
            "custom_sampler is ReplayBuffer, which is no PrepoReplayBuffer; leave it unset",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(
    overrides: list[str], message: str, tmp_path: Path, queue: MemoryQueue
) -> None:
    with pytest.raises(UsageError) as error:
        World(config(tmp_path, PREPO, *overrides))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_an_unknown_strategy_is_refused(tmp_path: Path, queue: MemoryQueue) -> None:
    with pytest.raises(StrategyError, match="did you mean 'greso'"):
        World(config(tmp_path, PREPO, "+prepo.selector=gresso"))


def test_the_replay_buffer_may_be_named_in_verls_configuration(tmp_path: Path, queue: MemoryQueue) -> None:
    sampler = "{path: pkg://prepo_cli.integrations.verl, name: PrepoReplayBuffer}"
    world = World(config(tmp_path, PREPO, f"trainer.v1.sampler.custom_sampler={sampler}"))
    assert type(world.trainer.replay_buffer) is PrepoReplayBuffer


def test_the_environment_must_hold_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREPO_CONFIG", "{recipe: ")
    with pytest.raises(UsageError, match="PREPO_CONFIG is not YAML"):
        read_settings(config(tmp_path, PREPO))


def test_an_empty_section_is_prepos_defaults(tmp_path: Path) -> None:
    made = config(tmp_path, PREPO)
    with open_dict(made):
        made.prepo = {}
    assert read_settings(made).given == {}


def test_the_installed_verl_has_every_hook() -> None:
    check_verl()


@pytest.mark.parametrize("version", ["0.8.0", "0.10.0", "0.10.0.dev0", "1.0"])
def test_other_versions_are_refused(version: str) -> None:
    with pytest.raises(UsageError, match=f"verl {version} is installed; pip install 'verl==0.9"):
        check_version(version)


def test_a_hook_that_moved_is_refused() -> None:
    class Moved(PPOTrainerSync):
        def step(self, metrics: dict[str, float]) -> None:  # type: ignore[override]
            """Without the timings."""

    with pytest.raises(UsageError, match=r"Moved\.step of the installed verl does not take 'timing_raw'"):
        check_hooks(Moved, TRAINER)
    with pytest.raises(UsageError, match=r"has no PPOTrainerSync\.prepare_rounds"):
        check_hooks(PPOTrainerSync, {"prepare_rounds": ()})


def test_lengths_of_prompts_are_those_that_verls_agent_loop_sends(tmp_path: Path, queue: MemoryQueue) -> None:
    world = World(config(tmp_path, PREPO, "trainer.total_training_steps=1")).fit()
    lengths = {len(prompt) for prompt in world.server.answers}
    rows = world.rows()[0]
    assert lengths == {world.trainer.training_set.prompt(row).num_tokens for row in rows}


def test_a_dataset_without_a_table_has_rows_alone(tmp_path: Path, queue: MemoryQueue) -> None:
    trainer = World(config(tmp_path, PREPO)).trainer
    table = trainer.train_dataset

    class Rows:
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> dict[str, object]:
            return table[index]

    found = TrainingSet(Rows(), trainer.config.data, trainer.tokenizer)
    assert found.columns == frozenset()
    prompt = found.prompt(5)
    assert (prompt.id, prompt.source, prompt.num_tokens) == ("5", None, None)
    assert found.rendered(5).token_ids == trainer.training_set.rendered(5).token_ids
