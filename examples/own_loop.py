"""A training loop of your own around `StrategySet`, on torch and transformers alone; trains PREPO by default.

python examples/own_loop.py selector=greso+ppl-schedule budget=pilot-commit           # or any other strategies

One update a step, on samples of the current policy: the gradient of the clipped objective is the policy gradient.
Axis letters: N rollouts, T completion tokens, L tokens of a row, M tokens to score, D hidden size, V vocabulary.
"""

import json
import re
import sys
from dataclasses import dataclass, replace
from itertools import compress, count, islice
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer

from strategies import Batch, Completion, Group, Prompt, RunInfo, StepContext, StepReport, StrategySet

STEPS, PROMPTS, ROLLOUTS, MAX_ROUNDS, HELD_OUT, LEARNING_RATE, SEED = 50, 32, 8, 10, 200, 1e-4, 0
ASSETS = Path(__file__).parents[1] / "prepo_cli" / "assets"
TOKENIZER = AutoTokenizer.from_pretrained(ASSETS / "model", padding_side="left")
MODEL = AutoModelForCausalLM.from_pretrained(ASSETS / "model", dtype=torch.float32)
MODEL.generation_config.update(do_sample=True, top_k=0, top_p=1.0, max_new_tokens=96)
END = TOKENIZER.eos_token_id  # ends a message, the question as well as the answer
QUESTION = len(TOKENIZER("<|im_start|>user\n")["input_ids"])  # where the question starts in the model's chat template


@dataclass(frozen=True)
class Rollout(Completion):
    """A completion as strategies see it, and its tokens."""

    ids: tuple[int, ...] = ()


class Task:
    """Questions and answers; also the stream that selectors draw from, and the probe they ask about the policy."""

    def __init__(self, split: str) -> None:
        rows = self.rows = [json.loads(line) for line in (ASSETS / "task" / f"{split}.jsonl").read_text().splitlines()]
        chats = [[{"role": "user", "content": row["prompt"]}] for row in rows]
        self.ids = TOKENIZER.apply_chat_template(chats, add_generation_prompt=True)["input_ids"]
        self.prompts = [Prompt(i, row["id"], row["source"], row["difficulty"]) for i, row in enumerate(rows)]
        self.order = (i for epoch in count() for i in np.random.default_rng([SEED, epoch]).permutation(len(rows)))
        self.taken = self.epoch = 0

    def take(self, m: int) -> list[Prompt]:
        """The next m prompts, in a new order each epoch."""
        self.taken += m
        self.epoch = self.taken // len(self.prompts)
        return [self.prompts[i] for i in islice(self.order, m)]

    @torch.no_grad()
    def perplexity(self, prompts: list[Prompt], scope: str = "question") -> np.ndarray:
        """Perplexity of each question under the current policy, or of its whole prompt after the first token."""
        rows = [self.ids[prompt.index] for prompt in prompts]
        halves = [(r[:QUESTION], r[QUESTION : r.index(END)]) if scope == "question" else (r[:1], r[1:]) for r in rows]
        return np.exp([-logprobs.mean().item() for logprobs, _ in score(halves)])


def roll_out(task: Task, prompts: list[Prompt], temperature: float) -> list[Rollout]:
    """A completion for each entry of `prompts`; its reward is 1 if its last box holds the answer, else 0."""
    inputs = TOKENIZER.pad({"input_ids": [task.ids[prompt.index] for prompt in prompts]}, return_tensors="pt")
    sampled = MODEL.generate(**inputs, temperature=temperature)[:, inputs["input_ids"].shape[1] :].tolist()
    rollouts = []
    for prompt, row in zip(prompts, sampled, strict=True):
        ids = tuple(row[: [*row, END].index(END) + 1])
        correct = re.findall(r"\\boxed\{([^{}]*)\}", TOKENIZER.decode(ids))[-1:] == [task.rows[prompt.index]["answer"]]
        rollouts.append(Rollout(float(correct), correct, len(ids), ids[-1] != END, temperature, ids=ids))
    return rollouts


def score(rows: list[tuple[list[int], list[int]]], temperature: float = 1.0) -> list[torch.Tensor]:
    """Log-probs (with gradient) and entropies of the second half of each row, given its first half."""
    if len(rows) > 64:
        return [scored for i in range(0, len(rows), 64) for scored in score(rows[i : i + 64], temperature)]
    ids_NL = pad_sequence([torch.tensor(a + b) for a, b in rows], batch_first=True)
    mask_NL = pad_sequence([torch.tensor([0] * (len(a) - 1) + [1] * len(b)).bool() for a, b in rows], batch_first=True)
    hidden_NLD = MODEL.base_model(input_ids=ids_NL[:, :-1]).last_hidden_state  # causal: padding on the right is unseen
    logprobs_MV = (MODEL.lm_head(hidden_NLD[mask_NL]) / temperature).log_softmax(dim=-1)
    logprobs_M = logprobs_MV.gather(-1, ids_NL[:, 1:][mask_NL].unsqueeze(-1)).squeeze(-1)
    entropy_M = -(logprobs_MV.exp() * logprobs_MV).sum(dim=-1).detach()
    return list(torch.stack((logprobs_M, entropy_M)).split([len(b) for _, b in rows], dim=1))


