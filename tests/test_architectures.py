"""Qwen2, Qwen3, Llama 3 and Gemma 2 as users have them: trained, scored, evaluated and resumed, whole and with LoRA."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from prepo_cli.config import resolve
from prepo_cli.data.rendering import Renderer
from prepo_cli.engines.base import Request
from prepo_cli.engines.hf import HfEngine
from prepo_cli.errors import UsageError
from prepo_cli.main import main
from prepo_cli.manifest import listed
from prepo_cli.policy.loading import load_model_spec, load_policy
from prepo_cli.sections import ModelConfig
from prepo_cli.training.train import train
from tests.architectures import ARCHITECTURES, save_architecture
from tests.metrics import timeless
from tests.models import naive_scores

QUESTION = "What is 12 + 34? Ünïcode 日本"
SETTINGS = [
    "training.total_steps=2",
    "training.prompts_per_step=3",
    "training.num_generations=4",
    "training.max_completion_length=12",
    "training.save_steps=1",
    "training.learning_rate=1e-2",
    "rewards.functions=[tests.training.rewards:even_length]",
    "rewards.workers=1",
    "evaluation.dataset_name=embedded",
    "evaluation.limit=3",
    "evaluation.num_samples=2",
]
LORA = ["model.use_peft=true", "model.lora_r=4", "training.beta=0.05"]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_architecture(request.param, tmp_path_factory.mktemp("model") / request.param)


def run(out: Path, model: Path, *sets: str, resume: bool = False) -> dict[str, Any]:
    given = [f"model.model_name_or_path={model}", "data.dataset_name=embedded", f"output_dir={out}"]
    summary = train(resolve(sets=[*given, *SETTINGS, *sets]), resume=resume)
    assert summary is not None
    return summary


@pytest.mark.parametrize("sets", [[], LORA], ids=["whole", "lora"])
def test_trains_resumes_and_evaluates(sets: list[str], folder: Path, tmp_path: Path) -> None:
    summary = run(tmp_path / "run", folder, *sets)
    assert summary["steps"] == 2
    assert summary["cost"]["rollouts_total"] == 24
    whole, weights = timeless(tmp_path / "run"), (tmp_path / "run/final/model.safetensors").read_bytes()
    assert any(line["grad_norm"] > 0 for line in whole)
    assert whole[0]["sampling/logp_difference_max"] < 1e-4
    shutil.rmtree(tmp_path / "run/checkpoints/step-000002")
    run(tmp_path / "run", folder, *sets, resume=True)
    assert timeless(tmp_path / "run") == whole
    assert (tmp_path / "run/final/model.safetensors").read_bytes() == weights
    before, after = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "run/final"))
    assert before.keys() == after.keys()
    assert any(np.abs(before[name] - after[name]).max() > 1e-4 for name in before)


def test_scores_and_evaluates_from_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in (
        ["score-ppl", "embedded", "--limit", "5", "--model", str(folder), "--output", str(tmp_path / "s.jsonl")],
        ["eval", "--model", str(folder), "--limit", "3", "--k", "2", "--max-completion-length", "8",
         "--output-dir", str(tmp_path / "e")],
    ):  # fmt: skip
        with pytest.raises(SystemExit) as end:
            main([*arguments, "--json"])
        assert not end.value.code, capsys.readouterr().err
    capsys.readouterr()
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    policy = load_policy(ModelConfig(model_name_or_path=str(folder)))
    for row in rows[:2]:
        rendered = Renderer(policy.tokenizer)([{"role": "user", "content": row["prompt"]}])
        logprobs, _ = naive_scores(policy.model, rendered.token_ids, *rendered.question_span, 1.0)
        assert row["ppl"] == pytest.approx(np.exp(-np.mean(logprobs)), rel=1e-4)
        assert row["ppl_tokens"] == len(logprobs)


def test_greedy_answers_are_generates_own(folder: Path) -> None:
    """Each family's cache, sliding window, caps and several end tokens."""
    policy = load_policy(ModelConfig(model_name_or_path=str(folder)))
    rendered = Renderer(policy.tokenizer)([{"role": "user", "content": QUESTION}])
    ours = HfEngine(policy, 10_000).generate([Request(rendered.token_ids, [0], 0.0, 24)])[0][0]
    theirs = policy.model.generate(
        torch.tensor([rendered.token_ids]),
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=sorted(policy.eos_token_ids),
    )[0, len(rendered.token_ids) :]
    assert ours.token_ids == theirs.tolist()


def test_the_question_is_found_in_the_families_templates(folder: Path) -> None:
    tokenizer = load_model_spec(ModelConfig(model_name_or_path=str(folder))).tokenizer
    start, end = (rendered := Renderer(tokenizer)([{"role": "user", "content": QUESTION}])).question_span
    assert tokenizer.decode(rendered.token_ids[start:end]) == QUESTION
    own = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_dict=False
    )
    assert rendered.token_ids == own


def test_the_model_spec_agrees_with_the_loaded_model(folder: Path) -> None:
    config = ModelConfig(model_name_or_path=str(folder))
    policy, spec = load_policy(config), load_model_spec(config)
    assert spec.eos_token_ids == policy.eos_token_ids
    assert len(policy.eos_token_ids) == (1 if folder.name == "qwen3" else 2)
    assert spec.max_context == policy.max_context == 512
    assert policy.pad_token_id < policy.vocab_size


