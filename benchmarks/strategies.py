"""The cost of a selector without the model: time per step and memory of its state, for 10^4 to 10^7 prompts.

A step is select (256 prompts, usually of 1,280 candidates), observe (256 groups of 8) and end_step, on one core, after
a visit to every prompt; half the prompts had zero variance, up to four times in a row. The probe answers at once,
because its cost is the model's. The last rows are the step in which E3 ranks all prompts at the end of an epoch.

    python -m benchmarks.strategies                      # all selectors, 10^4 to 10^7 prompts
    python -m benchmarks.strategies --prompts 1e5 --selector greso
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from strategies import registry
from strategies.base import Selector, State, Strategy
from strategies.selectors.greso import EASY, HARD, MIXED
from strategies.types import Completion, FloatArray, Group, Prompt, RunInfo, StepContext, StepReport

KEPT, ROLLOUTS, STEPS = 256, 8, 15


class Stream:
    """Prompts at random rows, drawn on demand, so that the stream itself costs next to nothing."""

    def __init__(self, num_prompts: int) -> None:
        self.num_prompts, self.taken = num_prompts, 0
        self._rng = np.random.default_rng(0)

    @property
    def epoch(self) -> int:
        """Complete passes over the rows."""
        return self.taken // self.num_prompts

    def take(self, m: int) -> list[Prompt]:
        """The next m prompts."""
        self.taken += m
        rows = self._rng.integers(self.num_prompts, size=m)
        return [Prompt(int(i), str(i), f"s{i % 8}", float(i % 100), 0.5, 5.0, i % 9 / 8) for i in rows]


class Probe:
    """Made-up perplexities."""

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """One for each prompt, from its row number."""
        return np.array([2.0 + p.index % 97 for p in prompts])


def groups(prompts: Sequence[Prompt], rng: np.random.Generator) -> list[Group]:
    """Groups of 8, half of them without variance."""
    made = []
    for prompt in prompts:
        right = int(rng.choice([0, 3, 5, 8]))
        rewards = [1.0] * right + [0.0] * (ROLLOUTS - right)
        made.append(Group(prompt, tuple(Completion(r, r == 1, 100, False, 1.0, 0.5) for r in rewards)))
    return made


def visit_all(strategy: Strategy, num_prompts: int) -> None:
    """Fill the state as a visit to every prompt would: 0, 3, 5 or 8 of 8 rollouts correct."""
    rng = np.random.default_rng(2)
    right_P = rng.choice(np.array([0, 3, 5, 8], dtype=np.int8), num_prompts)
    flat_P = right_P % ROLLOUTS == 0
    seen = {
        "rollouts": np.full(num_prompts, ROLLOUTS, dtype=np.int8),
        "correct": right_P,
        "reward": right_P + rng.random(num_prompts, dtype=np.float32),  # few ties, because ties are quicker to sort
        "a": right_P + 1,
        "b": ROLLOUTS - right_P + 1,
        "right": right_P,
        "wrong": ROLLOUTS - right_P,
        "labels": np.where(flat_P, np.where(right_P > 0, EASY, HARD), MIXED),
        "streaks": np.where(flat_P, rng.integers(1, 5, num_prompts, dtype=np.int8), 0),
    }

    def filled(state: State) -> State:
        return {k: filled(v) if isinstance(v, dict) else seen.get(k, v) for k, v in state.items()}

    strategy.load_state_dict(filled(strategy.state_dict()))


def mebibytes(value: Any) -> float:
    """Size of the arrays in a state, in MiB."""
    if isinstance(value, np.ndarray):
        return float(value.nbytes) / 2**20
    return sum(map(mebibytes, value.values())) if isinstance(value, dict) else 0.0


def run_of(num_prompts: int) -> RunInfo:
    """A run whose dataset has every optional column."""
    columns = frozenset({"source", "difficulty", "rank", "ppl", "pass_rate"})
    return RunInfo(num_prompts, 1000, KEPT, ROLLOUTS, 0, 151_936, columns)


def measure_epoch_end(num_prompts: int) -> tuple[float, float]:
    """Seconds that E3 takes at the end of an epoch, and MiB of its state."""
    budget = registry.create("budget", "e3", run_of(num_prompts))
    visit_all(budget, num_prompts)
    report = StepReport(0, 1000, 0, 1, 1.0, 0.5, 0.5, True, 0, 0)
    started = perf_counter()
    budget.end_step(report)
    return perf_counter() - started, mebibytes(budget.state_dict())


def measure(name: str, num_prompts: int) -> tuple[list[float], float]:
    """Seconds per step, and MiB of the state."""
    selector = registry.create("selector", name, run_of(num_prompts))
    assert isinstance(selector, Selector)
    visit_all(selector, num_prompts)
    stream, rng, seconds = Stream(num_prompts), np.random.default_rng(1), []
    for step in range(STEPS):
        ctx = StepContext(step, 1000, 1, 0, 0, probe=Probe())
        report = StepReport(step, 1000, 1, 0, 1.0, 0.5, 0.5, True, 0, 0)
        started = perf_counter()
        chosen = selector.select(KEPT, stream, ctx)
        took = perf_counter() - started
        rolled = groups(chosen, rng)
        started = perf_counter()
        selector.observe(rolled, ctx)
        selector.end_step(report)
        seconds.append(took + perf_counter() - started)
    return seconds, mebibytes(selector.state_dict())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=float, nargs="+", default=[1e4, 1e5, 1e6, 1e7])
    parser.add_argument("--selector", nargs="+")
    args = parser.parse_args()
    names = args.selector or [cls.name for cls in registry.listed() if cls.slot == "selector"]
    print(f"{'selector':14} {'prompts':>11} {'median ms':>10} {'max ms':>8} {'state MiB':>10}")
    for name in names:
        for count in map(int, args.prompts):
            seconds, memory = measure(name, count)
            median, worst = 1e3 * float(np.median(seconds)), 1e3 * max(seconds)
            print(f"{name:14} {count:11,} {median:10.2f} {worst:8.2f} {memory:10.1f}", flush=True)
    for count in map(int, args.prompts):
        took, memory = measure_epoch_end(count)
        print(f"{'e3 epoch end':14} {count:11,} {1e3 * took:10.2f} {1e3 * took:8.2f} {memory:10.1f}", flush=True)


if __name__ == "__main__":
    main()
