"""A run whose rollouts are fixed: started by launching.replay in one process or several.

Usage: python -m tests.training.replayed SETTINGS.json
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from prepo_cli.config import resolve
from prepo_cli.engines.base import Finished, Request, Rollout
from prepo_cli.policy import output_matrix
from prepo_cli.training import build, train
from strategies.types import derive_seed


class Replay:
    """Answers that depend on the seeds alone, of very different lengths, right now and then."""

    shares_weights = exact_logprobs = True
    serves_all = scores_prompts = False

    def __init__(self, policy: Any) -> None:
        self.tokenizer = policy.tokenizer
        self.eos = min(policy.eos_token_ids)

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        return [[self._answer(request, seed) for seed in request.seeds] for request in requests]

    def _answer(self, request: Request, seed: int) -> Rollout:
        rng = np.random.default_rng(seed)
        rate = derive_seed("rate", *request.prompt_ids) / 2**63
        text = "7 + 1 = 8. " * int(rng.integers(0, 6)) + f"\\boxed{{{0 if rng.random() < rate else 1}}}"
        ids = [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.eos]
        entropies = rng.random(len(ids)).astype(np.float32)
        return Rollout(ids, -rng.random(len(ids)).astype(np.float32), entropies, truncated=False)

    def sync(self, weights: Iterable[Any]) -> None:
        """Nothing to take over."""

    def sleep(self) -> None:
        """Nothing is held."""

    def close(self) -> None:
        """Nothing is held."""


def main(argv: Sequence[str]) -> None:
    [file] = argv
    settings = json.loads(Path(file).read_text(encoding="utf-8"))
    zero = "ACCELERATE_USE_DEEPSPEED" in os.environ
    output_matrix.CHUNK_ELEMENTS = settings["chunk_elements"] or output_matrix.CHUNK_ELEMENTS
    build.build_engine = lambda config, policy, *parts, **options: Replay(policy)
    train.train(resolve(sets=settings["sets"]), resume=settings["resume"])
    assert ("deepspeed" in sys.modules) is zero, "only the runs that use DeepSpeed import it"


if __name__ == "__main__":
    main(sys.argv[1:])
