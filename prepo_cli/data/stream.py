"""The prompt stream: an endless, resumable pass over the training set in a new random order each epoch.

An epoch's order depends only on the seed and the epoch number, so the state is a few integers. With 10 million prompts
an order takes 40 MB and is drawn once per epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.errors import UsageError
from strategies.types import Prompt, derive_seed


class PromptStream:
    """The source that selectors draw from. `get` returns a row's prompt, or None if the prompt is unusable."""

    def __init__(self, num_prompts: int, seed: int, get: Callable[[int], Prompt | None]) -> None:
        self._num_prompts, self._seed, self._get = num_prompts, seed, get
        self._epoch = self._position = 0
        self._usable = False
        self.left_out = 0
        self._order = self._shuffled(0)

    @property
    def epoch(self) -> int:
        """Completed passes over the training set."""
        return self._epoch

    def take(self, m: int) -> list[Prompt]:
        """The next m usable prompts.

        Raises:
            UsageError: a full pass found no usable prompt.
        """
        taken: list[Prompt] = []
        while len(taken) < m:
            prompt = self._get(int(self._order[self._position]))
            if prompt is None:
                self.left_out += 1
            else:
                taken.append(prompt)
                self._usable = True
            self._position += 1
            if self._position == self._num_prompts:
                self._next_epoch()
        return taken

    def state_dict(self) -> dict[str, Any]:
        """The stream's position."""
        return {
            "num_prompts": self._num_prompts,
            "epoch": self._epoch,
            "position": self._position,
            "left_out": self.left_out,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`; raises UsageError if it belongs to another training set."""
        if state["num_prompts"] != self._num_prompts:
            raise UsageError(
                f"the checkpoint's training set has {state['num_prompts']:,} prompts, this one {self._num_prompts:,}; "
                "resume with the dataset that the run started with"
            )
        self._epoch, self._position, self.left_out = state["epoch"], state["position"], state["left_out"]
        self._order = self._shuffled(self._epoch)

    def _next_epoch(self) -> None:
        if not self._usable:
            raise UsageError("every prompt of the training set is longer than data.max_prompt_length; raise it")
        self._epoch, self._position, self._usable = self._epoch + 1, 0, False
        self._order = self._shuffled(self._epoch)

    def _shuffled(self, epoch: int) -> npt.NDArray[np.int32]:
        order = np.arange(self._num_prompts, dtype=np.int32)
        np.random.default_rng(derive_seed(self._seed, "stream", epoch)).shuffle(order)
        return order