def test_adapters_alone_are_saved_and_the_export_is_merged(folder: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", folder, *LORA)
    saved = tmp_path / "run/checkpoints/step-000002/model"
    assert sorted(path.name for path in saved.iterdir() if path.suffix == ".safetensors") == [
        "adapter_model.safetensors"
    ]
    assert all("lora_" in name for name in load_file(saved / "adapter_model.safetensors"))
    config = ModelConfig(model_name_or_path=str(folder), use_peft=True, lora_r=4)
    adapted = load_policy(config, train=True, adapters=saved)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "run/final")
    base = load_policy(ModelConfig(model_name_or_path=str(folder)))
    ids = torch.arange(5, 35)[None]
    with torch.no_grad():
        ours, theirs = adapted.model(ids).logits, merged(ids).logits
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
        assert (ours - base.model(ids).logits).abs().max() > 1e-3
        with adapted.adapter.disable_adapter():  # the reference of the KL
            torch.testing.assert_close(adapted.model(ids).logits, base.model(ids).logits)
    alone = tmp_path / "run/final/adapter"
    assert sorted(path.name for path in alone.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert {f"adapter/{path.name}" for path in alone.iterdir()} <= set(listed(alone.parent))
    assert json.loads((alone / "adapter_config.json").read_text())["base_model_name_or_path"] == str(folder)
    with torch.no_grad():
        loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(alone))
        torch.testing.assert_close(loaded(ids).logits, theirs, atol=1e-4, rtol=1e-4)
    by_name = dict(adapted.named_weights())
    hub_names = set(AutoModelForCausalLM.from_pretrained(folder).state_dict())
    assert by_name.keys() == hub_names
    assert "lm_head.weight" in by_name


def test_the_kl_of_a_lora_run_is_to_the_model_without_adapters(folder: Path, tmp_path: Path) -> None:
    run(tmp_path / "run", folder, *LORA, "training.total_steps=3")
    kl = [line["kl"] for line in timeless(tmp_path / "run")]
    assert kl[0] == pytest.approx(0, abs=1e-6)
    assert kl[-1] > 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_generates_and_scores(dtype: str, folder: Path) -> None:
    half, exact = (load_policy(ModelConfig(model_name_or_path=str(folder), dtype=d)) for d in (dtype, "float32"))
    ids = list(range(3, 40))
    (ours, _), (theirs, _) = (p.score([ids], [(5, 37)], [1.0], 999)[0] for p in (half, exact))
    assert np.abs(ours - theirs).mean() < 0.1
    groups = HfEngine(half, 999).generate([Request(ids, [1, 2, 3], 1.0, 6)])
    assert all(np.isfinite(rollout.logprobs).all() for rollout in groups[0])


def test_training_float16_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float16"):
        resolve(sets=["model.dtype=float16", f"output_dir={tmp_path}"])


@pytest.mark.parametrize("sets", [["model.gradient_checkpointing=true"], ["model.attn_implementation=eager"],
                                  ["model.dtype=bfloat16"], ["training.mixed_precision=bf16"]], ids=str)  # fmt: skip
def test_ways_to_compute(sets: list[str], tmp_path: Path) -> None:
    model = save_architecture("qwen3", tmp_path / "qwen3")
    plain, other = run(tmp_path / "plain", model), run(tmp_path / "other", model, *sets)
    assert other["cost"]["rollouts_total"] == plain["cost"]["rollouts_total"]
    if not any("bf" in item for item in sets):
        first, second = timeless(tmp_path / "plain")[0], timeless(tmp_path / "other")[0]
        assert second["grad_norm"] == pytest.approx(first["grad_norm"], rel=1e-4)


def test_thinking_can_be_turned_off(tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(save_architecture("qwen3", tmp_path / "qwen3"))
    message = [{"role": "user", "content": QUESTION}]
    off = Renderer(tokenizer, template_kwargs={"enable_thinking": False})(message)
    assert tokenizer.decode(off.token_ids).endswith("assistant\n<think>\n\n</think>\n\n")
    on = Renderer(tokenizer)(message)
    assert tokenizer.decode(on.token_ids).endswith("assistant\n")
    assert off.question_span == on.question_span
    config = resolve(sets=["data.chat_template_kwargs.enable_thinking=false"])
    assert config.data.chat_template_kwargs == {"enable_thinking": False}


def test_a_template_that_refuses_the_system_prompt_is_one_line(tmp_path: Path) -> None:
    model = save_architecture("gemma2", tmp_path / "gemma2")
    with pytest.raises(UsageError, match=r"chat template rejects .*no system role"):
        run(tmp_path / "run", model, "data.system_prompt=Be brief.")


def test_wrong_lora_layers_are_one_line(tmp_path: Path) -> None:
    model = save_architecture("qwen2", tmp_path / "qwen2")
    with pytest.raises(UsageError, match=r"lora_target_modules.*nowhere"):
        run(tmp_path / "a", model, "model.use_peft=true", "model.lora_target_modules=[nowhere]")
    with pytest.raises(UsageError, match="embed_tokens' is not a linear layer"):
        run(tmp_path / "b", model, "model.use_peft=true", "model.lora_target_modules=[embed_tokens]")
