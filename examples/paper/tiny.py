"""A random model with two small layers and the architecture of one of the papers' models.

It uses the embedded tokenizer and generates gibberish, which is enough to test a configuration.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SETTINGS = {
    "data.dataset_name": "embedded",
    "data.dataset_config": "null",
    "data.limit": "null",
    "data.max_prompt_length": "256",
    "model.dtype": "float32",
    "rewards.functions": "[math, 'paper_rewards:has_box', 'paper_rewards:even_length']",
    "rewards.weights": "[0.9, 0.1, 0.5]",
    "rewards.workers": "1",
    "training.prompts_per_step": "4",
    "training.num_generations": "4",
    "training.max_completion_length": "8",
    "training.mini_batch_prompts": "2",
    "training.mixed_precision": "'no'",
    "training.save_steps": "1",
    "engine.name": "hf",
    "evaluation.dataset_name": "embedded",
    "evaluation.limit": "4",
    "evaluation.num_samples": "2",
    "evaluation.eval_steps": "1",
}
"""The settings that `--tiny` changes; all others are the papers'."""
STEPS = 2


def make_tiny(name: str, folder: Path) -> Path:
    """Save a random model with the architecture of `name` (a key of run.py's MODELS); returns its folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config
    from transformers.utils import logging

    from prepo_cli.config import ASSETS

    logging.disable_progress_bar()
    source = ASSETS / "model"
    tokenizer = AutoTokenizer.from_pretrained(source)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": name.endswith(("1.5b", "4b")) and not name.startswith("deepseek"),
    }
    if name.startswith("qwen3"):
        config: Any = Qwen3Config(**sizes, head_dim=16)
    elif name.startswith("llama"):
        config = LlamaConfig(**sizes)
    else:
        config = Qwen2Config(**sizes)
    torch.manual_seed(0)
    target = folder / f"tiny-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as temporary:
        model = Path(temporary) / target.name
        AutoModelForCausalLM.from_config(config).save_pretrained(model)
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            shutil.copy(source / file, model)
        try:
            model.rename(target)
        except OSError:
            if not target.is_dir():  # else another process of the run has already saved the same model
                raise
    return target
