"""A training step against TRL's `GRPOTrainer`: time, generation, update and memory, on the same prompts and rewards.

The embedded model on its own task, 32 prompts with 8 rollouts of at most 128 tokens: the overhead of many small
operations counts. benchmarks/against_trl_15m.py does the same with a model that counts itself. Both generate with
transformers, in float32, with the loss type `dapo`. Rewards are 0 and 1 in turn, so that every rollout has an
advantage: prepo trains on no others, which is not what is measured here. TRL's micro-batches have the number of rows
given in `SIZES`.

    python -m benchmarks --only against_trl      # needs trl; "make bench" installs it
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.paired import Claim, Found, peak_bytes
from prepo_cli.config import resolve
from prepo_cli.models import EMBEDDED_MODEL

CLAIMS = (
    Claim("against TRL, embedded model: step", "prepo", "trl", limit=0.3),
    Claim("against TRL, embedded model: generation", "prepo", "trl", "generate", limit=0.3),
    Claim("against TRL, embedded model: update", "prepo", "trl", "update", limit=0.35),
    Claim("against TRL, embedded model: peak memory", "prepo", "trl", "bytes", limit=0.6),
)
SIZES: dict[str, dict[str, Any]] = {
    "full": {"prompts": 32, "longest": 128, "trl_rows": 128, "steps": 4, "left_out": 1},
    "quick": {"prompts": 8, "longest": 128, "trl_rows": 64, "steps": 3, "left_out": 1},
}
ROLLOUTS = 8


def measure(variant: str, **size: int) -> Found:
    """What a step takes with the embedded model."""
    return step(variant, lambda folder: EMBEDDED_MODEL, **size)


def step(variant: str, model: Callable[[Path], Path], left_out: int, **size: int) -> Found:
    """Median seconds of a step, of its generation and its update, and the process's peak memory.

    Args:
        variant: `prepo` or `trl`.
        model: gives the model's folder, which it may write into the folder that it gets.
        left_out: how many of the first steps don't count.
        size: see `SIZES`.
    """
    train = _prepo if variant == "prepo" else _trl
    with TemporaryDirectory(prefix="prepo-benchmark-") as folder:
        steps = train(model(Path(folder)), Path(folder), **size)[left_out:]
    found = {key: median(step[key] for step in steps) for key in steps[0]}
    return found | {"bytes": peak_bytes()}


def in_turn(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """0 and 1 in turn, whatever the completions are."""
    return [float(i % 2) for i in range(len(completions))]


def _prepo(model: Path, folder: Path, prompts: int, longest: int, steps: int, **_: int) -> list[Found]:
    from prepo_cli.training.train import train

    flags = {
        "recipe": "grpo",
        "model.model_name_or_path": str(model),
        "training.prompts_per_step": prompts,
        "training.num_generations": ROLLOUTS,
        "training.max_completion_length": longest,
        "training.learning_rate": 1e-5,
        "training.total_steps": steps,
        "rewards.functions": [f"{__name__}:in_turn"],
        "training.save_steps": 1000,
        "evaluation.at_start": False,
        "evaluation.at_end": False,
        "reporting.figures": False,
        "output_dir": str(folder / "run"),
    }
    train(resolve(flags=flags))
    lines = map(json.loads, (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
    return [
        {
            "seconds": line["timing_s/step"],
            "generate": line["timing_s/generate"],
            "update": line["timing_s/logprob"] + line["timing_s/update"],
        }
        for line in lines
    ]


def _trl(model: Path, folder: Path, prompts: int, longest: int, steps: int, trl_rows: int, **_: int) -> list[Found]:
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from prepo_cli.data.loading import load_prompts
    from prepo_cli.policy.loading import load_tokenizer

    data = load_prompts("embedded")
    rows = [{"prompt": data.messages(i)} for i in range(prompts * steps)]
    found: list[Found] = []

    class Timed(GRPOTrainer):  # type: ignore[misc]
        def _generate_single_turn(self, *args: Any, **options: Any) -> Any:
            started = perf_counter()
            result = super()._generate_single_turn(*args, **options)
            found[-1]["generate"] += perf_counter() - started
            return result

        def _generate_and_score_completions(self, *args: Any, **options: Any) -> Any:
            started = perf_counter()
            result = super()._generate_and_score_completions(*args, **options)
            found[-1]["update"] -= perf_counter() - started
            return result

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **options: Any) -> None:
            found.append({"seconds": -perf_counter(), "generate": 0.0, "update": 0.0})

        def on_step_end(self, *args: Any, **options: Any) -> None:
            found[-1]["seconds"] += perf_counter()
            found[-1]["update"] += found[-1]["seconds"]

    config = GRPOConfig(
        output_dir=str(folder / "trl"), per_device_train_batch_size=trl_rows, num_generations=ROLLOUTS,
        gradient_accumulation_steps=prompts * ROLLOUTS // trl_rows, max_completion_length=longest, max_steps=steps,
        learning_rate=1e-5, beta=0.0, temperature=1.0, top_p=1.0, top_k=0, loss_type="dapo", report_to=[], seed=0,
        save_strategy="no", logging_steps=1000, disable_tqdm=True, bf16=False, use_cpu=True,
        gradient_checkpointing=False,
    )  # fmt: skip
    trainer = Timed(
        model=AutoModelForCausalLM.from_pretrained(model, dtype="float32"),
        reward_funcs=in_turn,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=load_tokenizer(str(model)),
        callbacks=[Clock()],
    )
    trainer.train()
    return found
