"""Rollouts per second of the hf and vllm engines, measured alternately on the same requests of the embedded task.

Needs vLLM in prepo's environment (`make test-vllm` sets one up with vLLM's CPU build):

    python -m benchmarks.engines
    python -m benchmarks.engines --prompts 256 --repeats 9 --json
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from prepo_cli.data.loading import load_prompts
from prepo_cli.data.rendering import Renderer
from prepo_cli.engines import build_engine
from prepo_cli.engines.base import Request
from prepo_cli.policy.loading import load_policy
from prepo_cli.sections import EMBEDDED, EngineConfig, ModelConfig
from prepo_cli.terminal import table
from strategies.types import derive_seed

ROLLOUTS = 8


def main() -> None:
    """Measure both engines and print their rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5, help="measured repeats, after one warm-up")
    parser.add_argument("--json", action="store_true", help="print the raw measurements as one JSON object")
    arguments = parser.parse_args()
    result = measure(arguments.prompts, arguments.max_tokens, arguments.repeats)
    if arguments.json:
        print(json.dumps(result))
        return
    rows = []
    for name, seconds in result["seconds"].items():
        rates = sorted(result["rollouts"] / np.array(seconds))
        mean_tokens = result["tokens"][name] / len(seconds)
        sync = result["sync_s"][name]
        rows.append(
            [name, f"{np.median(rates):,.0f} ({rates[0]:,.0f} to {rates[-1]:,.0f})",
             f"{mean_tokens / np.median(seconds):,.0f}", "-" if sync is None else f"{1000 * sync:,.0f} ms"]
        )  # fmt: skip
    columns = ["engine", "rollouts / s: median (min to max)", "tokens / s", "weight sync"]
    title = (
        f"{arguments.prompts} prompts x {ROLLOUTS} rollouts, at most {arguments.max_tokens} tokens, {result['device']}"
    )
    table(title, columns, rows)
    ratio = np.array(result["seconds"]["hf"]) / np.array(result["seconds"]["vllm"])
    print(f"vllm / hf, per repeat, median [min, max]: {np.median(ratio):.2f} [{ratio.min():.2f}, {ratio.max():.2f}]")


def measure(prompts: int, max_tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds of each engine, one value per repeat; both answer the same requests."""
    model = ModelConfig()
    policy = load_policy(model)
    renderer = Renderer(policy.tokenizer)
    dataset = load_prompts(EMBEDDED, limit=prompts)
    rows = [renderer(dataset.messages(i)).token_ids for i in range(len(dataset))]
    max_context = max(map(len, rows)) + max_tokens
    engines = {
        name: build_engine(
            EngineConfig.model_validate({"name": name}), policy, model, max_context=max_context, seed=0, sync_dir=Path()
        )
        for name in ("hf", "vllm")
    }
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "rollouts": prompts * ROLLOUTS,
        "seconds": {name: [] for name in engines},
        "tokens": dict.fromkeys(engines, 0),
        "sync_s": dict.fromkeys(engines),
    }
    for repeat in range(repeats + 1):
        requests = [
            Request(row, [derive_seed(repeat, i, k) for k in range(ROLLOUTS)], 1.0, max_tokens)
            for i, row in enumerate(rows)
        ]
        for name, engine in engines.items():
            started = perf_counter()
            groups = engine.generate(requests)
            seconds = perf_counter() - started
            if repeat:
                result["seconds"][name].append(seconds)
                result["tokens"][name] += sum(len(rollout.token_ids) for group in groups for rollout in group)
            if not engine.shares_weights:
                started = perf_counter()
                engine.sync(policy.named_weights())
                result["sync_s"][name] = perf_counter() - started
    for engine in engines.values():
        engine.close()
    return result


if __name__ == "__main__":
    main()
