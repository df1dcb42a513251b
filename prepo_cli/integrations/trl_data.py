"""TRL's training set as strategies see it: prompts in TRL's own order, and their perplexity under TRL's model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch.nn.utils.rnn import pad_sequence
from trl import GRPOTrainer
from trl.models.utils import disable_gradient_checkpointing

from prepo_cli.data.loading import PromptDataset
from prepo_cli.data.prompts import Prompts
from prepo_cli.data.rendering import Rendered, Renderer
from prepo_cli.data.stream import Rows
from prepo_cli.integrations.trl_temperature import Temperature
from prepo_cli.policy.policy import perplexities
from strategies.types import FloatArray, Prompt

UNLIMITED = 2**40


def prompts_of(dataset: Dataset, tokenizer: Any, template_kwargs: dict[str, Any]) -> Prompts:
    """The training set's prompts; text is tokenized as it is, and only messages by the chat template, as in TRL."""
    if isinstance(dataset[0]["prompt"], str):
        tokenizer = copy(tokenizer)
        tokenizer.chat_template = None
    rows = PromptDataset("train_dataset", dataset, "prompt", None, need_answer=False)
    return Prompts(rows, Renderer(tokenizer, template_kwargs=template_kwargs), UNLIMITED)


def trl_order(num_prompts: int, seed: int, shuffle: bool) -> Callable[[int], Rows]:
    """The order in which TRL's own sampler goes through the training set, by epoch.

    TRL leaves out what does not fill a last batch; here an epoch has every prompt.
    """

    def order(epoch: int) -> Rows:
        if not shuffle:
            return np.arange(num_prompts, dtype=np.int32)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(epoch):
            torch.randperm(num_prompts, generator=generator)
        return torch.randperm(num_prompts, generator=generator).numpy().astype(np.int32)

    return order


class TrlProbe:
    """Asks the current policy of a TRL trainer, each process its share, and charges that."""

    def __init__(
        self, trainer: GRPOTrainer, prompts: Prompts, temperature: Temperature, charge: Callable[[int], None]
    ) -> None:
        """`charge` is told how many tokens were scored."""
        self.trainer, self.prompts, self.temperature, self.charge = trainer, prompts, temperature, charge

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """Perplexity of each prompt [N] at temperature 1."""
        rendered = [self.prompts.rendered(prompt.index) for prompt in prompts]
        self.charge(sum(len(each.token_ids) for each in rendered))
        accelerator = self.trainer.accelerator
        # Rows of like length go together; every process has as many, so that they stay in step.
        order = sorted(range(len(rendered)), key=lambda i: len(rendered[i].token_ids))
        padded = order + order[:1] * (-len(order) % accelerator.num_processes)
        mine = padded[accelerator.process_index :: accelerator.num_processes]
        found = torch.tensor(self._score([rendered[i] for i in mine], scope), dtype=torch.float64)
        all_N = accelerator.gather(found.to(accelerator.device)).cpu().numpy()
        processes = range(accelerator.num_processes)
        places = [i for process in processes for i in padded[process :: accelerator.num_processes]]
        ppl_N = np.empty(len(prompts))
        ppl_N[places] = all_N
        return ppl_N

    def _score(self, rows: Sequence[Rendered], scope: str) -> list[float]:
        trainer = self.trainer
        size, logprobs = trainer.args.per_device_train_batch_size, []
        checkpointing = trainer.args.gradient_checkpointing_kwargs
        was_training = trainer.model.training
        trainer.model.eval()
        with self.temperature.at(1.0), torch.no_grad(), disable_gradient_checkpointing(trainer.model, checkpointing):
            for start in range(0, len(rows), size):
                logprobs += self._logprobs(rows[start : start + size], scope)
        trainer.model.train(was_training)
        return [float(ppl) for ppl in perplexities(logprobs)[:, 0]]

    def _logprobs(self, rows: Sequence[Rendered], scope: str) -> list[FloatArray]:
        trainer, ids = self.trainer, [torch.tensor(row.token_ids) for row in rows]
        device = trainer.accelerator.device
        ids_NL = pad_sequence(ids, batch_first=True, padding_value=trainer._tokenizer.pad_token_id).to(device)
        mask_NL = pad_sequence([torch.ones_like(row) for row in ids], batch_first=True).to(device)
        logprobs_NL, _, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids_NL, mask_NL, max(ids_NL.shape[1] - 1, 1)
        )
        # Nothing predicts token 0, so that column i has the log-prob of token i + 1.
        spans = [row.scored_span(scope) for row in rows]
        return [
            logprob_L[max(start - 1, 0) : end - 1].float().cpu().numpy()
            for logprob_L, (start, end) in zip(logprobs_NL, spans, strict=True)
        ]
