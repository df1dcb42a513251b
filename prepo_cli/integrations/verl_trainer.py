"""verl's synchronous trainer with prepo's strategies in its five places.

A step of verl's: prompts are submitted to its agent loops, the replay buffer waits for their trajectories, log-probs,
entropies and advantages are computed, and the actor is updated. Here the replay buffer asks for the prompts itself, in
rounds, through verl's own refill function; the weights are multiplied with the advantages once verl has computed them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from omegaconf import DictConfig, open_dict
from tensordict import TensorDict
from torchdata.stateful_dataloader import StatefulDataLoader
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils as tu

from prepo_cli.errors import RunError, UsageError
from prepo_cli.integrations import saved
from prepo_cli.integrations.session import Session
from prepo_cli.integrations.setup import strategy_set
from prepo_cli.integrations.verl_agent_loop import AGENT, NAME, TEMPERATURE
from prepo_cli.integrations.verl_buffer import PrepoReplayBuffer
from prepo_cli.integrations.verl_data import TrainingSet
from prepo_cli.integrations.verl_probe import VerlProbe
from prepo_cli.integrations.verl_roll import Limits, Plan, Roller
from prepo_cli.integrations.verl_settings import read_settings, refuse, refuse_strategies
from prepo_cli.integrations.verl_weights import EMPTY, apply_weights
from prepo_cli.terminal import say
from prepo_cli.training.rounds import BatchShape
from strategies.types import RunInfo

HERE = "pkg://prepo_cli.integrations.verl"


@register_trainer("prepo")
class PrepoTrainer(PPOTrainerSync):
    """`trainer.v1.trainer_mode=prepo`: trains with the strategies in the section `prepo` of verl's configuration.

    Raises:
        UsageError: the configuration has something that the strategies cannot run with.
        StrategyError: no such strategy, or parameters that make no sense for this run.
    """

    def __init__(self, config: DictConfig) -> None:
        self.settings = read_settings(config)
        refuse(config)
        _make_synchronous(config)
        super().__init__(config)
        if not isinstance(self.replay_buffer, PrepoReplayBuffer):
            raise UsageError(
                f"trainer.v1.sampler.custom_sampler is {type(self.replay_buffer).__name__}, which is no "
                f"PrepoReplayBuffer; leave it unset, or set its path to {HERE} and its name to PrepoReplayBuffer"
            )
        self.replay_buffer.collect = self._collect
        self._rollout = config.actor_rollout_ref.rollout
        self._own_temperature = float(self._rollout.temperature)

    def _init_dataloader(self) -> None:
        super()._init_dataloader()
        # verl saves the state of its dataloader, for which that would start its workers. Nothing is loaded through it.
        self.train_dataloader = StatefulDataLoader(range(0))
        config, settings = self.config, self.settings
        self.training_set = TrainingSet(self.train_dataset, config.data, self.tokenizer)
        run = RunInfo(
            num_prompts=len(self.training_set),
            total_steps=self.total_training_steps,
            prompts_per_step=config.data.train_batch_size,
            num_generations=self._rollout.n,
            seed=(config.data.get("seed") or 0) if settings.seed is None else settings.seed,
            vocab_size=len(self.tokenizer),
            columns=self.training_set.columns,
        )
        strategies = strategy_set(settings.given, run, self._own_temperature)
        refuse_strategies(strategies, config)
        for note in strategies.notes():
            say(note)
        shape = BatchShape(run.prompts_per_step, run.num_generations, settings.max_rounds)
        probe = VerlProbe(self, self.training_set, lambda tokens: self.session.charge(0, 0, tokens))
        self.session = Session(strategies, self.training_set.stream(run.seed), shape, probe)

    def _add_batch_to_generate(self) -> None:
        """Submit nothing yet: the replay buffer does, round by round."""

    def step(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        with self._charged():
            ctx = self.session.begin()
            self._rollout.temperature = ctx.temperature  # by which verl divides logits wherever it computes log-probs
            batch = super().step(metrics, timing_raw)
            metrics.update(self.session.end(None))
        return batch

    def on_step_end(self) -> None:
        with self._charged():
            super().on_step_end()

    def _consume_sync_metrics(self) -> dict[str, Any]:
        """Also the costs, as the step is over now."""
        metrics: dict[str, Any] = super()._consume_sync_metrics()
        return metrics | self.session.costs.metrics()

    @contextmanager
    def _charged(self) -> Iterator[None]:
        started = perf_counter()
        yield
        self.session.costs.seconds += perf_counter() - started

    def _collect(self) -> list[str]:
        """Roll out the step's batch; the keys of the trajectories to train on.

        If the filter kept nothing, they are those of one group, since verl counts something in every step. It is not
        trained on.

        Raises:
            RunError: every rollout failed.
        """
        limits = Limits(self.config.data.max_response_length, self.settings.correct_reward)
        roller = Roller(self._submit, self.replay_buffer.wait, limits)
        collected = self.session.collect(roller)
        if not roller.keys:
            raise RunError(f"every rollout of step {self.global_steps} failed; verl's log above has their errors")
        trained = [
            (key, number)
            for number, group in enumerate(collected.trained)
            for rollout in group
            for key in roller.keys[rollout.row]
        ]
        self._places = {key: (number, rank) for rank, (key, number) in enumerate(trained)}
        return list(self._places) or [key for rollout in collected.groups[0] for key in roller.keys[rollout.row]]

    def _submit(self, plan: Plan) -> None:
        self._plan = plan
        self._add_prompts_to_generate(len(plan.prompts))

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        """The rows that the strategies planned, as verl's own rows, with columns for what differs from its settings."""
        plan = self._plan
        columns = self.training_set.batch(plan.prompts)
        columns["uid"] = _column(plan.uids)
        if any(count != self._rollout.n for count in plan.counts):
            columns["__rollout_n__"] = _column(plan.counts)
        if plan.temperature != self._own_temperature:
            default = [self._rollout.agent.default_agent_loop] * len(plan.prompts)
            columns[AGENT] = columns.get("agent_name", _column(default))
            columns["agent_name"] = _column([NAME] * len(plan.prompts))
            columns[TEMPERATURE] = _column([plan.temperature] * len(plan.prompts))
        batch: TensorDict = tu.get_tensordict(columns)
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_advantage(batch, metrics)
        if not self._places:
            self.session.weigh(EMPTY)
            return batch
        return apply_weights(batch, self._places, self.session.weigh)

    def _update_critic(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return super()._update_critic(batch, metrics) if self._places else batch

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        return super()._update_actor(batch, metrics) if self._places else batch

    def _save_checkpoint(self) -> None:
        # First, as verl's own ends with the file that makes the checkpoint the latest one.
        saved.save(self._checkpoint(), self.session.state_dict())
        super()._save_checkpoint()

    def _load_checkpoint(self) -> None:
        super()._load_checkpoint()
        if self.global_steps:
            given = self.config.trainer.resume_mode == "resume_path"
            folder = Path(self.config.trainer.resume_from_path) if given else self._checkpoint()
            self.session.load_state_dict(saved.load(folder))

    def _checkpoint(self) -> Path:
        """The folder of this step's checkpoint."""
        return Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"


def _make_synchronous(config: DictConfig) -> None:
    """verl's base class branches on the name of the mode, and takes its replay buffer from the configuration."""
    v1 = config.trainer.v1
    with open_dict(config):
        v1.trainer_mode = "sync"
        given = v1.sampler.get("custom_sampler", None)
        if given is None or not (given.path and given.name):
            v1.sampler.custom_sampler = {"path": HERE, "name": "PrepoReplayBuffer"}


def _column(values: Sequence[Any]) -> np.ndarray:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
