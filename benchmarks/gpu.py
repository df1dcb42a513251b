"""Time one training step of a 1.5B model on one GPU, phase by phase, and a log-prob pass over long completions.

The model has the shape of Qwen2.5-1.5B and random bfloat16 weights, so nothing is downloaded. The step has 64 prompts
with 8 rollouts of 512 tokens each: generate, one log-prob and entropy pass, one update. Then follow log-probs of
8,192-token completions. Utilization is the update's model FLOP/s (forward and backward, without recomputation) divided
by the FLOP/s of a large matrix product in the same run on the same device.

    python -m benchmarks.gpu                   # needs a GPU with 80 GB
    python -m benchmarks.gpu --engine vllm     # generate with vLLM in process
    python -m benchmarks.gpu --small           # a tiny model on the CPU, as a smoke test
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Qwen2Config

from prepo_cli.config import ASSETS, resolve
from prepo_cli.distributed.processes import Processes
from prepo_cli.engines.base import Request
from prepo_cli.policy.loading import load_tokenizer
from prepo_cli.terminal import table
from prepo_cli.training.build import build_learner
from prepo_cli.training.sample import TrainingSample
from prepo_cli.training.team import Team
from strategies.types import derive_seed


@dataclass(frozen=True)
class Work:
    """The workload: the shape of the model and the size of the step."""

    shape: dict[str, Any]
    prompts: int
    rollouts: int
    prompt_tokens: int
    completion_tokens: int
    long_tokens: int
    long_rows: int
    micro_batch_tokens: int
    matrix: int


QWEN_1_5B = Work(
    shape={"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
           "num_key_value_heads": 2, "vocab_size": 151936, "max_position_embeddings": 32768},
    prompts=64, rollouts=8, prompt_tokens=128, completion_tokens=512, long_tokens=8192, long_rows=8,
    micro_batch_tokens=32768, matrix=8192,
)  # fmt: skip
SMALL = Work(
    shape={"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2,
           "num_key_value_heads": 1, "vocab_size": 700, "max_position_embeddings": 512},
    prompts=4, rollouts=2, prompt_tokens=8, completion_tokens=16, long_tokens=128, long_rows=2,
    micro_batch_tokens=512, matrix=256,
)  # fmt: skip
PHASES = ("generate", "log-probs", "update", "sync", "long log-probs")


def main() -> None:
    """Run the benchmark and print the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["hf", "vllm"], default="hf")
    parser.add_argument("--small", action="store_true", help="a tiny model, also on the CPU")
    parser.add_argument("--gradient-checkpointing", action="store_true")
    parser.add_argument("--repeats", type=int, default=3, help="measured steps, after one warm-up")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if not arguments.small and not torch.cuda.is_available():
        parser.error("no GPU found; run a tiny model on the CPU with --small")
    work = SMALL if arguments.small else QWEN_1_5B
    with tempfile.TemporaryDirectory() as folder:
        save_random(Path(folder) / "model", work)
        result = measure(work, Path(folder), arguments.engine, arguments.gradient_checkpointing, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
    else:
        show(result)


def save_random(folder: Path, work: Work) -> None:
    """Save the model with random weights, and a tokenizer that only has to load."""
    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(ASSETS / "model"))
    config = Qwen2Config(**work.shape, tie_word_embeddings=True, eos_token_id=tokenizer.eos_token_id)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Stopwatch:
    """Seconds, tokens and peak memory by phase; the warm-up is not recorded."""

    def __init__(self) -> None:
        self.warming_up = True
        self.seconds: dict[str, list[float]] = {name: [] for name in PHASES}
        self.tokens = dict.fromkeys(PHASES, 0)
        self.peak_gib = dict.fromkeys(PHASES, 0.0)

    def time(self, phase: str, call: Any, tokens: int) -> Any:
        """Time a call that processes `tokens` tokens; returns its result."""
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        synchronize()
        started = perf_counter()
        result = call()
        synchronize()
        if not self.warming_up:
            self.seconds[phase].append(perf_counter() - started)
            self.tokens[phase] = tokens
            if torch.cuda.is_available():
                self.peak_gib[phase] = max(self.peak_gib[phase], torch.cuda.max_memory_allocated() / 2**30)
        return result


def measure(work: Work, folder: Path, engine: str, checkpointing: bool, repeats: int) -> dict[str, Any]:
    """Seconds of each phase (one value per repeat), memory and utilization."""
    config = resolve(
        flags={
            "model.model_name_or_path": str(folder / "model"),
            "model.dtype": "bfloat16",
            "model.gradient_checkpointing": checkpointing,
            "data.dataset_name": "embedded",
            "data.max_prompt_length": work.prompt_tokens,
            "training.max_completion_length": work.completion_tokens,
            "training.max_tokens_per_micro_batch": work.micro_batch_tokens,
            "engine.name": engine,
            "recipe": "random",
            "output_dir": str(folder / "run"),
        }
    )
    processes = Processes(config.training)
    learner = build_learner(config, processes, None)
    team = Team(processes, learner, work.micro_batch_tokens)
    team.sync()
    watch = Stopwatch()
    for repeat in range(repeats + 1):
        watch.warming_up = repeat == 0
        update_flops = run_step(work, team, watch, repeat)
    learner.engine.close()
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "torch": torch.__version__,
        "engine": engine,
        "gradient_checkpointing": checkpointing,
        "parameters": sum(p.numel() for p in learner.policy.model.parameters()),
        "seconds": watch.seconds,
        "tokens": watch.tokens,
        "peak_gib": watch.peak_gib,
        "matrix_flops_per_s": matrix_flops(work.matrix, learner.policy.device),
        "update_flops": update_flops,
    }


