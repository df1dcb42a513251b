"""Keep the text of messages text: `<|im_end|>` in a prompt must not end the user's turn.

Tokenizers turn the text of a control token into the token wherever it stands, in the template's part of a rendered
prompt or in a message. So where messages hold such text, it is broken by a mark before the template is rendered, which
tells one from the other; the prompt is tokenized without the marks, and each token that a message's text became is
replaced by the tokens of its text. Everything else keeps its tokens, and prompts without such text take no detour.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

MARK = "\ue001"
"""A private-use character."""
CONTEXTS = ("\n", "", "a", "1")
"""Text before a token's text: without any, some tokenizers put a space before it."""


@dataclass(frozen=True)
class Encoded:
    """Token ids, and the characters [start, end) that each stands for."""

    ids: list[int]
    offsets: list[tuple[int, int]]


class ControlTokens:
    """The tokens that steer a chat: all special ones, and others that the template writes itself."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        template = str(tokenizer.chat_template or "")
        added = {i: token for i, token in tokenizer.added_tokens_decoder.items() if len(token.content.strip()) > 1}
        self._special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self._texts = {i: t.content for i, t in added.items() if i in self._special or t.content in template}
        longest_first = sorted(self._texts.values(), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._control = self._texts.keys() - {tokenizer.unk_token_id}  # text may be unknown
        self._as_text = lru_cache(maxsize=1024)(self._tokens_of_text)

    def broken(self, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]] | None:
        """The messages with every control token's text broken by a mark; None if they hold none."""
        if not any(self._pattern.search(text) for message in messages for text in message.values()):
            return None
        return [{key: self._broken(text) for key, text in message.items()} for message in messages]

    def encode(self, text: str, add_special_tokens: bool) -> Encoded:
        """Token ids of a rendered prompt whose messages hold no control tokens."""
        encoded = self._tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=True)
        return Encoded(list(encoded["input_ids"]), list(encoded["offset_mapping"]))

    def encode_marked(self, marked: str, add_special_tokens: bool) -> Encoded:
        """Token ids of a rendered prompt without its marks; the texts that they broke become no control tokens."""
        text, breaks = "", set[int]()
        for piece in marked.split(MARK):
            breaks.add(len(text))
            text += piece
        written = {i for i, content in self._texts.items() if i in self._special or content in marked}
        whole = self.encode(text, add_special_tokens)
        ids, offsets = list[int](), list[tuple[int, int]]()
        for token, (start, end) in zip(whole.ids, whole.offsets, strict=True):
            from_message = token in written and not breaks.isdisjoint(range(start + 1, end))
            found = self._as_text(text[start:end]) if from_message else (token,)
            ids += found
            offsets += [(start, end)] * len(found)
        return Encoded(ids, offsets)

    def _broken(self, text: str) -> str:
        text = text.replace(MARK, "")
        while self._pattern.search(text):
            text = self._pattern.sub(lambda found: found[0][0] + MARK + found[0][1:], text)
        return text

    def _tokens_of_text(self, text: str) -> tuple[int, ...]:
        """Tokens of a control token's text, none of them a control token."""
        for context in CONTEXTS:
            encoded = self._tokenizer(
                context + text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
            )
            tokens = list(zip(encoded["input_ids"], encoded["offset_mapping"], strict=True))
            border = all(end <= len(context) or start >= len(context) for _, (start, end) in tokens)
            ids = tuple(token for token, (start, _) in tokens if start >= len(context))
            if border and not self._control.intersection(ids):
                return ids
        # The text itself is in the vocabulary, or an added token that isn't special.
        return self._as_text(text[:1]) + self._as_text(text[1:])
