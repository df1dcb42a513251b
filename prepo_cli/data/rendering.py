"""Render prompts with the chat template to token ids, and locate the question among them.

The template is rendered to text, the last user message is located in that text, and the tokenizer's character offsets
give the tokens that cover it. Messages are tokenized as text, whatever they hold (control_tokens.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from prepo_cli.data.control_tokens import MARK, ControlTokens
from prepo_cli.errors import UsageError

Message = Mapping[str, str]
_MARK = "\ue000"  # a private-use character: absent from templates and from practically all prompts
CHARS_PER_TOKEN, MARGIN = 8, 64
"""Where looking for prompts that are too long starts, and how many tokens a cut may change."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt's token ids and the range [start, end) of its question's tokens."""

    token_ids: list[int]
    question_span: tuple[int, int]

    def scored_span(self, scope: str) -> tuple[int, int]:
        """The tokens whose perplexity counts: the question's, or all; also all if the question has none to score."""
        start, end = self.question_span
        # Nothing predicts the first token of a prompt.
        return self.question_span if scope == "question" and end > max(start, 1) else (0, len(self.token_ids))


class Renderer:
    """Renders chat messages with the tokenizer's chat template and generation prompt, or as plain text without one."""

    def __init__(
        self, tokenizer: Any, system_prompt: str | None = None, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise UsageError(
                f"{type(tokenizer).__name__} has no character offsets, which are needed to locate "
                "the question; use a model with a tokenizer.json"
            )
        self.tokenizer, self.system_prompt = tokenizer, system_prompt
        self.template_kwargs = dict(template_kwargs or {})
        self._control = ControlTokens(tokenizer)

    def __call__(self, messages: Sequence[Message]) -> Rendered:
        """Token ids and question span of a conversation that ends with the user's question."""
        if self.system_prompt is not None:
            messages = [{"role": "system", "content": self.system_prompt}, *messages]
        broken = self._control.broken(messages)
        messages = messages if broken is None else broken
        last_user = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=len(messages) - 1)
        text = self._text(messages)
        start = self._question_start(messages, last_user, text)
        end = start + len(messages[last_user]["content"].strip())
        if broken is None:
            encoded = self._control.encode(text, not self._templated)
        else:
            encoded = self._control.encode_marked(text, not self._templated)
            start, end = (at - text.count(MARK, 0, at) for at in (start, end))
        inside = [i for i, (a, b) in enumerate(encoded.offsets) if a < end and b > start]
        span = (inside[0], inside[-1] + 1) if inside else (0, 0)
        return Rendered(encoded.ids, span)

    def is_longer(self, messages: Sequence[Message], limit: int) -> bool:
        """Whether a long prompt has more tokens than `limit`, found in starts of its longest message.

        Rendering and tokenizing a prompt of megabytes takes seconds. False means that it may still be too long.
        """
        text = max(
            (message["content"].strip() for message in messages if message["role"] != "assistant"), key=len, default=""
        )
        size = CHARS_PER_TOKEN * (limit + MARGIN)
        while size < len(text):
            if len(self.tokenizer(text[:size], add_special_tokens=False)["input_ids"]) > limit + MARGIN:
                return True
            size *= 4
        return False

    @property
    def _templated(self) -> bool:
        return bool(self.tokenizer.chat_template)

    def _text(self, messages: Sequence[Message]) -> str:
        if not self._templated:
            return "\n\n".join(message["content"] for message in messages)
        try:
            rendered = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **self.template_kwargs
            )
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UsageError(
                f"the model's chat template rejects messages with roles {roles} ({error}); use only roles that "
                "it accepts"
            ) from error
        return str(rendered)

    def _question_start(self, messages: Sequence[Message], last_user: int, text: str) -> int:
        """The question's position in `text`; where it is there twice, a second rendering, with a mark, tells which."""
        question = messages[last_user]["content"].strip()
        if 0 <= (first := text.find(question)) == text.rfind(question):
            return first
        marked = [dict(message) for message in messages]
        marked[last_user]["content"] = _MARK + question
        start = self._text(marked).find(_MARK + question)
        if start < 0 or not text.startswith(question, start):
            start = text.rfind(question)
        if start < 0:
            raise UsageError(
                "the question can't be located because the chat template changes the user's "
                "message; score the whole prompt with scope=prompt (score-ppl: --scope prompt)"
            )
        return start