def run_step(work: Work, team: Team, watch: Stopwatch, repeat: int) -> float:
    """Time all phases of one step; returns the model FLOPs of its update."""
    requests = make_requests(work, repeat)
    count = work.prompts * work.rollouts * work.completion_tokens
    generated = watch.time("generate", partial(team.generate, requests), count)
    rows = [[*r.prompt_ids, *o.token_ids] for r, group in zip(requests, generated, strict=True) for o in group]
    batch, divisor = make_batch(work, rows, repeat)
    count = sum(map(len, rows))
    watch.time("log-probs", partial(score, team, work, rows), count)
    watch.time("update", partial(team.step, batch, divisor, 1e-6, repeat, False), count)
    watch.time("sync", team.sync, 0)
    long_rows = make_rows(work, work.long_rows, work.prompt_tokens + work.long_tokens, repeat)
    watch.time("long log-probs", partial(score, team, work, long_rows), sum(map(len, long_rows)))
    return 3 * sum(forward_flops(work, len(row), len(row) - work.prompt_tokens) for row in rows)


def score(team: Team, work: Work, rows: list[list[int]]) -> Any:
    """Log-probs and entropies of all completions."""
    spans = [(work.prompt_tokens, len(row)) for row in rows]
    return team.score(rows, spans, [1.0] * len(rows), with_entropy=True)


def make_batch(work: Work, rows: list[list[int]], seed: int) -> tuple[list[TrainingSample], float]:
    """Training samples with random advantages, and the number of their completion tokens."""
    rng = np.random.default_rng(seed)
    lengths = [len(row) - work.prompt_tokens for row in rows]
    batch = [
        TrainingSample(
            row, work.prompt_tokens, 1.0, np.full(length, rng.normal()), np.zeros(length, dtype=np.float32), i
        )
        for i, (row, length) in enumerate(zip(rows, lengths, strict=True))
    ]
    return batch, float(sum(lengths))


def forward_flops(work: Work, length: int, predicted: int) -> float:
    """Forward FLOPs of one row: weights for every token, causal attention, the output matrix for predicted tokens."""
    shape = work.shape
    width, layers = shape["hidden_size"], shape["num_hidden_layers"]
    kv_width = width // shape["num_attention_heads"] * shape["num_key_value_heads"]
    block = 2 * width * width + 2 * width * kv_width + 3 * width * shape["intermediate_size"]
    attention = 2 * length * length * width  # two products over the lower triangle
    return layers * (2.0 * block * length + attention) + 2.0 * width * shape["vocab_size"] * predicted


def matrix_flops(size: int, device: torch.device) -> float:
    """The FLOP/s of a bfloat16 product of two square matrices: the best of ten."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        synchronize()
        started = perf_counter()
        a @ b
        synchronize()
        best = min(best, perf_counter() - started)
    return 2.0 * size**3 / best


def make_rows(work: Work, count: int, length: int, seed: int) -> list[list[int]]:
    """Random token ids."""
    rng = np.random.default_rng(derive_seed(0, "rows", seed, length))
    return [rng.integers(10, 600, size=length).tolist() for _ in range(count)]


def make_requests(work: Work, seed: int) -> list[Request]:
    """The requests of one step, with different prompts."""
    rows = make_rows(work, work.prompts, work.prompt_tokens, seed)
    return [
        Request(row, [derive_seed(seed, i, k) for k in range(work.rollouts)], 1.0, work.completion_tokens)
        for i, row in enumerate(rows)
    ]


def synchronize() -> None:
    """Wait until the device is idle."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def show(result: dict[str, Any]) -> None:
    """Print the result as a table."""
    rows = []
    for name, seconds in result["seconds"].items():
        median = float(np.median(seconds))
        rate = f"{result['tokens'][name] / median:,.0f}" if result["tokens"][name] else ""
        spread = f"{median:,.3f} ({min(seconds):,.3f} to {max(seconds):,.3f})"
        rows.append([name, spread, f"{result['tokens'][name]:,}", rate, f"{result['peak_gib'][name]:,.1f}"])
    title = f"{result['parameters'] / 1e9:,.2f}B parameters, {result['engine']}, {result['device']}"
    table(title, ["phase", "seconds: median, min to max", "tokens", "tokens / s", "peak GiB"], rows)
    update = result["update_flops"] / float(np.median(result["seconds"]["update"]))
    limit = result["matrix_flops_per_s"]
    print(
        f"update: {update / 1e12:,.2f} TFLOP/s, {update / limit:.1%} of the {limit / 1e12:,.2f} TFLOP/s of a large "
        "matrix product"
    )


if __name__ == "__main__":
    main()
