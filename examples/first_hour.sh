#!/usr/bin/env bash
# The first hour with prepo: own data, own reward, own selector, training, extension, evaluation, comparison.
#
#   examples/first_hour.sh [FOLDER]    everything is written there; by default to first_hour/
#   STEPS=2 LIMIT=10 examples/first_hour.sh   a short form
set -euo pipefail

steps=${STEPS:-20} limit=${LIMIT:-100}
mkdir -p "${1:-first_hour}"
cd "${1:-first_hour}"

run() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# Two datasets of sums: one to train on, one to evaluate on.
python3 - <<'END'
import json
import random

random.seed(0)
for name, rows in (("sums.jsonl", 1000), ("more_sums.jsonl", 200)):
    with open(name, "w") as file:
        for _ in range(rows):
            a, b, c = (random.randint(2, 40) for _ in range(3))
            row = {"prompt": f"Add up: {a} + {b} + {c}.", "answer": str(a + b + c)}
            file.write(json.dumps(row) + "\n")
END

cat >my_rewards.py <<'END'
def brief(completions, **columns):
    """1 for completions of fewer than 60 characters."""
    return [float(len(completion) < 60) for completion in completions]
END

cat >my_selectors.py <<'END'
from strategies import Prompt, PromptSource, Selector, StepContext, register


@register("in-file-order")
class InFileOrder(Selector):
    """The candidates that come first in the dataset."""

    def select(self, n: int, source: PromptSource, ctx: StepContext) -> list[Prompt]:
        return sorted(source.take(5 * n), key=lambda prompt: prompt.index)[:n]
END

# What there is to choose from, and what can be set.
run prepo strategies my_selectors.py:InFileOrder
run prepo strategies prepo
run prepo config training.learning_rate

# Train with them, look at the result, and extend the run.
run prepo train --dataset sums.jsonl --steps "$steps" --selector my_selectors.py:InFileOrder \
    --reward math --reward my_rewards.py:brief --set 'rewards.weights=[1, 0.1]' --output-dir runs/mine
run prepo show runs/mine --limit 2
run prepo show runs/mine --wrong --limit 1
run prepo train --resume --output-dir runs/mine --steps $((2 * steps))
run prepo watch latest --once

# The run's model on the prompts it held out, then greedy and sampled on two other datasets.
run prepo eval --model latest
run prepo eval --model runs/mine --dataset more_sums.jsonl,embedded --limit "$limit" --temperature 0 \
    --output-dir evals/greedy
run prepo eval --model runs/mine --dataset more_sums.jsonl,embedded --limit "$limit" --k 4 --output-dir evals/after
run prepo eval --dataset more_sums.jsonl --limit "$limit" --k 4 --output-dir evals/before

# Two evaluations compared by prompt, and two recipes over two seeds.
run prepo compare evals/before evals/after/more_sums --output-dir comparison
run prepo compare --recipes random,prepo --seeds 0,1 --dataset sums.jsonl --steps "$steps" --output-dir study
