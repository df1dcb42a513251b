"""The user's own reward functions, run in worker processes: limits on each call, and handling of failures.

A function over whole lists is called once, in the first worker, which keeps what the module holds (a model, a cache)
from call to call. A function of one completion is called for each, in all workers. With `rewards.on_error` zero or
skip, a call over lists that fails is repeated on halves until the completions at fault are found; one that takes too
long, on single completions, which have shorter time-outs.
"""

from __future__ import annotations

import codecs
import math
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.errors import RunError, UsageError
from prepo_cli.rewards.calls import LOGGERS, Signature
from prepo_cli.rewards.messages import Prompt, as_text, reply
from prepo_cli.rewards.pool import Call, Lost, Outcome, StartError, WorkerPool
from prepo_cli.rewards.wire import encode
from prepo_cli.rewards.worker import Role
from prepo_cli.sections import RewardConfig
from prepo_cli.terminal import say
from prepo_cli.text import plain
from strategies.own_code import OwnCodeError, import_fault, located

LATEST_CALLS = 16
"""If more than half of so many calls in a row are lost, the run stops instead of going on at that pace."""
TEXTS = ("prompt", "completion", "prompts", "completions")
"""Arguments that are no columns, as in TRL."""
TOKEN_IDS = "completion_ids"
PRINTED_BYTES = 8192
"""What is shown of the prints during one batch."""


@dataclass
class Batch:
    """N completions to judge, what is known of their prompts, and how many checks of them were lost or failed."""

    prompts: Sequence[Prompt]
    completions: Sequence[str]
    columns: Mapping[str, Sequence[Any]]
    timeouts: int = 0
    errors: int = 0

    def count(self, kind: str, completions: int) -> None:
        """Count checks that timed out or failed."""
        if kind == "timeout":
            self.timeouts += completions
        else:
            self.errors += completions


class OwnFunctions:
    """All functions of the user's, in one pool, so that modules are imported once."""

    def __init__(self, config: RewardConfig, size: int) -> None:
        """Import the functions in a worker.

        Raises:
            UsageError: one does not import, or is no function.
        """
        self.config = config
        functions = {name: _located(name) for name in config.functions if ":" in name}
        memory = int(config.memory_gb * 2**30) if config.memory_gb else machine_memory() // 2
        self.pool = WorkerPool(Role(functions, memory), size, f"reward '{next(iter(functions))}'", self._hear)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._printed = 0
        self.told: set[str] = set()
        self.lost: deque[bool] = deque(maxlen=LATEST_CALLS)
        try:
            self.signatures = {name: Signature(*parts) for name, parts in self.pool.start().items()}
        except StartError as error:
            raise UsageError(str(error)) from error

    def __call__(self, name: str, batch: Batch) -> npt.NDArray[np.float64]:
        """A function's values [N], NaN where it does not apply; counts timeouts and errors in the batch.

        Raises:
            UsageError: it requires a column that is missing, or returned no list or one of the wrong length;
            RunError: it failed and `on_error` is stop, its process does not start, or most calls are lost.
        """
        self._printed = 0
        scoring, everything = _Scoring(self, name, batch), range(len(batch.completions))
        if self.signatures[name].one_at_a_time:
            scoring.each(everything, self.pool.size)
        else:
            scoring.whole(everything)
        return scoring.values_N

    def close(self) -> None:
        """Stop the workers."""
        self.pool.close()

    def _hear(self, text: bytes) -> None:
        room, self._printed = PRINTED_BYTES - self._printed, self._printed + len(text)
        if room > 0:
            lines = self._decoder.decode(text[:room]).replace("\r", "\n").split("\n")
            sys.stderr.write("\n".join(map(plain, lines)))
            sys.stderr.flush()
            if self._printed > PRINTED_BYTES:
                sys.stderr.write("\n")
                say(f"showing only the first {PRINTED_BYTES:,} bytes that reward functions print per batch")

    def decide(self, name: str, lost: bool) -> None:
        """Note whether a call was lost, and stop the run when most are."""
        self.lost.append(lost)
        if len(self.lost) == LATEST_CALLS and sum(self.lost) > LATEST_CALLS / 2:
            raise RunError(
                f"reward '{name}': {sum(self.lost)} of the last {LATEST_CALLS} calls exceeded "
                f"rewards.timeout_s={self.config.timeout_s:g} or ended their process; fix the "
                "function, or raise the timeout"
            )


