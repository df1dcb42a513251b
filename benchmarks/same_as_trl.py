"""Whether prepo and TRL compute the same loss and gradient: on one batch, for each loss type, on-policy and off.

The batch has 6 prompts with 8 rollouts of random tokens and lengths under the embedded model. Off-policy, the old
log-probs differ from the current ones by noise, so that many ratios are clipped.

    pip install -e '.[trl]'
    python -m benchmarks.same_as_trl
"""

from __future__ import annotations

from itertools import product
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from prepo_cli.config import resolve
from prepo_cli.distributed.layout import Replicated
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.hf import HfEngine
from prepo_cli.losses import LOSSES
from prepo_cli.models import EMBEDDED_MODEL
from prepo_cli.policy.loading import load_policy, load_tokenizer
from prepo_cli.sections import ModelConfig
from prepo_cli.terminal import results, ruled
from prepo_cli.training.learner import Learner
from prepo_cli.training.loss import divisor
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.team import Team

PROMPTS, ROLLOUTS, LONGEST, TOKENS = 6, 8, 64, 650
CLIPPED = {"training.epsilon": 0.2, "training.epsilon_high": 0.28}
TOLERANCE = 1e-4


def main() -> None:
    """Print losses and gradient norms; exit with 1 if any differ by more than 1e-4."""
    table = ruled("loss type", "ratios", "old log-probs", "loss", "TRL's", "gradient norm", "TRL's")
    worst = 0.0
    for loss_type, level, off_policy in product(LOSSES, ("token", "sequence"), (False, True)):
        samples = make_samples(off_policy)
        mine, theirs = ours(samples, loss_type, level), trls(samples, loss_type, level)
        worst = max(worst, *(abs(a - b) / abs(b) for a, b in zip(mine, theirs, strict=True)))
        pairs = [f"{value:.6f}" for pair in zip(mine, theirs, strict=True) for value in pair]
        table.add_row(loss_type, level, "other" if off_policy else "the same", *pairs)
    results().print(table)
    print(f"largest relative difference: {worst:.1e}")
    raise SystemExit(worst > TOLERANCE)


def make_samples(off_policy: bool) -> list[TrainingSample]:
    """The batch; off-policy with old log-probs."""
    rng = np.random.default_rng(0)
    samples = []
    for group in range(PROMPTS):
        prompt = rng.integers(2, TOKENS, rng.integers(5, 40)).tolist()
        for _ in range(ROLLOUTS):
            completion = rng.integers(2, TOKENS, rng.integers(3, LONGEST)).tolist()
            unknown = np.zeros(len(completion), dtype=np.float32)
            advantage = np.full(len(completion), rng.normal())
            samples.append(TrainingSample(prompt + completion, len(prompt), 1.0, advantage, unknown, group))
    if off_policy:
        spans = [(s.start, len(s.ids)) for s in samples]
        scores = load_policy(ModelConfig()).score([s.ids for s in samples], spans, [1.0] * len(samples), 4096)
        for sample, (logprob_T, _) in zip(samples, scores, strict=True):
            sample.old_logprob_T = (logprob_T + rng.normal(size=len(logprob_T)) * 0.3).astype(np.float32)
    return samples


def ours(samples: list[TrainingSample], loss_type: str, level: str) -> tuple[float, float]:
    """Loss and gradient norm of an optimizer step."""
    flags = {"loss_type": loss_type, "importance_sampling_level": level, "max_completion_length": LONGEST}
    config = resolve(flags={f"training.{key}": value for key, value in flags.items()} | CLIPPED)
    policy, processes = load_policy(ModelConfig()), Processes(config.training)
    layout = Replicated(policy, processes, config.training)
    learner = Learner(config, processes, policy, layout, HfEngine(policy, 4096))
    share = divisor(sum(sample.num_tokens for sample in samples), len(samples), learner.options)
    stats = Team(processes, learner, 2048).step(samples, share, 0.0, 0, False)
    return stats.loss / share, stats.grad_norm


def trls(samples: list[TrainingSample], loss_type: str, level: str) -> tuple[float, float]:
    """The same by TRL's trainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer

    with TemporaryDirectory(prefix="prepo-benchmark-") as folder:
        config = GRPOConfig(
            output_dir=folder, per_device_train_batch_size=len(samples), num_generations=ROLLOUTS, beta=0.0,
            max_completion_length=LONGEST, loss_type=loss_type, importance_sampling_level=level, epsilon=0.2,
            epsilon_high=0.28, report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype="float32"),
            reward_funcs=lambda completions, **columns: [0.0] * len(completions),
            args=config,
            train_dataset=Dataset.from_list([{"prompt": "unused"}] * ROLLOUTS),
            processing_class=load_tokenizer(str(EMBEDDED_MODEL)),
        )
        trainer.model.train()
        trainer.current_gradient_accumulation_steps = 1
        loss = trainer._compute_loss(trainer.model, _inputs(samples))
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.model.parameters() if p.grad is not None])
    return loss.item(), norm.item()


def _inputs(samples: list[TrainingSample]) -> dict[str, Any]:
    """Left-padded prompts and right-padded completions, as TRL has them."""
    shape = (len(samples), max(s.start for s in samples)), (len(samples), max(s.num_tokens for s in samples))
    prompt_ids, prompt_mask = torch.zeros(shape[0], dtype=torch.long), torch.zeros(shape[0], dtype=torch.long)
    ids, mask, old = torch.zeros(shape[1], dtype=torch.long), torch.zeros(shape[1], dtype=torch.long), None
    if samples[0].old_logprob_T is not None:
        old = torch.zeros(shape[1])
    for i, sample in enumerate(samples):
        prompt_ids[i, -sample.start :] = torch.tensor(sample.ids[: sample.start])
        prompt_mask[i, -sample.start :] = 1
        ids[i, : sample.num_tokens] = torch.tensor(sample.ids[sample.start :])
        mask[i, : sample.num_tokens] = 1
        if old is not None and sample.old_logprob_T is not None:
            old[i, : sample.num_tokens] = torch.from_numpy(sample.old_logprob_T)
    inputs = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": ids,
        "completion_mask": mask,
        "advantages": torch.tensor([float(sample.factor_T[0]) for sample in samples]),
        "num_items_in_batch": mask.sum(),
    }
    return inputs if old is None else inputs | {"old_per_token_logps": old}


if __name__ == "__main__":
    main()
