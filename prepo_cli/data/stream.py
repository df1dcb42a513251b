"""The prompt stream: an endless, resumable pass over the training set in a new random order each epoch.

An epoch's order depends only on the seed and the epoch number, with one exception: where a step crosses into the next
epoch, prompts that it has already taken move to that epoch's end, those that it has rolled out last of all. So the
prompts of a step are distinct as long as the training set has enough of them, and every epoch still contains each
prompt once. The state is the position and the list of moved prompts. With 10 million prompts an order takes 40 MB and
is drawn once per epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.errors import UsageError
from strategies.types import Prompt, derive_seed

Rows = npt.NDArray[np.int32]


class PromptStream:
    """The source that selectors draw from. `get` returns a row's prompt, or None if the prompt is unusable."""

    def __init__(self, num_prompts: int, seed: int, get: Callable[[int], Prompt | None]) -> None:
        self._num_prompts, self._seed, self._get = num_prompts, seed, get
        self._epoch = self._position = 0
        self._moved: Rows = np.empty(0, dtype=np.int32)
        self._order = self._shuffled(0)
        self._left_out_before = self._left_out = 0
        self.begin_step()

    @property
    def epoch(self) -> int:
        """Completed passes over the training set."""
        return self._epoch

    @property
    def left_out(self) -> int:
        """Prompts found unusable so far, each counted once."""
        return max(self._left_out, self._left_out_before)

    def begin_step(self) -> None:
        """Forget which prompts the last step took."""
        self._taken: set[int] = set()
        self._rolled_out: set[int] = set()
        self._first_epoch = self._epoch
        self._must_defer = False

    def mark_rolled_out(self, prompts: Iterable[Prompt]) -> None:
        """Note which prompts were selected, so that they come last should this step take every prompt again."""
        self._rolled_out |= {prompt.index for prompt in prompts}
        self._must_defer = self._epoch > self._first_epoch

    def take(self, m: int, least: int | None = None) -> list[Prompt]:
        """The next m usable prompts; with `least`, fewer (at least that many) rather than one taken twice in a step.

        Raises:
            UsageError: a full pass found no usable prompt.
        """
        taken: list[Prompt] = []
        while len(taken) < m:
            if self._must_defer:
                self._defer()
            row = int(self._order[self._position])
            if least is not None and len(taken) >= least and row in self._taken:
                break
            prompt = self._get(row)
            if prompt is None:
                self._left_out += 1
            else:
                taken.append(prompt)
                self._taken.add(row)
            self._position += 1
            if self._position == self._num_prompts:
                self._next_epoch()
        return taken

    def state_dict(self) -> dict[str, Any]:
        """The stream's position; valid between steps."""
        return {
            "num_prompts": self._num_prompts,
            "epoch": self._epoch,
            "position": self._position,
            "moved": self._moved,
            "left_out": self._left_out,
            "left_out_before": self._left_out_before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`; raises UsageError if it belongs to another training set."""
        if state["num_prompts"] != self._num_prompts:
            raise UsageError(
                f"the checkpoint's training set has {state['num_prompts']:,} prompts, this one {self._num_prompts:,}; "
                "resume with the dataset that the run started with"
            )
        self._epoch, self._position, self._moved = state["epoch"], state["position"], state["moved"]
        self._left_out, self._left_out_before = state["left_out"], state["left_out_before"]
        order = self._shuffled(self._epoch)
        self._order = np.concatenate([order[~np.isin(order, self._moved)], self._moved])
        self.begin_step()

    def _next_epoch(self) -> None:
        if self._left_out == self._num_prompts:
            raise UsageError("every prompt of the training set is longer than data.max_prompt_length; raise it")
        self._left_out, self._left_out_before = 0, self._left_out
        self._epoch, self._position = self._epoch + 1, 0
        self._order, self._moved = self._shuffled(self._epoch), np.empty(0, dtype=np.int32)
        self._must_defer = True

    def _defer(self) -> None:
        """Move what this step has taken to the end of the epoch, behind it what it has rolled out."""
        rows = self._order[self._position :].copy()
        taken, rolled_out = (np.array(sorted(s), dtype=np.int32) for s in (self._taken, self._rolled_out))
        rank = np.isin(rows, taken).astype(np.int8) + np.isin(rows, rolled_out)
        deferred = np.concatenate([rows[rank == 1], rows[rank == 2]])
        self._order[self._position :] = np.concatenate([rows[rank == 0], deferred])
        self._moved = np.concatenate([self._moved[~np.isin(self._moved, deferred)], deferred])
        self._must_defer = False

    def _shuffled(self, epoch: int) -> Rows:
        order = np.arange(self._num_prompts, dtype=np.int32)
        np.random.default_rng(derive_seed(self._seed, "stream", epoch)).shuffle(order)
        return order
