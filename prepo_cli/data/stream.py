"""The prompt stream: an endless, resumable pass over the training set in a new random order each epoch.

A step's prompts are distinct as long as the training set has enough of them, and every epoch still contains each prompt
once:

- Where a step crosses into the next epoch, prompts that it has already taken move to that epoch's end.
- Once a step has taken the whole training set, it takes again what it did not roll out.

So an epoch's order depends only on the seed, the epoch number and the list of moved prompts, which is in the state.
With 10 million prompts an order takes 40 MB and is drawn once per epoch.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from prepo_cli.errors import UsageError
from strategies.types import Prompt, derive_seed

Rows = npt.NDArray[np.int32]


class PromptStream:
    """The source that selectors draw from.

    Args:
        num_prompts: number of rows.
        seed: of the epochs' random orders.
        get: returns a row's prompt, or None if the prompt is unusable.
        order: returns the rows of an epoch in their order; by default all of them, in a random one.
    """

    def __init__(
        self,
        num_prompts: int,
        seed: int,
        get: Callable[[int], Prompt | None],
        order: Callable[[int], Rows] | None = None,
    ) -> None:
        self._num_prompts, self._seed, self._get = num_prompts, seed, get
        self._shuffled = self._random if order is None else order
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
        self._not_rolled_out: deque[Prompt] = deque()
        self._crossed_epochs = False
        self._rolled_out: set[int] = set()

    def take(self, m: int) -> list[Prompt]:
        """The next m usable prompts.

        Raises:
            UsageError: a full pass found no usable prompt.
        """
        taken: list[Prompt] = []
        while len(taken) < m:
            if self._crossed_epochs:
                self._defer_taken()
            row = int(self._order[self._position])
            if row in self._taken:  # this step has taken the whole training set
                # The prompts that this call took are the last entries.
                again = min(m - len(taken), len(self._not_rolled_out) - len(taken))
                if again > 0:
                    taken += [self._not_rolled_out[i] for i in range(again)]
                    self._not_rolled_out.rotate(-again)
                    continue
            prompt = self._get(row)
            if prompt is None:
                self._left_out += 1
            else:
                taken.append(prompt)
                if row not in self._taken:
                    self._taken.add(row)
                    self._not_rolled_out.append(prompt)
            self._position += 1
            if self._position == len(self._order):
                self._next_epoch()
        return taken

    def without_repeats(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """A round's prompts, repeats of this step or round replaced as long as there are other prompts.

        A selector may choose one again once the step has taken the whole training set. All count as rolled out.
        """
        found = list({p.index: p for p in prompts if p.index not in self._rolled_out}.values())
        self._mark_rolled_out(found)
        while len(found) < len(prompts) and len(self._rolled_out) < self._num_prompts - self.left_out:
            other = self.take(1)
            if other[0].index in self._rolled_out:
                break
            self._mark_rolled_out(other)
            found += other
        return found + list(prompts)[: len(prompts) - len(found)]

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
                f"the checkpoint's training set has {state['num_prompts']:,} prompts, this one has "
                f"{self._num_prompts:,}; resume with the dataset the run started with"
            )
        self._epoch, self._position, self._moved = state["epoch"], state["position"], state["moved"]
        self._left_out, self._left_out_before = state["left_out"], state["left_out_before"]
        order = self._shuffled(self._epoch)
        self._order = np.concatenate([order[~np.isin(order, self._moved)], self._moved])
        self.begin_step()

    def _next_epoch(self) -> None:
        if self._left_out == self._num_prompts:
            raise UsageError("every prompt in the training set is longer than data.max_prompt_length; raise it")
        self._left_out, self._left_out_before = 0, self._left_out
        self._epoch, self._position = self._epoch + 1, 0
        self._order, self._moved = self._shuffled(self._epoch), np.empty(0, dtype=np.int32)
        self._crossed_epochs = True

    def _mark_rolled_out(self, prompts: Iterable[Prompt]) -> None:
        self._rolled_out.update(prompt.index for prompt in prompts)
        self._not_rolled_out = deque(prompt for prompt in self._not_rolled_out if prompt.index not in self._rolled_out)

    def _defer_taken(self) -> None:
        """Move what this step has taken to the end of the epoch that it has crossed into."""
        taken = np.isin(self._order, np.fromiter(self._taken, dtype=np.int32))
        self._moved = self._order[taken]
        self._order = np.concatenate([self._order[~taken], self._moved])
        self._crossed_epochs = False

    def _random(self, epoch: int) -> Rows:
        order = np.arange(self._num_prompts, dtype=np.int32)
        np.random.default_rng(derive_seed(self._seed, "stream", epoch)).shuffle(order)
        return order
