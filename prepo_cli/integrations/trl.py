"""prepo's strategies in TRL's `GRPOTrainer`: `PrepoGRPOTrainer` is the same trainer with one more argument.

    from prepo_cli.integrations.trl import PrepoGRPOTrainer
    trainer = PrepoGRPOTrainer(model=..., reward_funcs=..., args=..., train_dataset=..., strategies="prepo")

A step of the strategies is one generated batch of TRL: `generation_batch_size / num_generations` prompts, trained on in
`steps_per_generation * num_iterations` micro-steps. TRL asks for the batch with rows of its own choice; instead of them
the rows that the strategies choose are handed to TRL's own method, round by round. If all that it generated is trained
on, its batch goes on as it is; else its rows are arranged anew (trl_batch.py). docs/trl.md says what works and what
each slot costs.
"""

from __future__ import annotations

from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from prepo_cli.data.stream import PromptStream
from prepo_cli.integrations import saved
from prepo_cli.integrations.session import Session
from prepo_cli.integrations.setup import Given, strategy_set
from prepo_cli.integrations.trl_batch import ROW_SCALE, arranged, weighed
from prepo_cli.integrations.trl_checks import Verdict, refuse_unsupported
from prepo_cli.integrations.trl_data import TrlProbe, prompts_of, trl_order
from prepo_cli.integrations.trl_hooks import check_attributes
from prepo_cli.integrations.trl_roll import REPLACED, Roller
from prepo_cli.integrations.trl_rows import loss_mask
from prepo_cli.integrations.trl_temperature import Temperature
from prepo_cli.terminal import say
from prepo_cli.training.rounds import BatchShape
from strategies.types import RunInfo


