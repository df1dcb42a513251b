"""What prepo's adapter adds to TRL's own trainer: a step with strategies that do nothing, against plain `GRPOTrainer`.

The embedded model on its own task, 8 rollouts of at most 128 tokens. Both trainers draw the same prompts and rollouts,
and end with the same weights; they take turns, step by step. CPU seconds of the process depend less on what else the
machine does.

    pip install -e '.[trl]'
    python -m benchmarks --only trl_adapter
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter, process_time
from typing import Any

from benchmarks.against_trl import in_turn
from benchmarks.paired import Claim, Found
from benchmarks.turns import Turn
from prepo_cli.models import EMBEDDED_MODEL

CLAIMS = (
    Claim("prepo's adapter for TRL: step", "adapter", "trl", limit=1.03),
    Claim("prepo's adapter for TRL: step, CPU seconds", "adapter", "trl", "cpu", limit=1.03),
)
SIZES: dict[str, dict[str, Any]] = {
    "large": {"prompts": 32, "longest": 128},
    "full": {"prompts": 8, "longest": 64},
}
ROLLOUTS, MICRO_BATCHES, LEFT_OUT = 8, 2, 2
NEUTRAL = {
    "selector": "full", "budget": "uniform", "filter": "keep-all", "weighting": "uniform",
    "temperature_schedule": "constant",
}  # fmt: skip


def steps(variant: str, turn: Turn, rounds: int, prompts: int, longest: int) -> list[Found]:
    """Seconds and CPU seconds of each step, after the first ones, which don't count."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from prepo_cli.data.loading import load_prompts
    from prepo_cli.integrations.trl import PrepoGRPOTrainer
    from prepo_cli.policy.loading import load_tokenizer

    found: list[tuple[float, float]] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *args: Any, **options: Any) -> None:
            turn()
            found.append((-perf_counter(), -process_time()))

        def on_step_end(self, *args: Any, **options: Any) -> None:
            found[-1] = (found[-1][0] + perf_counter(), found[-1][1] + process_time())

    data = load_prompts("embedded")
    with TemporaryDirectory(prefix="prepo-benchmark-") as folder:
        config = GRPOConfig(
            output_dir=str(Path(folder) / "trl"), num_generations=ROLLOUTS, max_completion_length=longest,
            per_device_train_batch_size=prompts * ROLLOUTS // MICRO_BATCHES, max_steps=LEFT_OUT + rounds,
            seed=0, gradient_accumulation_steps=MICRO_BATCHES, learning_rate=1e-5, beta=0.0, temperature=1.0,
            top_p=1.0, top_k=0, loss_type="dapo", report_to=[], save_strategy="no", logging_steps=1, disable_tqdm=True,
            bf16=False, use_cpu=True, gradient_checkpointing=False,
        )  # fmt: skip
        kind, more = (PrepoGRPOTrainer, {"strategies": NEUTRAL}) if variant == "adapter" else (GRPOTrainer, {})
        kind(
            model=AutoModelForCausalLM.from_pretrained(EMBEDDED_MODEL, dtype="float32"),
            reward_funcs=in_turn,
            args=config,
            train_dataset=Dataset.from_list(
                [{"prompt": data.messages(i)} for i in range(prompts * (LEFT_OUT + rounds))]
            ),
            processing_class=load_tokenizer(str(EMBEDDED_MODEL)),
            callbacks=[Clock()],
            **more,
        ).train()
    return [{"seconds": seconds, "cpu": cpu} for seconds, cpu in found[LEFT_OUT:]]
