"""Fakes that answer sums: a dataset of 'a+b', a tokenizer of code points, and an engine that is right at times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np

from prepo_cli.engines.base import Finished, Request, Rollout
from strategies.types import Prompt

EOS = 0
CUT = "let me think about this sum, it is a hard one; " * 2
"""A completion cut off: so long that no worker process needs to look whether it is a bare answer."""


@dataclass
class Sums:
    """Prompts 'a+b' with their sums; every third is of source 'hard', and the others of 'easy'."""

    size: int
    name: str = "sums"
    notes: tuple[str, ...] = ("made up",)

    def __len__(self) -> int:
        return self.size

    def prompt(self, row: int) -> Prompt:
        return Prompt(row, f"sum-{row}", "hard" if row % 3 == 0 else "easy")

    def question(self, row: int) -> str:
        return f"{row}+{row * row}"

    def given(self, row: int) -> str:
        return self.question(row)

    def messages(self, row: int) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.question(row)}]

    def answer(self, row: int) -> str:
        return str(row + row * row)

    def fields(self, row: int) -> dict[str, Any]:
        return {"level": row, "answer": self.answer(row)}


class Characters:
    """A tokenizer of code points, in which 0 ends the text."""

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = False) -> str:
        return "".join(map(chr, token_ids)).replace(chr(EOS), "" if skip_special_tokens else "<eos>")


class CharacterRenderer:
    """Renders messages as the code points of the last one; `asked` are those rendered so far."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, messages: list[dict[str, str]]) -> Any:
        self.asked.append(messages[-1]["content"])
        token_ids = [ord(character) for character in messages[-1]["content"]]
        return SimpleNamespace(token_ids=token_ids, question_span=(0, len(token_ids)))

    def is_longer(self, messages: list[dict[str, str]], limit: int) -> bool:
        return len(messages[-1]["content"]) > 10 * limit


@dataclass
class SumEngine:
    """Answers by seed alone: right with probability `skill`, else one too much, or nothing at all, cut off."""

    skill: float = 0.6
    before: Callable[[int], None] = lambda call: None
    calls: list[list[Request]] = field(default_factory=list)
    closed: bool = False

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        self.before(len(self.calls))
        self.calls.append(list(requests))
        groups = [[self._answer(request, seed) for seed in request.seeds] for request in requests]
        if finished is not None:
            for r, group in enumerate(groups):
                for number, rollout in enumerate(group):
                    finished(r, number, rollout)
        return groups

    def sync(self, model: Any) -> None:
        """Nothing to take over."""

    def close(self) -> None:
        self.closed = True

    def _answer(self, request: Request, seed: int) -> Rollout:
        total = sum(map(int, "".join(map(chr, request.prompt_ids)).split("+")))
        draw = np.random.default_rng(seed).random()
        cut = draw > 0.9
        text = CUT if cut else f"\\boxed{{{total if draw < self.skill else total + 1}}}"
        token_ids = [ord(character) for character in text] + ([] if cut else [EOS])
        return Rollout(token_ids, np.zeros(len(token_ids), dtype=np.float32), None, cut)
