"""What both vLLM engines share: the versions that work, how a request is put to vLLM, and how its answer is read.

Every sampling setting is given explicitly, since vLLM otherwise takes top-k, penalties and end tokens from the model's
generation config. `ignore_eos` with the policy's end tokens as stop tokens makes it stop at exactly those, and at no
other.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.engines.base import Request, Rollout
from prepo_cli.errors import RunError, UsageError

TESTED = "0.32.0"
OLDEST, FIRST_UNKNOWN = (0, 28), (0, 33)
MIN_TEMPERATURE, MAX_TEMPERATURE = 0.01, 2.0
"""vLLM silently raises lower temperatures to the first and refuses those above the second."""
_SEEDS = 2**62
"""Seeds are reduced to [0, 2^62): vLLM's are signed 64-bit, and rollout i of a request gets the seed + i."""


def check_version(version: str, whose: str) -> None:
    """Refuse a vLLM outside the range whose interfaces are known; only `TESTED` was tested.

    Raises:
        UsageError: naming the version and the cure.
    """
    numbers = re.match(r"(\d+)\.(\d+)", version)
    found = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
    if not OLDEST <= found < FIRST_UNKNOWN:
        low, high = (".".join(map(str, bound)) for bound in (OLDEST, FIRST_UNKNOWN))
        raise UsageError(f"{whose} is vLLM {version}; prepo works with {low} up to {high}: install vllm=={TESTED}")


def check_requests(requests: Sequence[Request], max_model_len: int) -> None:
    """Refuse what vLLM would refuse, or would change without a word.

    Raises:
        UsageError: empty prompt, more tokens than the context holds, or a temperature out of range.
    """
    for request in requests:
        t = request.temperature
        if t != 0 and not MIN_TEMPERATURE <= t <= MAX_TEMPERATURE:
            raise UsageError(
                f"temperature {t:g}: vLLM takes 0 or {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}; choose another one or "
                "--engine hf"
            )
        check_length(len(request.prompt_ids), request.max_tokens, max_model_len)


def check_length(prompt: int, new: int, max_model_len: int) -> None:
    """Refuse a prompt that is empty or leaves no room for its completion; raises UsageError."""
    if prompt == 0:
        raise UsageError("vLLM can't complete an empty prompt; check the prompt column")
    if prompt + new > max_model_len:
        raise UsageError(
            f"a prompt of {prompt} tokens and {new} new ones exceed vLLM's context of {max_model_len}; raise "
            "engine.vllm_max_model_length (a server's --max-model-len) or lower the length limits"
        )


def sampling_fields(request: Request, eos_token_ids: frozenset[int]) -> dict[str, Any]:
    """Sampling settings by the names that `SamplingParams` and `/v1/completions` have in common.

    A greedy request is asked for once (vLLM refuses more); `rollouts` repeats it.
    """
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


def scoring_fields() -> dict[str, Any]:
    """Settings of a request that is after its prompt's log-probs alone."""
    return {"n": 1, "temperature": 0.0, "max_tokens": 1, "prompt_logprobs": 0}


def rollouts(
    request: Request,
    answers: Iterable[tuple[Sequence[int], Sequence[float], str | None]],
    eos_token_ids: frozenset[int],
) -> list[Rollout]:
    """Rollouts from vLLM's token ids, log-probs and finish reasons.

    Raises:
        RunError: vLLM gave up on a rollout, or ended it at a token that doesn't end the policy's turn.
    """
    made = []
    for ids, logprobs, reason in answers:
        token_ids = list(ids)
        whole = reason == "length" or (reason == "stop" and token_ids and token_ids[-1] in eos_token_ids)
        if not whole:
            last = token_ids[-1] if token_ids else "none"
            raise RunError(
                f"vLLM ended a rollout after {len(token_ids)} tokens ({reason}, last token {last}); --resume"
            )
        made.append(Rollout(token_ids, np.array(logprobs, dtype=np.float32), None, reason == "length"))
    return made * len(request.seeds) if request.temperature == 0 else made


def prompt_array(logprobs: Sequence[float], row: Sequence[int]) -> npt.NDArray[np.float32]:
    """Log-probs of every token of a row but the first; raises RunError if some are missing."""
    if len(logprobs) != len(row) - 1:
        raise RunError(f"vLLM scored {len(logprobs)} of {len(row) - 1} prompt tokens; use --engine hf")
    return np.array(logprobs, dtype=np.float32)
