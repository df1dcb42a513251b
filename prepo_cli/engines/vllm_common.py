"""What both vLLM engines share: supported versions, how a request becomes a vLLM job, and how the answer is read.

Every sampling setting is sent explicitly, because vLLM otherwise takes top-k, penalties and end tokens from the
model's generation config. `ignore_eos`, with the policy's end tokens as stop tokens, makes vLLM stop at exactly those.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from prepo_cli.engines.base import Finished, Request, Rollout
from prepo_cli.errors import RunError, UsageError

TESTED = "0.32.0"
OLDEST, FIRST_UNKNOWN = (0, 28), (0, 33)
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0
"""vLLM silently raises lower temperatures to the first and rejects those above the second."""
_SEEDS = 2**62
"""Seeds are reduced to [0, 2^62): vLLM's are signed 64-bit integers, and rollout i of a request uses the seed + i."""


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt with its sampling settings, by the names that `SamplingParams` and `/v1/completions` share."""

    prompt_ids: Sequence[int]
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Completion:
    """One completion as vLLM returns it."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class Answer:
    """vLLM's answer: completions, or with `SCORING_SETTINGS` the log-probs of every prompt token but the first."""

    completions: Sequence[Completion]
    prompt_logprobs: Sequence[float] = ()


OnAnswer = Callable[[int, Answer], None]
"""Called with a job's number and its answer."""


class VllmBase(ABC):
    """Checks requests, has vLLM answer them, and reads the answers; subclasses say how vLLM is reached.

    Args:
        eos_token_ids: all tokens that end a rollout.
        max_model_len: tokens that a prompt and its completion may take together.
    """

    shares_weights: ClassVar[bool] = False
    exact_logprobs: ClassVar[bool] = False
    scores_prompts: ClassVar[bool] = True

    def __init__(self, eos_token_ids: frozenset[int], max_model_len: int) -> None:
        self._eos_token_ids, self._max_model_len = eos_token_ids, max_model_len

    def generate(self, requests: Sequence[Request], finished: Finished | None = None) -> list[list[Rollout]]:
        """The rollouts of each request, in the order of its seeds."""
        check_requests(requests, self._max_model_len)
        sent = [r for r, request in enumerate(requests) if request.seeds]
        results: list[list[Rollout]] = [[] for _ in requests]

        def store(job: int, answer: Answer) -> None:
            r = sent[job]
            results[r] = read_rollouts(requests[r], answer.completions, self._eos_token_ids)
            if finished is not None:
                for number, rollout in enumerate(results[r]):
                    finished(r, number, rollout)

        self._answer(
            [Job(requests[r].prompt_ids, sampling_settings(requests[r], self._eos_token_ids)) for r in sent], store
        )
        return results

    def prompt_logprobs(self, rows: Sequence[Sequence[int]]) -> list[npt.NDArray[np.float32]]:
        """Log-probs at temperature 1 of every token of each row except its first."""
        scores = [np.empty(0, dtype=np.float32) for _ in rows]
        sent = [i for i, row in enumerate(rows) if len(row) > 1]
        for i in sent:
            check_length(len(rows[i]), 1, self._max_model_len)

        def store(job: int, answer: Answer) -> None:
            scores[sent[job]] = read_prompt_logprobs(answer.prompt_logprobs, rows[sent[job]])

        self._answer([Job(rows[i], SCORING_SETTINGS) for i in sent], store)
        return scores

    @abstractmethod
    def _answer(self, jobs: Sequence[Job], on_answer: OnAnswer) -> None:
        """Have vLLM answer all jobs and pass each answer on as it arrives; leave nothing running after an error."""


def check_version(version: str, whose: str) -> None:
    """Reject a vLLM outside the range of versions whose interfaces are known; only `TESTED` has been tested.

    Raises:
        UsageError: with the version and the cure.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    found = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if not OLDEST <= found < FIRST_UNKNOWN:
        low, high = (".".join(map(str, bound)) for bound in (OLDEST, FIRST_UNKNOWN))
        raise UsageError(f"{whose} is vLLM {version}, but prepo needs vllm>={low},<{high}; install vllm=={TESTED}")


def check_requests(requests: Sequence[Request], max_model_len: int) -> None:
    """Reject what vLLM would reject, or would silently change.

    Raises:
        UsageError: an empty prompt, more tokens than the context holds, or a temperature out of range.
    """
    for request in requests:
        t = request.temperature
        if t != 0 and not MIN_TEMPERATURE <= t <= MAX_TEMPERATURE:
            raise UsageError(
                f"temperature {t:g}: vLLM accepts 0, or {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}; choose another "
                "temperature or --engine hf"
            )
        check_length(len(request.prompt_ids), request.max_tokens, max_model_len)


def check_length(prompt: int, new: int, max_model_len: int) -> None:
    """Reject a prompt that is empty or leaves no room for its completion; raises UsageError."""
    if prompt == 0:
        raise UsageError("vLLM can't complete an empty prompt; check the prompt column")
    if prompt + new > max_model_len:
        raise UsageError(
            f"a prompt of {prompt} plus {new} new tokens exceeds vLLM's context of "
            f"{max_model_len}; raise engine.vllm_max_model_length (server: --max-model-len) or "
            "lower the length limits"
        )


def sampling_settings(request: Request, eos_token_ids: frozenset[int]) -> dict[str, Any]:
    """A request's settings. vLLM rejects n > 1 for greedy requests, so `read_rollouts` repeats the one completion."""
    return {
        "n": 1 if request.temperature == 0 else len(request.seeds),
        "seed": request.seeds[0] % _SEEDS,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "max_tokens": request.max_tokens,
        "stop_token_ids": sorted(eos_token_ids),
        "ignore_eos": True,
        "logprobs": 0,
    }


SCORING_SETTINGS: dict[str, Any] = {"n": 1, "temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}
"""Settings of a job that only needs its prompt's log-probs; vLLM always generates at least one token."""


def read_rollouts(request: Request, completions: Iterable[Completion], eos_token_ids: frozenset[int]) -> list[Rollout]:
    """A request's rollouts. vLLM reports no entropies.

    Raises:
        RunError: vLLM aborted a completion, or ended it at a token that does not end the policy's turn.
    """
    rollouts = []
    for completion in completions:
        token_ids, reason = list(completion.token_ids), completion.finish_reason
        ended = reason == "stop" and bool(token_ids) and token_ids[-1] in eos_token_ids
        if not ended and reason != "length":
            last = token_ids[-1] if token_ids else "none"
            raise RunError(
                f"vLLM ended a rollout after {len(token_ids)} tokens (finish reason {reason}, last token {last}); "
                "continue with --resume"
            )
        rollouts.append(Rollout(token_ids, np.array(completion.logprobs, dtype=np.float32), None, not ended))
    return rollouts * len(request.seeds) if request.temperature == 0 else rollouts


def read_prompt_logprobs(logprobs: Sequence[float], row: Sequence[int]) -> npt.NDArray[np.float32]:
    """Log-probs of every token of a row but the first; raises RunError if some are missing."""
    if len(logprobs) != len(row) - 1:
        raise RunError(f"vLLM scored {len(logprobs)} of {len(row) - 1} prompt tokens; use --engine hf")
    return np.array(logprobs, dtype=np.float32)
