"""Signs that a run does not learn, each reported once while it runs, with likely causes and what to do.

They depend only on the lines of metrics.jsonl, so a resumed run knows from the lines it keeps what has been reported.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any, NamedTuple

Line = Mapping[str, Any]

STEPS, GROUPS = 5, 128
"""Steps in a row, and groups in total, that must show a symptom before it is reported."""
GROUPS_AT_START = 32
"""Groups that are enough where no step of the run has shown anything else."""
CUT_OFF = 0.9
"""Share of completions at the length limit from which on too few end for anything to be learned."""
WINDOW = 20
"""Steps over which entropies and rewards are averaged."""
ENTROPY_SHARE, ENTROPY_FLOOR = 0.1, 0.01
"""Of the entropy at the start; and nats per token, below which a prompt's completions hardly differ."""
REWARD_SHARE = 1 / 3
"""Of the best reward, in size; a reward that falls to it, and below where it started, has collapsed."""


def no_reward(line: Line) -> bool:
    """Whether every reward of the step was 0."""
    return line.get("reward") == 0 and no_advantage(line)


def no_advantage(line: Line) -> bool:
    """Whether all rewards of each group were equal."""
    return bool(line.get("frac_reward_zero_std") == 1)


def cut_off(line: Line) -> bool:
    """Whether nearly all completions reached the length limit."""
    return bool(line.get("completions/clipped_ratio", 0) >= CUT_OFF)


def entropy_collapsed(first: float, recent: float) -> bool:
    """Whether the entropy has fallen to a small part of that at the start, or hardly any is left.

    >>> entropy_collapsed(0.5, 0.04), entropy_collapsed(0.5, 0.06), entropy_collapsed(0.05, 0.009)
    (True, False, True)
    """
    return recent < max(ENTROPY_SHARE * first, ENTROPY_FLOOR)


def reward_collapsed(first: float, best: float, recent: float) -> bool:
    """Whether the reward is far below its best, and below where it started.

    >>> reward_collapsed(0.2, 0.6, 0.15), reward_collapsed(0.2, 0.3, 0.15), reward_collapsed(-9.0, -3.0, -10.0)
    (True, False, True)
    """
    return recent < first and best - recent > (1 - REWARD_SHARE) * abs(best)


LASTING: dict[str, Callable[[Line], bool]] = {"cut_off": cut_off, "no_reward": no_reward, "no_advantage": no_advantage}
"""What counts once it lasts."""
IMPLIED = ("no_advantage", "reward")
"""What follows from every reward being 0, and is therefore not said besides."""


class Symptoms:
    """Reads a run's lines one by one and names each symptom when it first shows."""

    def __init__(self) -> None:
        self._shown: set[str] = set()
        self._streaks = {name: _Streak(test) for name, test in LASTING.items()}
        self._entropy, self._reward = _Averages(), _Averages()

    def observe(self, line: Line) -> dict[str, str]:
        """Take in a step's line; what it shows for the first time, by name, with the figures in words.

        >>> symptoms, line = Symptoms(), {"reward": 0.0, "frac_reward_zero_std": 1.0, "groups_rolled": 8}
        >>> [list(symptoms.observe(line)) for _ in range(6)]
        [[], [], [], [], ['no_reward'], []]
        """
        found = {name: f"{streak.steps:,} steps" for name, streak in self._streaks.items() if streak.lasts(line)}
        entropy, reward = self._entropy.after(line.get("entropy")), self._reward.after(line.get("reward"))
        if entropy is not None and entropy_collapsed(entropy.first, entropy.recent):
            found["entropy"] = f"from {entropy.first:.3g} to {entropy.recent:.3g}"
        if reward is not None and reward_collapsed(reward.first, reward.best, reward.recent):
            found["reward"] = f"from {reward.best:.3g} to {reward.recent:.3g}"
        new = {name: figures for name, figures in found.items() if name not in self._shown}
        self._shown.update(new)
        implied = IMPLIED if "no_reward" in self._shown else ()
        return {name: figures for name, figures in new.items() if name not in implied}


class _Streak:
    """For how many steps in a row a test has been true."""

    def __init__(self, test: Callable[[Line], bool]) -> None:
        self._test, self.steps, self._groups, self._always = test, 0, 0, True

    def lasts(self, line: Line) -> bool:
        """Take in a step's line; whether it has been so for long."""
        if not self._test(line):
            self.steps, self._groups, self._always = 0, 0, False
            return False
        self.steps, self._groups = self.steps + 1, self._groups + line.get("groups_rolled", 0)
        return self.steps >= STEPS and self._groups >= (GROUPS_AT_START if self._always else GROUPS)


class _Means(NamedTuple):
    """Means over the first, the best and the latest `WINDOW` values."""

    first: float
    best: float
    recent: float


class _Averages:
    """The means of a metric so far."""

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=WINDOW)
        self._means: _Means | None = None

    def after(self, value: float | None) -> _Means | None:
        """Add a step's value; returns None if it has none, or as long as there are too few."""
        if value is None:
            return None
        self._values.append(value)
        if len(self._values) == WINDOW:
            recent = fmean(self._values)
            first, best, _ = self._means or (recent, recent, recent)
            self._means = _Means(first, max(best, recent), recent)
        return self._means
