r"""What selectors would choose, given the pass rates and perplexities recorded along one real run: seconds, not hours.

Each selector goes through the recorded run step by step. It chooses prompts, sees rewards drawn from their recorded
pass rates, and chooses again; the policy's path stays the recorded one. Printed are the share of chosen groups whose
rewards differ (over the run and by quarter) and how many different prompts gave such groups. Both count: a selector
that rolls out the same few prompts all the time finds many differing rewards, and teaches little.

    python -m prepo_cli train --selector benchmarks.oracle:Oracle:rollouts=16,refresh=64,record=recorded \
        --config benchmarks/study.yaml --dataset embedded:dead=0.8
    python -m benchmarks.replay recorded random mopps calibrated calibrated:pooled=false
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from prepo_cli.data.stream import PromptStream
from strategies import registry
from strategies.base import Selector
from strategies.types import Completion, FloatArray, Group, Prompt, RunInfo, StepContext, StepReport


@dataclass(frozen=True)
class Record:
    """Looks at a training set of P prompts along a run: their steps, pass rates [L, P] and perplexities [L, P]."""

    steps: list[int]
    rate_LP: FloatArray
    ppl_LP: FloatArray
    prompts: list[Prompt]

    def look(self, step: int) -> int:
        """The last look at or before a step."""
        return int(np.searchsorted(self.steps, step, side="right")) - 1


@dataclass
class Probe:
    """Recorded perplexities; counts how many are asked for."""

    record: Record
    step: int = 0
    asked: int = 0

    def perplexity(self, prompts: Sequence[Prompt], scope: str = "question") -> FloatArray:
        """As of the last look."""
        self.asked += len(prompts)
        return self.record.ppl_LP[self.record.look(self.step), [prompt.index for prompt in prompts]]


@dataclass
class Found:
    """What a selector's choices gave, step by step."""

    differing: list[float]
    distinct: int
    scored: int


def read(folder: Path) -> Record:
    """The looks that `benchmarks.oracle` wrote to a folder, in the order of their steps."""
    files = sorted(folder.glob("step_*.npz"))
    looks = [np.load(file) for file in files]
    first = looks[0]
    prompts = [
        Prompt(index, str(index), source=str(source), num_tokens=int(tokens))
        for index, (source, tokens) in enumerate(zip(first["source"], first["num_tokens"], strict=True))
    ]
    return Record(
        [int(file.stem.removeprefix("step_")) for file in files],
        np.stack([look["rate"] for look in looks]).astype(np.float64),
        np.stack([look["ppl"] for look in looks]).astype(np.float64),
        prompts,
    )


def replay(spec: str, record: Record, steps: int, kept: int, rollouts: int, seed: int) -> Found:
    """Let a selector choose `kept` prompts in each step."""
    info = RunInfo(len(record.prompts), steps, kept, rollouts, seed, columns=frozenset({"source"}))
    selector = cast(Selector, registry.create("selector", spec, info))
    stream = PromptStream(len(record.prompts), seed, record.prompts.__getitem__)
    probe, rng = Probe(record), np.random.default_rng(seed)
    differing, rolled = [], set[int]()
    for step in range(steps):
        stream.begin_step()
        probe.step, epoch = step, stream.epoch
        ctx = StepContext(step, steps, epoch, 0, seed, probe=probe)
        chosen = stream.without_repeats(selector.select(kept, stream, ctx))
        rates = record.rate_LP[record.look(step), [prompt.index for prompt in chosen]]
        groups = [_group(prompt, rng.random(rollouts) < rate) for prompt, rate in zip(chosen, rates, strict=True)]
        varied = [not group.zero_variance for group in groups]
        differing.append(float(np.mean(varied)))
        rolled |= {group.prompt.index for group, differs in zip(groups, varied, strict=True) if differs}
        selector.observe(groups, ctx)
        reward = float(np.mean([group.rewards_N.mean() for group in groups]))
        selector.end_step(StepReport(step, steps, epoch, stream.epoch - epoch, 1.0, 0.5, reward, True, 0, 0))
    return Found(differing, len(rolled), probe.asked)


def _group(prompt: Prompt, correct_N: np.ndarray) -> Group:
    return Group(prompt, tuple(Completion(float(c), bool(c), 20, False, 1.0) for c in correct_N))


def main() -> None:
    """Print a row for each selector."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("record", type=Path)
    parser.add_argument("selectors", nargs="+")
    parser.add_argument("--steps", type=int, default=512)
    parser.add_argument("--prompts", type=int, default=8, help="rolled out in each step")
    parser.add_argument("--rollouts", type=int, default=8)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    record = read(args.record)
    print(f"{'selector':36} {'differing':>9}  {'by quarter':27} {'distinct':>8} {'scored':>8}")
    for spec in args.selectors:
        found = [replay(spec, record, args.steps, args.prompts, args.rollouts, seed) for seed in range(args.seeds)]
        quarters = np.array([np.array_split(f.differing, 4) for f in found], dtype=object)
        by_quarter = "  ".join(f"{np.mean([np.mean(q[i]) for q in quarters]):.3f}" for i in range(4))
        mean = np.mean([np.mean(f.differing) for f in found])
        distinct, scored = np.mean([f.distinct for f in found]), np.mean([f.scored for f in found])
        print(f"{spec:36} {mean:9.3f}  {by_quarter:27} {distinct:8,.0f} {scored:8,.0f}", flush=True)


if __name__ == "__main__":
    main()