class _Scoring:
    """One function over one batch: its values so far."""

    def __init__(self, own: OwnFunctions, name: str, batch: Batch) -> None:
        self.own, self.name, self.batch, self.config = own, name, batch, own.config
        self.arguments = _arguments(name, own.signatures[name], batch)
        self.values_N = np.full(len(batch.completions), np.nan)

    def whole(self, indices: Sequence[int]) -> None:
        """Call the function once with these completions; if that fails, find those at fault."""
        seconds = min(self.config.timeout_s * len(indices), self.config.batch_timeout_s)
        [(_, outcome)] = self.own.pool.run([self._call(indices, seconds)], width=1)
        failed = isinstance(outcome, Lost) or "fault" in outcome
        if not failed or len(indices) == 1 or self.config.on_error == "stop":
            self._take(indices, outcome, seconds)
        elif isinstance(outcome, Lost) and outcome.kind == "timeout":
            self.each(indices, width=1)
        else:
            half = len(indices) // 2
            self.whole(indices[:half])
            self.whole(indices[half:])

    def each(self, indices: Sequence[int], width: int) -> None:
        """Call the function for each completion by itself."""
        seconds = self.config.timeout_s
        with closing(self.own.pool.run([self._call([i], seconds) for i in indices], width)) as outcomes:
            for number, outcome in outcomes:
                self._take([indices[number]], outcome, seconds)

    def _call(self, indices: Sequence[int], seconds: float) -> Call:
        def chosen(column: Sequence[Any]) -> list[Any]:
            return [column[i] for i in indices]

        arguments = {key: chosen(column) for key, column in self.arguments.items()}
        try:
            return Call(encode([self.name, len(indices), arguments]), seconds)
        except (TypeError, ValueError):
            self._leave_out_columns()
            return self._call(indices, seconds)

    def _leave_out_columns(self) -> None:
        """Drop columns that JSON can't carry, such as images."""
        for key, column in list(self.arguments.items()):
            try:
                encode(list(column))
            except (TypeError, ValueError) as error:
                del self.arguments[key]
                self._tell(f"column '{key}'", f"column '{key}' is not passed to reward functions: it contains {error}")

    def _take(self, indices: Sequence[int], outcome: Outcome, seconds: float) -> None:
        """Enter the values of a call, and fail where there is none."""
        self.own.decide(self.name, isinstance(outcome, Lost))
        if isinstance(outcome, Lost):
            self._fail(indices, outcome.kind, _lost(outcome, len(indices), seconds), self._remedy(outcome, seconds))
        elif "breach" in outcome:
            raise UsageError(f"reward '{self.name}' {outcome['breach']}")
        elif "fault" in outcome:
            self._fail(indices, "error", outcome["fault"])
        else:
            for i, value in zip(indices, outcome["values"], strict=True):
                if isinstance(value, str):
                    self._fail([i], "error", f"returned {value}; a reward is None or a number from -1e9 to 1e9")
                else:
                    self.values_N[i] = math.nan if value is None else value

    def _remedy(self, outcome: Lost, seconds: float) -> str:
        if outcome.kind == "died":
            return "fix it"
        return f"raise rewards.{'timeout_s' if seconds < self.config.batch_timeout_s else 'batch_timeout_s'}"

    def _fail(self, indices: Sequence[int], kind: str, what: str, remedy: str = "fix it") -> None:
        if self.config.on_error == "stop":
            raise RunError(
                f"reward '{self.name}' {what}; {remedy}, or skip such completions with rewards.on_error=skip"
            )
        zero = self.config.on_error == "zero"
        self.values_N[list(indices)] = 0.0 if zero else math.nan
        self.batch.count(kind, len(indices))
        effect = "count as 0" if zero else "are skipped"
        self._tell(self.name, f"reward '{self.name}' {what}; completions on which it fails {effect} (shown once)")

    def _tell(self, key: str, text: str) -> None:
        if key not in self.own.told:
            self.own.told.add(key)
            say(text)


def _located(name: str) -> str:
    try:
        return located(name)
    except OwnCodeError as error:
        raise UsageError(f"reward '{name}' {import_fault(error)}") from error


def _arguments(name: str, signature: Signature, batch: Batch) -> dict[str, Sequence[Any]]:
    """The lists that a function gets, by argument: what it names, or everything."""
    if signature.one_at_a_time:
        known: dict[str, Sequence[Any]] = {"prompt": list(map(as_text, batch.prompts)), "completion": batch.completions}
    else:
        known = {"prompts": batch.prompts, "completions": list(map(reply, batch.prompts, batch.completions))}
    known |= {key: column for key, column in batch.columns.items() if key not in TEXTS}
    for parameter in signature.required:
        if parameter not in known and parameter not in LOGGERS:
            raise UsageError(
                f"reward '{name}' requires '{parameter}', but the dataset has no such column; "
                f"available: {', '.join(known)}"
            )
    if signature.everything:  # token ids are many, and few functions read them
        return {key: column for key, column in known.items() if key != TOKEN_IDS or key in signature.names}
    return {key: known[key] for key in signature.names if key in known}


def _lost(outcome: Lost, count: int, seconds: float) -> str:
    at = f" at {outcome.place}" if outcome.place else ""
    if outcome.kind == "timeout":
        what = "a completion" if count == 1 else f"{count:,} completions"
        return f"took longer than {seconds:g} s for {what}{at and f' (stuck{at})'}"
    how = "SIGKILL, possibly out of memory" if outcome.how == "SIGKILL" else outcome.how
    return f"ended its process with {how}{at}"


def machine_memory() -> int:
    """The machine's memory in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