def collect(strategies: StrategySet, task: Task, ctx: StepContext) -> tuple[list[Group], int]:
    """The groups to train on, and how many rollouts were generated to get them."""
    kept, generated = [], 0
    while len(kept) < PROMPTS and ctx.round < (MAX_ROUNDS if strategies.filter.refills else 1):
        prompts = strategies.select(PROMPTS - len(kept), task, ctx)
        groups, left = [Group(prompt, ()) for prompt in prompts], len(prompts) * ROLLOUTS
        counts = strategies.allocate(prompts, left, ctx)
        while any(counts):  # a second time only where the budget tops up
            asked = [prompt for prompt, n in zip(prompts, counts, strict=True) for _ in range(n)]
            new = iter(roll_out(task, asked, ctx.temperature))
            groups = [Group(g.prompt, (*g.completions, *islice(new, n))) for g, n in zip(groups, counts, strict=True)]
            generated, left = generated + len(asked), left - len(asked)
            counts = strategies.top_up(groups, left, ctx)
        strategies.observe(groups, ctx)
        kept += [Group(g.prompt, c) for g in groups if (c := tuple(compress(g.completions, strategies.keep(g, ctx))))]
        ctx = replace(ctx, round=ctx.round + 1)
    assert kept, f"step {ctx.step}: the filter kept none of {generated:,} rollouts"
    return kept, generated


def loss_of(strategies: StrategySet, task: Task, groups: list[Group], ctx: StepContext) -> tuple[torch.Tensor, Batch]:
    """Policy-gradient loss over all tokens, with group-normalized advantages and the strategies' weights."""
    flat = [(n, task.ids[g.prompt.index], r) for n, g in enumerate(groups) for r in g.completions]
    flat.sort(key=lambda entry: len(entry[1]) + len(entry[2].ids))  # rows of like length need little padding
    scored = score([(ids, list(r.ids)) for _, ids, r in flat], ctx.temperature)
    logprobs_NT, entropy_NT = pad_sequence([x.T for x in scored], batch_first=True).unbind(dim=-1)
    mask_NT = np.arange(logprobs_NT.shape[1]) < np.array([[len(r.ids)] for _, _, r in flat])
    group_N, rewards_N = np.array([n for n, _, _ in flat]), np.array([r.reward for _, _, r in flat])
    mean_N, std_N = (np.array([f(group.rewards_N) for group in groups])[group_N] for f in (np.mean, np.std))
    batch = Batch(group_N, rewards_N, (rewards_N - mean_N) / (std_N + 1e-6), entropy_NT.detach().numpy(), mask_NT)
    scale_NT = torch.from_numpy(strategies.weigh(batch, ctx) * batch.advantages_N[:, None])  # [N, 1] or [N, T]
    return -(scale_NT * logprobs_NT).sum() / mask_NT.sum(), batch


def main(slots: dict[str, str]) -> None:
    """Train, and print the gain on held-out questions."""
    torch.manual_seed(SEED)
    task, held_out, totals = Task("train"), Task("test"), np.zeros(2, dtype=int)
    run = RunInfo(len(task.ids), STEPS, PROMPTS, ROLLOUTS, SEED, MODEL.vocab_size, frozenset({"source", "difficulty"}))
    strategies = StrategySet({"selector": "ppl-schedule", "weighting": "rel-entropy"} | slots, run)
    optimizer = torch.optim.AdamW(MODEL.parameters(), LEARNING_RATE, weight_decay=0.0)
    before = np.mean([rollout.reward for rollout in roll_out(held_out, held_out.prompts[:HELD_OUT] * 8, 1.0)])
    for step in range(STEPS):
        ctx = StepContext(step, STEPS, task.epoch, 0, SEED, probe=task)
        ctx = replace(ctx, temperature=strategies.temperature(ctx))
        groups, generated = collect(strategies, task, ctx)
        loss, batch = loss_of(strategies, task, groups, ctx)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(MODEL.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        totals += generated, len(batch.rewards_N)
        reward, entropy, ended = float(batch.rewards_N.mean()), batch.token_mean_entropy, task.epoch - ctx.epoch
        report = StepReport(step, STEPS, ctx.epoch, ended, ctx.temperature, entropy, reward, True, *totals.tolist())
        strategies.end_step(report)
        print(f"step {step}: reward {reward:.3f}, entropy {entropy:.3f}, {totals[0]:,} rollouts", flush=True)
    after = np.mean([rollout.reward for rollout in roll_out(held_out, held_out.prompts[:HELD_OUT] * 8, 1.0)])
    print(f"held-out avg@8: {before:.3f} before, {after:.3f} after, gain {after - before:+.3f}")


if __name__ == "__main__":
    main(dict(argument.split("=", 1) for argument in sys.argv[1:]))
