"""TRL trainers on the embedded model and task, made small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from prepo_cli.data.loading import load_prompts
from prepo_cli.integrations.trl import PrepoGRPOTrainer
from prepo_cli.models import EMBEDDED_MODEL
from prepo_cli.policy.loading import load_tokenizer
from tests.integrations.conformance import NEUTRAL as NEUTRAL

FIGURES = ("loss", "grad_norm", "entropy", "reward", "reward_std", "completions/mean_length", "num_tokens")


def task(rows: int, **columns: Callable[[int], Any]) -> Dataset:
    """The first questions of the embedded task, as messages, with their answers; `columns` are functions of the row."""
    data = load_prompts("embedded")
    return Dataset.from_list(
        [
            {"prompt": data.messages(i), "answer": data.answer(i)} | {name: of(i) for name, of in columns.items()}
            for i in range(rows)
        ]
    )


def coin(completions: list[Any], **columns: Any) -> list[float]:
    """0 or 1, depending on the completion alone."""
    return [float(sum(str(completion).encode()) % 2) for completion in completions]


def config(folder: Path, **changes: Any) -> GRPOConfig:
    settings: dict[str, Any] = {
        "output_dir": str(folder), "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2,
        "num_generations": 4, "max_completion_length": 8, "max_steps": 10, "learning_rate": 1e-3, "beta": 0.0,
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "loss_type": "dapo", "report_to": [], "seed": 0,
        "save_strategy": "no", "logging_steps": 1, "disable_tqdm": True, "bf16": False, "use_cpu": True,
        "gradient_checkpointing": False,
    }  # fmt: skip
    return GRPOConfig(**settings | changes)


def trainer(
    folder: Path,
    strategies: Any = None,
    reward: Callable[..., list[float | None]] = coin,
    data: Dataset | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    options: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    """A trainer with these strategies, or TRL's own without any."""
    kind = GRPOTrainer if strategies is None else PrepoGRPOTrainer
    return kind(
        model=AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype=torch.float32),
        reward_funcs=reward,
        args=config(folder, **changes),
        train_dataset=task(64) if data is None else data,
        processing_class=load_tokenizer(str(EMBEDDED_MODEL)),
        callbacks=list(callbacks),
        **({} if strategies is None else {"strategies": strategies}),
        **(options or {}),
    )


def weights(trained: Any) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in trained.model.state_dict().items()}


def lines(trained: Any, *names: str) -> list[list[float | None]]:
    """Of each logged step, these figures."""
    return [[line.get(name) for name in names] for line in trained.state.log_history if names[0] in line]
