"""TRL's trainer with the adapter, over the fake rollouts of the conformance tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback, set_seed

from prepo_cli.integrations.trl import PrepoGRPOTrainer
from prepo_cli.integrations.trl_data import trl_order
from prepo_cli.models import EMBEDDED_MODEL
from prepo_cli.policy.loading import load_tokenizer
from strategies.types import Prompt, RunInfo
from tests.fakes import MAX_ROUNDS, FakeProbe, Record, make_prompts, make_run
from tests.integrations.conformance import Generated, Generator, Watched, fake_entropies
from tests.trl.worlds import config

WRONG, RIGHT = 5, 6
WRONG_END, RIGHT_END = 2, 3
"""Tokens of a fake completion; its last one is an end unless it was cut off."""
VOCAB = 652


def correct(ids: Any) -> bool:
    return ids[-1] == RIGHT_END if ids[-1] in (WRONG_END, RIGHT_END) else ids[0] == RIGHT


def reward(completion_ids: list[list[int]], **columns: Any) -> list[float]:
    return [float(correct(ids)) for ids in completion_ids]


class FakeTrl(PrepoGRPOTrainer):
    """The adapter with fake completions and entropies."""

    def __init__(self, generator: Generator, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fake_generator, self.eos_token_ids = generator, [WRONG_END, RIGHT_END]
        self.session.probe = FakeProbe()

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> tuple[Any, None]:
        return [self._fake(self._tokenizer.decode(ids)) for ids in prompt_ids], None

    def _fake(self, prompt: str) -> list[int]:
        made = self.fake_generator(self.session.step, int(prompt.replace(" ", "")), self.temperature)
        right = bool(made.token_ids[0])
        ids = [RIGHT if right else WRONG] * len(made.token_ids)
        return ids if made.truncated else [*ids[:-1], RIGHT_END if right else WRONG_END]

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, *args: Any, **kwargs: Any
    ) -> Any:
        logps, entropies, loss = super()._get_per_token_logps_and_entropies(
            model, input_ids, attention_mask, logits_to_keep, *args, **kwargs
        )
        if entropies is not None:
            entropies = torch.zeros_like(entropies)
            for row, (ids, mask) in enumerate(
                zip(input_ids[:, -logits_to_keep:], attention_mask[:, -logits_to_keep:], strict=True)
            ):
                own = ids[mask.bool()].tolist()
                if own:
                    values = fake_entropies(len(own), correct(own), self.temperature)
                    entropies[row, : len(own)] = torch.from_numpy(values)
        self._entropies = entropies
        return logps, entropies, loss


class _StopAfter(TrainerCallback):
    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.left -= 1
        if not self.left:
            control.should_save = control.should_training_stop = True


class TrlWorld:
    """A world of the conformance tests; `micro_batches` a step, as TRL's gradient accumulation makes them."""

    def __init__(self, slots: Mapping[str, str], folder: Path, micro_batches: int = 2, run: RunInfo | None = None):
        self.run = run or make_run(vocab_size=VOCAB)
        self.slots, self.folder, self.micro_batches = slots, folder, micro_batches
        self.order: Callable[[int], Any] = trl_order(self.run.num_prompts, self.run.seed, True)
        self._fakes = make_prompts(self.run.num_prompts)
        self.trainer: FakeTrl = self._new()
        self._trained = False

    @property
    def prompts(self) -> list[Prompt]:
        found = [self.trainer._prompts.get(i) for i in range(self.run.num_prompts)]
        return [prompt for prompt in found if prompt is not None]

    @property
    def generated(self) -> list[Generated]:
        return self.trainer.fake_generator.generated

    def steps(self, count: int) -> list[Record]:
        if self._trained:
            self.trainer = self._new()
        self.trainer.add_callback(_StopAfter(count))
        set_seed(self.run.seed)  # whatever ran before in this process; a checkpoint brings its own
        self.trainer.train(resume_from_checkpoint=self._trained or None)
        self._trained = True
        watched = self.trainer.session.strategies
        assert isinstance(watched, Watched)
        return watched.records

    def costs(self) -> dict[str, float]:
        return next(line for line in reversed(self.trainer.state.log_history) if "cost/rollouts_total" in line)

    def _new(self) -> FakeTrl:
        run = self.run
        rows = [
            {"prompt": str(p.index), "id": p.id, "source": p.source, "difficulty": p.difficulty, "rank": p.rank,
             "ppl": p.ppl, "pass_rate": p.pass_rate}
            for p in self._fakes
        ]  # fmt: skip
        size = run.prompts_per_step * run.num_generations // self.micro_batches
        return FakeTrl(
            Generator(run, self._fakes),
            model=AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32),
            reward_funcs=reward,
            args=config(
                self.folder, per_device_train_batch_size=size, gradient_accumulation_steps=self.micro_batches,
                num_generations=run.num_generations, max_steps=run.total_steps, seed=run.seed,
                max_completion_length=12, save_strategy="steps", save_steps=1000,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=load_tokenizer(str(EMBEDDED_MODEL)),
            strategies=Watched(self.slots, run),
            max_rounds=MAX_ROUNDS,
        )  # fmt: skip
