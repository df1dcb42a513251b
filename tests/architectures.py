"""Small random models as users have them: real architectures, their tokenizer classes, chat templates and end tokens.

Templates are rewritten to do what the families' templates do: Qwen2 adds a system prompt of its own, Qwen3 opens an
empty thought where thinking is off, Llama 3 has headers and two end tokens, Gemma knows no system role.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaTokenizer,
    GenerationConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2Tokenizer,
    Qwen3Config,
)

from prepo_cli.config import ASSETS

CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
TURNS = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}"
    "{% endif %}<start_of_turn>{{ m.role }}\n{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
QWEN_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
LLAMA_SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
ARCHITECTURES = ("qwen2", "qwen3", "llama3", "gemma2")


def save_architecture(name: str, folder: Path) -> Path:
    """Write the model `name` of ARCHITECTURES to a folder as the hub has it."""
    tokenizer = TOKENIZERS[name]()
    ids = tokenizer.convert_tokens_to_ids
    shape = SHAPE | {"vocab_size": len(tokenizer) + 5}  # models are often padded beyond their tokenizer
    configs = {
        "qwen2": lambda: Qwen2Config(
            **shape, tie_word_embeddings=True, bos_token_id=ids("<|endoftext|>"), eos_token_id=ids("<|endoftext|>")
        ),
        "qwen3": lambda: Qwen3Config(**shape, head_dim=8, tie_word_embeddings=False, eos_token_id=ids("<|im_end|>")),
        "llama3": lambda: LlamaConfig(
            **shape, tie_word_embeddings=False, bos_token_id=0, eos_token_id=[ids("<|end_of_text|>"), ids("<|eot_id|>")]
        ),
        "gemma2": lambda: Gemma2Config(
            **shape, head_dim=4, sliding_window=8, final_logit_softcapping=3.0, pad_token_id=0, eos_token_id=1,
            bos_token_id=2,
        ),
    }  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(configs[name]())
    if name == "qwen2":
        ends = [ids("<|im_end|>"), ids("<|endoftext|>")]
        model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=ids("<|endoftext|>"))
    if name == "gemma2":
        model.generation_config = GenerationConfig(eos_token_id=[1, ids("<end_of_turn>")], pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _corpus() -> list[str]:
    lines = (ASSETS / "task" / "train.jsonl").read_text(encoding="utf-8").splitlines()[:300]
    return [json.loads(line)["prompt"] + " \\boxed{7} user assistant system model" for line in lines]


def _byte_level(special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, special_tokens=special)
    tokenizer.train_from_iterator(_corpus(), trainer)
    return tokenizer


def _parts(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def _qwen(template: str) -> Any:
    vocab, merges = _parts(_byte_level(QWEN_SPECIAL))
    made = Qwen2Tokenizer(vocab=vocab, merges=merges, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.add_special_tokens({"additional_special_tokens": QWEN_SPECIAL})
    made.chat_template = template
    return made


def _llama3() -> Any:
    return PreTrainedTokenizerFast(
        tokenizer_object=_byte_level(LLAMA_SPECIAL),
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        chat_template=HEADERS,
    )  # no pad token


def _gemma() -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Replace("▁", " ")
    bytes_ = [AddedToken(f"<0x{byte:02X}>", special=False, normalized=False) for byte in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=[*GEMMA_SPECIAL, *map(str, bytes_)])
    tokenizer.train_from_iterator(_corpus(), trainer)
    vocab, merges = _parts(tokenizer)
    made = GemmaTokenizer(vocab=vocab, merges=merges)
    made.add_special_tokens({"additional_special_tokens": ["<start_of_turn>", "<end_of_turn>"]})
    made.chat_template = TURNS
    return made


TOKENIZERS = {"qwen2": lambda: _qwen(CHATML), "qwen3": lambda: _qwen(THINKING), "llama3": _llama3, "gemma2": _gemma}