class PrepoGRPOTrainer(GRPOTrainer):
    """TRL's trainer, with prompts, budgets, filters, weights and temperatures chosen by prepo's strategies.

    Args:
        strategies: a recipe's name, strategies by slot, as in prepo's configuration, or a `StrategySet`.
        max_rounds: most rounds of rollouts in which a filter that refills may look for a full batch.
        verdict: the reward function that decides which completions are correct; by default the first.
        correct_reward: a completion is correct if that function gives it at least this.

    Raises:
        UsageError: TRL's configuration has something that doesn't go together with strategies.
        StrategyError: no such strategy, or parameters that make no sense for this run.
    """

    def __init__(
        self,
        *args: Any,
        strategies: Given,
        max_rounds: int = 10,
        verdict: str | None = None,
        correct_reward: float = 1.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        check_attributes(self)
        refuse_unsupported(self)
        self._temperature = Temperature(self)
        self._prompts = prompts_of(self.train_dataset, self._tokenizer, self.chat_template_kwargs)
        shape = BatchShape(
            prompts_per_step=self.args.generation_batch_size // self.num_generations,
            num_generations=self.num_generations,
            max_rounds=max_rounds,
            mask_truncated=self.mask_truncated_completions,
        )
        run = RunInfo(
            num_prompts=len(self._prompts.dataset),
            total_steps=_total_steps(self.args, len(self._prompts.dataset) // shape.prompts_per_step),
            prompts_per_step=shape.prompts_per_step,
            num_generations=self.num_generations,
            seed=self.args.seed,
            vocab_size=self.model.config.get_text_config().vocab_size,
            columns=self._prompts.dataset.columns,
        )
        order = trl_order(run.num_prompts, self.args.seed, self.shuffle_dataset)
        chosen = strategy_set(strategies, run, self._temperature.configured)
        self.session = Session(
            chosen,
            PromptStream(run.num_prompts, run.seed, self._prompts.get, order),
            shape,
            TrlProbe(self, self._prompts, self._temperature, lambda tokens: self.session.charge(0, 0, tokens)),
        )
        verdict_of = Verdict.of(self, verdict, correct_reward)
        self._roller = Roller(self, super()._generate_and_score_completions, verdict_of, self.session.charge)
        self.add_callback(_Clock(self))
        if self.accelerator.is_main_process:
            for note in chosen.notes():
                say(note)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        """The next batch: of rows that the strategies choose, not of `inputs`; in an evaluation of `inputs`."""
        roller, session = self._roller, self.session
        if not self.model.training:
            return roller.generate(inputs)
        self._temperature.set(session.begin().temperature)
        roller.begin()
        step = session.collect(roller)
        batch = arranged(self, roller, step)
        entropies = self._score_entropies(batch.rows) if session.needs_entropy else None
        self._entropy_sum = self._entropy_tokens = torch.zeros((), device=self.accelerator.device)
        return weighed(self, session, step, batch, entropies)

    def _generate(self, prompts: list[Any]) -> Any:
        self._roller.generated = super()._generate(prompts)
        return self._roller.generated

    def _calculate_rewards(
        self, inputs: Any, prompts: list[Any], completions: list[Any], completion_ids_list: list[list[int]]
    ) -> Tensor:
        """Rewards of all processes by function [N, F]."""
        rewards_NF: Tensor = super()._calculate_rewards(inputs, prompts, completions, completion_ids_list)
        self._roller.rewards = rewards_NF
        return rewards_NF

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        result = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        self._entropies = result[1]
        return result

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Tensor:
        """TRL's loss, which also measures the entropy of the tokens trained on."""
        loss: Tensor = super()._compute_loss(model, inputs)
        if not self.model.training:
            return loss
        mask = loss_mask(inputs)
        self._entropy_sum = self._entropy_sum + (self._entropies.detach() * mask).sum()
        self._entropy_tokens = self._entropy_tokens + mask.sum()
        return loss * inputs[ROW_SCALE].to(loss.device) if ROW_SCALE in inputs else loss

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any) -> Tensor:
        """TRL's micro-step; the last one of a batch ends the step of the strategies."""
        loss: Tensor = super().training_step(model, inputs, num_items_in_batch)
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0:
            sums = torch.stack([self._entropy_sum, self._entropy_tokens])
            total, tokens = self.accelerator.reduce(sums, reduction="sum").tolist()
            for name, value in self.session.end(total / tokens if tokens else None).items():
                if name not in REPLACED:
                    self._metrics["train"][name].append(value)
        return loss

    def prediction_step(
        self, model: Any, inputs: Any, prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """An evaluation, at the configured temperature whatever the schedule is at."""
        with self._temperature.at(self._temperature.configured):
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """TRL's log; where it covers several steps it averages, but totals are given as they are now."""
        if self.model.training:
            self._metrics["train"].update({name: [value] for name, value in self.session.costs.metrics().items()})
        super().log(logs, start_time)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save the strategies' state before TRL's, which is written last: a checkpoint that TRL can load has it."""
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
            saved.save(folder, self.session.state_dict())
        super()._save_checkpoint(model, trial)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None:
            self.session.load_state_dict(saved.load(Path(checkpoint)))

    def _score_entropies(self, rows: dict[str, Any]) -> Tensor:
        """Entropy of each completion token of this process [n, T], in a pass of its own, which is charged."""
        ids = torch.cat([rows["prompt_ids"], rows["completion_ids"]], dim=1)
        mask = torch.cat([rows["prompt_mask"], rows["completion_mask"]], dim=1)
        self.session.charge(0, 0, int(self.accelerator.reduce(mask.sum(), reduction="sum")))
        checkpointing, size = self.args.gradient_checkpointing_kwargs, self.args.per_device_train_batch_size
        with torch.no_grad(), disable_gradient_checkpointing(self.model, checkpointing):
            _, entropies, _ = self._get_per_token_logps_and_entropies(
                self.model, ids, mask, rows["completion_ids"].shape[1], batch_size=size, compute_entropy=True
            )
        found: Tensor = entropies
        return found


class _Clock(TrainerCallback):
    """Charges the time of steps: neither evaluations nor checkpoints."""

    def __init__(self, trainer: PrepoGRPOTrainer) -> None:
        self.session, self.started = trainer.session, 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.started = perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.session.costs.seconds += perf_counter() - self.started


def _total_steps(args: GRPOConfig, batches_per_epoch: int) -> int:
    """How many batches TRL will generate."""
    steps: float = args.num_train_epochs * batches_per_epoch
    if args.max_steps > 0:
        steps = args.max_steps * args.gradient_accumulation_steps / (args.steps_per_generation * args.num_iterations)
    return ceil(steps)
