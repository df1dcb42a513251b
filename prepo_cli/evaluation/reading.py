"""Reads rollouts as they finish: decodes them and has the judge begin, while the engine goes on generating."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from prepo_cli.engines.base import Rollout


class Begins(Protocol):
    """A judge that can begin with a completion before it is asked for all."""

    def begin(self, completion: str, answer: Any) -> None:
        """Begin to judge a completion against its gold answer, None if there is none."""
        ...


class Reader:
    """An engine's `Finished` for requests with these gold answers, each None if there is none."""

    def __init__(self, decode: Callable[[list[int]], str], judge: Begins, answers: Sequence[Any]) -> None:
        self._decode, self._judge, self._answers = decode, judge, answers
        self._texts: dict[tuple[int, int], str] = {}

    def __call__(self, request: int, number: int, rollout: Rollout) -> None:
        """Read a rollout."""
        text = self._texts[request, number] = self._decode(rollout.token_ids)
        self._judge.begin(text, self._answers[request])

    def texts(self, groups: Sequence[Sequence[Rollout]]) -> list[list[str]]:
        """The texts of all rollouts; those that the engine reported only by returning them are decoded now."""
        return [
            [self._texts.get((r, n)) or self._decode(rollout.token_ids) for n, rollout in enumerate(group)]
            for r, group in enumerate(groups)
        ]
