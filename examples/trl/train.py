"""GRPO on GSM8K with TRL, prompts and weights chosen by prepo; two lines differ from plain TRL (docs/trl.md).

pip install 'prepo[trl]'
python examples/trl/train.py --output_dir runs/gsm8k --max_steps 200            # and any other option of GRPOConfig
"""

import re

from datasets import load_dataset
from trl import GRPOConfig, ModelConfig, ScriptArguments, TrlParser

from prepo_cli.integrations.trl import PrepoGRPOTrainer

DEFAULTS = {
    "dataset_name": "openai/gsm8k", "dataset_config": "main", "model_name_or_path": "Qwen/Qwen2.5-1.5B-Instruct",
    "num_generations": 8, "per_device_train_batch_size": 32, "gradient_accumulation_steps": 8,
    "max_completion_length": 512, "learning_rate": 1e-6, "logging_steps": 1, "save_steps": 50,
}  # fmt: skip


def conversation(row: dict[str, str]) -> dict[str, object]:
    """A question as chat messages, and its answer: GSM8K's solutions end in `#### 42`."""
    question = row["question"] + "\nReason step by step, and put the final answer in \\boxed{}."
    return {"prompt": [{"role": "user", "content": question}], "answer": row["answer"].split("####")[-1].strip()}


def correct(completions: list[list[dict[str, str]]], answer: list[str], **columns: object) -> list[float]:
    """1 for the right number in the last box, else 0."""
    boxes = [re.findall(r"\\boxed\{([^{}]*)\}", completion[0]["content"]) for completion in completions]
    return [float(found[-1:] == [gold]) for found, gold in zip(boxes, answer, strict=True)]


def main() -> None:
    """Train, and save the model."""
    parser = TrlParser((ScriptArguments, GRPOConfig, ModelConfig))
    parser.set_defaults_with_config(**DEFAULTS)
    data, config, model = parser.parse_args_and_config()
    dataset = load_dataset(data.dataset_name, data.dataset_config, split=data.dataset_train_split)
    trainer = PrepoGRPOTrainer(
        strategies="prepo",  # or "greso", "dapo", "e3", "calibrated" .., or {"selector": ..., "filter": ...}
        model=model.model_name_or_path,
        reward_funcs=correct,
        args=config,
        train_dataset=dataset.map(conversation, remove_columns=dataset.column_names),
    )
    trainer.train(resume_from_checkpoint=config.resume_from_checkpoint)
    trainer.save_model(config.output_dir)


if __name__ == "__main__":
    main()
