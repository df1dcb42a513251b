"""The question is located in every template and with every kind of tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from prepo_cli.config import ASSETS
from prepo_cli.data.rendering import Renderer
from prepo_cli.errors import UsageError
from prepo_cli.policy.loading import load_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ '<s>' }}{% for m in messages %}[{{ m.role }}] {{ m.content | trim }} [/]{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CORPUS = ["What is the sum of numbers? user assistant system Answer briefly.", "Find x 12 34 naïve café 日本"] * 20


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=special)
    )
    return tokenizer


def sentencepiece_like() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(
        [*CORPUS, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789?.,+-=*/[]()\n"],
        trainers.UnigramTrainer(vocab_size=150, special_tokens=special, unk_token="<unk>"),
    )
    return tokenizer


def make(kind: str, template: str | None) -> Any:
    if kind == "embedded":
        return load_tokenizer(str(ASSETS / "model"))
    backend = byte_level() if kind == "bytes" else sentencepiece_like()
    unk = None if kind == "bytes" else "<unk>"
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, chat_template=template, bos_token="<s>", unk_token=unk, eos_token="<|im_end|>"
    )


TOKENIZERS = {
    (kind, name): make(kind, template)
    for kind in ("bytes", "pieces")
    for name, template in (("chatml", CHATML), ("llama", LLAMA), ("plain", None))
} | {("embedded", "chatml"): make("embedded", None)}


def shown(tokenizer: Any, question: str, system: str | None = None, before: Any = ()) -> str:
    rendered = Renderer(tokenizer, system)([*before, {"role": "user", "content": question}])
    start, end = rendered.question_span
    return str(tokenizer.decode(rendered.token_ids[start:end]))


@pytest.mark.parametrize("key", TOKENIZERS, ids="-".join)
@pytest.mark.parametrize(
    "question", ["What is the sum of 12 and 34?", "user", "assistant", "  Find x  ", "a\nb", "system user", "Find"]
)
def test_the_span_holds_the_question(key: tuple[str, str], question: str) -> None:
    tokenizer = TOKENIZERS[key]
    text = shown(tokenizer, question, system="Answer: user assistant. " + question)
    assert question.strip() in text or text.strip() == question.strip()
    assert len(text.strip()) <= len(question.strip()) + 2


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Co"]), min_size=1).filter(lambda t: t.strip()))
def test_any_text_is_found_with_bytes(question: str) -> None:
    text = shown(TOKENIZERS["bytes", "chatml"], question, system=question)
    assert question.strip() in text or "�" in text


@pytest.mark.parametrize(
    ("before", "question", "times"),
    [("Answer briefly.", "Find x", 1), ("Find x", "Find x", 2), ("a", "aXaXa", 1), ("aXaX", "aXa", 2)],
    ids=["once", "twice", "partly", "overlapping"],
)
def test_a_second_rendering_only_where_text_repeats(
    monkeypatch: pytest.MonkeyPatch, before: str, question: str, times: int
) -> None:
    tokenizer = make("bytes", "{% for m in messages %}{{ m.content }}{% endfor %}")
    render, calls = tokenizer.apply_chat_template, list[Any]()
    monkeypatch.setattr(tokenizer, "apply_chat_template", lambda *a, **k: calls.append(a) or render(*a, **k))
    rendered = Renderer(tokenizer)([{"role": "system", "content": before}, {"role": "user", "content": question}])
    start, end = rendered.question_span
    assert tokenizer.decode(rendered.token_ids[:end]) == before + question
    assert question in tokenizer.decode(rendered.token_ids[start:end])
    assert len(calls) == times


def test_multi_turn_scores_the_last_question() -> None:
    before = [{"role": "user", "content": "Find x"}, {"role": "assistant", "content": "Find x"}]
    rendered = Renderer(TOKENIZERS["bytes", "chatml"])([*before, {"role": "user", "content": "Find x"}])
    assert rendered.question_span[0] > len(rendered.token_ids) / 2


def test_special_tokens_are_not_added_twice() -> None:
    tokenizer = TOKENIZERS["bytes", "llama"]
    ids = Renderer(tokenizer)([{"role": "user", "content": "Find x"}]).token_ids
    assert ids.count(tokenizer.bos_token_id) == 1


def test_ids_are_those_of_the_template() -> None:
    tokenizer = TOKENIZERS["embedded", "chatml"]
    messages = [{"role": "user", "content": "What is 2 + 2?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert Renderer(tokenizer)(messages).token_ids == expected


def test_a_tokenizer_without_offsets_is_refused() -> None:
    class Slow:
        is_fast = False

    with pytest.raises(UsageError, match="Slow has no character offsets"):
        Renderer(Slow())


def test_a_template_that_hides_the_question_is_refused() -> None:
    tokenizer = make("bytes", "{{ 'always the same' }}")
    with pytest.raises(UsageError, match="chat template"):
        Renderer(tokenizer)([{"role": "user", "content": "Find x"}])
