"""A training step against TRL's `GRPOTrainer`: time, generation, update and memory, on the same prompts and rewards.

Two models: the embedded one on its own task, 32 prompts with 8 rollouts of at most 128 tokens, where the overhead of
many small operations counts; and a Qwen2 of 15 million random parameters with a vocabulary of 32,000, 4 prompts with 8
rollouts of 256 tokens, where the model does. Both generate with transformers, in float32, with the loss type `dapo`.
Rewards are 0 and 1 in turn, so that every rollout has an advantage: prepo trains on no others, which is not what is
measured here. TRL's micro-batches have the number of rows given in `SIZES`.

    pip install -e '.[bench]'
    python -m benchmarks --only against_trl
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from benchmarks.paired import Claim, Found, peak_bytes

CLAIMS = (
    Claim("against TRL, embedded model: step", "prepo", "trl", limit=0.3),
    Claim("against TRL, embedded model: generation", "prepo", "trl", "generate", limit=0.3),
    Claim("against TRL, embedded model: update", "prepo", "trl", "update", limit=0.35),
    Claim("against TRL, embedded model: peak memory", "prepo", "trl", "bytes", limit=0.6),
    Claim("against TRL, 15M parameters: step", "prepo 15M", "trl 15M", limit=0.6),
    Claim("against TRL, 15M parameters: generation", "prepo 15M", "trl 15M", "generate"),
    Claim("against TRL, 15M parameters: update", "prepo 15M", "trl 15M", "update"),
    Claim("against TRL, 15M parameters: peak memory", "prepo 15M", "trl 15M", "bytes"),
)
EMBEDDED = {"prompts": 32, "longest": 128, "trl_rows": 128, "steps": 5, "left_out": 1}
QWEN = {"prompts": 4, "longest": 256, "trl_rows": 16, "steps": 1, "left_out": 0}
SIZES: dict[str, dict[str, Any]] = {
    "full": {"embedded": EMBEDDED, "qwen": QWEN},
    "quick": {
        "embedded": EMBEDDED | {"prompts": 8, "trl_rows": 64, "steps": 3},
        "qwen": QWEN | {"longest": 32},
    },
}
ROLLOUTS = 8
SHAPE = {
    "vocab_size": 32_000, "hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
}  # fmt: skip


def measure(variant: str, embedded: dict[str, int], qwen: dict[str, int]) -> Found:
    """Median seconds of a step, of its generation and its update, and the process's peak memory."""
    size = qwen if variant.endswith("15M") else embedded
    with TemporaryDirectory(prefix="prepo-benchmark-") as folder:
        model = _save_qwen(Path(folder) / "model") if size is qwen else _embedded()
        train = _prepo if variant.startswith("prepo") else _trl
        steps = train(model, Path(folder), **size)[size["left_out"] :]
    found = {key: median(step[key] for step in steps) for key in steps[0]}
    return found | {"bytes": peak_bytes()}


def in_turn(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """0 and 1 in turn, whatever the completions are."""
    return [float(i % 2) for i in range(len(completions))]


def _prepo(model: Path, folder: Path, prompts: int, longest: int, steps: int, **_: int) -> list[Found]:
    from prepo_cli.config import resolve
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


def _embedded() -> Path:
    from prepo_cli.models import EMBEDDED_MODEL

    return EMBEDDED_MODEL


def _save_qwen(folder: Path) -> Path:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from prepo_cli.policy.loading import load_tokenizer

    torch.manual_seed(0)
    tokenizer = load_tokenizer(str(_embedded()))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    Qwen2ForCausalLM(Qwen2Config(**SHAPE, **ids)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
