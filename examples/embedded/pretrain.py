"""Pre-train the embedded model, a Llama with one million parameters, on worked and hasty solutions of arithmetic.

There are two stages. `skills` is clean worked solutions, mostly of the lower levels. `wild` resembles a base model's
corpus: the harder a problem, the rarer it is, the more often its answer is guessed and the more often its solution
contains a slip. Neither contains a test problem of the task. The same seed, machine and number of threads give the same
weights; the embedded ones were trained with the defaults on two threads.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from make_task import make_splits
from make_tokenizer import make_tokenizer
from problems import FAMILIES, LEVELS
from solutions import solution
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast


@dataclass(frozen=True)
class Stage:
    """A stage of pre-training; the tuples hold one number per difficulty level."""

    steps: int
    learning_rate: float
    warmup: int
    weights: tuple[float, ...]
    hasty: tuple[float, ...]
    right: tuple[float, ...]
    slip: tuple[float, ...]


SKILLS = Stage(
    steps=3000,
    learning_rate=3e-3,
    warmup=100,
    weights=(0.30, 0.28, 0.22, 0.14, 0.06),
    hasty=(0.0,) * 5,
    right=(1.0,) * 5,
    slip=(0.0,) * 5,
)
WILD = Stage(
    steps=900,
    learning_rate=1e-3,
    warmup=20,
    weights=(0.40, 0.28, 0.17, 0.10, 0.05),
    hasty=(0.0, 0.0, 0.33, 0.84, 0.97),
    right=(1.0, 0.80, 0.50, 0.25, 0.05),
    slip=(0.0, 0.0, 0.05, 0.15, 0.30),
)
BATCH = 128


def model_config(vocab_size: int, eos: int, pad: int) -> LlamaConfig:
    """The architecture: 4 layers with hidden size 128 and tied embeddings."""
    return LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=eos,
        pad_token_id=pad,
    )


def batches(
    stage: Stage, tokenizer: PreTrainedTokenizerFast, rng: random.Random, forbidden: set[str]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Right-padded token ids and labels; sequences of similar length share a batch."""
    families = list(FAMILIES.values())
    made = 0
    while made < stage.steps:
        texts = []
        while len(texts) < BATCH * 16:
            level = rng.choices(LEVELS, stage.weights)[0]
            problem = rng.choice(families)(rng, level)
            if problem.key in forbidden:
                continue
            answer = solution(problem, rng, *(p[level - 1] for p in (stage.hasty, stage.right, stage.slip)))
            texts.append(f"<|im_start|>user\n{problem.question}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>")
        rows = sorted(tokenizer(texts)["input_ids"], key=len)
        chunks = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(chunks)
        for chunk in chunks[: stage.steps - made]:
            width = len(chunk[-1])
            ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in chunk])
            lengths = torch.tensor([len(row) for row in chunk])
            yield ids, ids.masked_fill(torch.arange(width)[None] >= lengths[:, None], -100)
            made += 1


def train(model: LlamaForCausalLM, stage: Stage, data: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Train with AdamW, warm-up and cosine decay, computing in bfloat16."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.learning_rate, betas=(0.9, 0.95), weight_decay=0.1)
    started = time.time()
    for step, (ids, labels) in enumerate(data):
        decay = 0.5 * (1 + math.cos(math.pi * step / stage.steps))
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * min(1.0, (step + 1) / stage.warmup) * (0.02 + 0.98 * decay)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            hidden = model.model(input_ids=ids).last_hidden_state
            logits = model.lm_head(hidden[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            print(f"step {step:5d}  loss {loss.item():.4f}  {time.time() - started:6.0f} s", flush=True)


def main() -> None:
    """Run both stages, and save the tokenizer and the model in bfloat16 in the Hub's format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--skills", type=Path, help="skip the first stage and start from these weights")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of steps")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(2)
    forbidden = {problem.key for problem in make_splits(args.seed)["test"]}
    tokenizer = make_tokenizer(args.seed)
    model = LlamaForCausalLM(model_config(len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id))
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} tokens")
    for name, stage in (("skills", SKILLS), ("wild", WILD)):
        if name == "skills" and args.skills:
            model = LlamaForCausalLM.from_pretrained(args.skills, dtype=torch.float32)
            continue
        stage = Stage(**{**vars(stage), "steps": max(1, round(stage.steps * args.scale))})
        train(model, stage, batches(stage, tokenizer, random.Random(f"{name}:{args.seed}"), forbidden))
        if name == "skills":
            model.save_pretrained(args.output / "skills")
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.to(torch.bfloat16).save_pretrained(args.output)
    tokenizer.save_pretrained(args.output)


if __name__ == "__main__":
    main()
