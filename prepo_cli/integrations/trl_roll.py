"""Rolls out chosen prompts with TRL's own method, and remembers what it generated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl import GRPOTrainer

from prepo_cli.errors import RunError
from prepo_cli.integrations.session import Outcome
from prepo_cli.integrations.trl_checks import Verdict
from prepo_cli.integrations.trl_rows import Table
from prepo_cli.training.batch import rollout_metrics
from prepo_cli.training.rollouts import Collected
from strategies.types import Prompt, StepContext, derive_seed

SCORED = ("old_per_token_logps", "ref_per_token_logps")
"""Log-probs that TRL computes in passes of their own, which are charged."""
REPLACED = ("reward", "reward_std", "frac_reward_zero_std", "completions/mean_length", "completions/clipped_ratio")
"""TRL's metrics of a call, which are replaced by the whole step's where it took several."""


class Roller:
    """Rolls out rounds; `generated` and `rewards` are what TRL's hooks saw last."""

    def __init__(
        self,
        trainer: GRPOTrainer,
        generate: Callable[[list[dict[str, Any]]], dict[str, Any]],
        verdict: Verdict,
        charge: Callable[[int, int, int], None],
    ) -> None:
        """`generate` is TRL's own method; `charge` takes rollouts, tokens generated and tokens scored."""
        self.trainer, self.generate, self.verdict, self.charge = trainer, generate, verdict, charge
        self.generated: Sequence[Any] = ()
        self.rewards: Tensor | None = None

    def begin(self) -> None:
        """Start a step."""
        trainer = self.trainer
        self.outputs: list[dict[str, Any]] = []
        self._whole = True
        self._rows = 0
        self._logged = {name: len(trainer._metrics["train"][name]) for name in REPLACED}

    def __call__(self, prompts: Sequence[Prompt], counts: Sequence[int], ctx: StepContext) -> list[list[Outcome]]:
        """Roll out; where the rows don't divide among processes, the last one is rolled out again and left unused."""
        self._refuse_disagreement(prompts, counts, ctx)
        accelerator, size = self.trainer.accelerator, self.trainer.num_generations
        chosen = [prompt for prompt, count in zip(prompts, counts, strict=True) for _ in range(count)]
        unused = -len(chosen) % accelerator.num_processes
        share = (len(chosen) + unused) // accelerator.num_processes
        mine = slice(accelerator.process_index * share, (accelerator.process_index + 1) * share)
        as_in_trl = not unused and set(counts) == {size}
        self._whole &= as_in_trl and not self.outputs
        with self._groups_of(size if as_in_trl else 1):
            output = self.generate(self._inputs([*chosen, *chosen[-1:] * unused][mine]))
        self.outputs.append(output)
        outcomes = self._outcomes(chosen, output, ctx.temperature)
        fresh = iter(outcomes)
        return [list(islice(fresh, count)) for count in counts]

    def trains_on_all(self, step: Collected[Outcome]) -> bool:
        """Whether TRL's batch can go on as it is: it was generated as TRL would have, and all of it is kept."""
        return self._whole and all(outcome.kept for outcome in step.samples)

    def table(self) -> Table:
        """All rows of the step."""
        table = Table(self.trainer.accelerator, self.trainer._tokenizer.pad_token_id)
        for output in self.outputs:
            table.add(output)
        return table

    def replace_metrics(self, step: Collected[Outcome]) -> None:
        """Log the step's own figures in place of TRL's by call, whose groups may not be those of the step."""
        found = rollout_metrics(step)
        rewards = [outcome.reward for outcome in step.samples]
        found["reward_std"] = float(np.std(rewards, ddof=1)) if len(rewards) > 1 else 0.0  # as TRL defines it
        for name, before in self._logged.items():
            self.trainer._metrics["train"][name][before:] = [found[name]]

    def _inputs(self, chosen: Sequence[Prompt]) -> list[dict[str, Any]]:
        """A row for each rollout, each its own, as TRL's loader makes them."""
        rows = {prompt.index: self.trainer.train_dataset[prompt.index] for prompt in chosen}
        return [dict(rows[prompt.index]) for prompt in chosen]

    def _outcomes(self, chosen: Sequence[Prompt], output: dict[str, Any], temperature: float) -> list[Outcome]:
        trainer, rewards_NF = self.trainer, self.rewards
        assert rewards_NF is not None
        facts_N3 = trainer.accelerator.gather(self._facts()).tolist()
        first, self._rows = self._rows, self._rows + len(facts_N3)
        passes, unused = sum(name in output for name in SCORED), facts_N3[len(chosen) :]
        scored = passes * sum(prompt + completion for prompt, completion, _ in facts_N3)
        self.charge(len(unused), sum(completion for _, completion, _ in unused), scored)
        total_N = (rewards_NF * trainer.reward_weights.to(rewards_NF.device)).nansum(dim=1).tolist()
        known_N = (~rewards_NF.isnan().all(dim=1)).tolist()
        correct_N = self.verdict(rewards_NF)
        return [
            Outcome(prompt, total_N[i], correct_N[i], facts[1], bool(facts[2]), temperature, first + i, known_N[i])
            for i, (prompt, facts) in enumerate(zip(chosen, facts_N3, strict=False))
        ]

    def _facts(self) -> Tensor:
        """Prompt tokens, generated tokens and whether it was cut off, of each rollout of this process [n, 3]."""
        trainer = self.trainer
        prompt_ids, completion_ids, tool_mask = self.generated[:3]
        ends = {*trainer.eos_token_ids, trainer._tokenizer.pad_token_id}
        lengths = [len(ids) for ids in completion_ids] if tool_mask is None else [sum(mask) for mask in tool_mask]
        facts = [
            (len(prompt), length, ids[-1] not in ends)
            for prompt, ids, length in zip(prompt_ids, completion_ids, lengths, strict=True)
        ]
        return torch.tensor(facts, dtype=torch.long, device=trainer.accelerator.device)

    @contextmanager
    def _groups_of(self, size: int) -> Iterator[None]:
        """A context in which TRL takes that many rows for a group; with 1, groups of any sizes are its to generate."""
        trainer, before = self.trainer, self.trainer.num_generations
        trainer.num_generations = size
        try:
            yield
        finally:
            trainer.num_generations = before

    def _refuse_disagreement(self, prompts: Sequence[Prompt], counts: Sequence[int], ctx: StepContext) -> None:
        """Raise RunError if processes chose differently, before they wait for each other forever."""
        accelerator = self.trainer.accelerator
        if accelerator.num_processes == 1:
            return
        digest = derive_seed([prompt.index for prompt in prompts], list(counts), ctx.temperature)
        all_P = accelerator.gather(torch.tensor([digest], device=accelerator.device)).tolist()
        if len(set(all_P)) > 1:
            raise RunError(
                f"step {ctx.step}, round {ctx.round}: the strategies of {len(set(all_P))} processes chose differently; "
                "a strategy must draw randomness from ctx.rng alone and depend on nothing else that differs"
            )
