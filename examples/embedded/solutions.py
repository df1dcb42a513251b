"""Solutions as pre-training text contains them: worked out, guessed in haste, or with a slip."""

from __future__ import annotations

import random

from problems import Problem


def near_miss(rng: random.Random, value: int) -> int:
    """A wrong value as careless work produces it: off by a little or by ten."""
    while True:
        wrong = value + rng.choice((-10, -3, -2, -1, 1, 2, 3, 10))
        if wrong >= 0:
            return wrong


def solution(problem: Problem, rng: random.Random, hasty: float, right: float, slip: float) -> str:
    """A random solution of the problem.

    With probability `hasty` it is only an answer, which is correct with probability `right`. Otherwise it is worked
    out; with probability `slip` one step goes wrong, and the answer is the result of that step.
    """
    if rng.random() < hasty:
        answer = problem.answer if rng.random() < right else near_miss(rng, problem.answer)
        return f"\\boxed{{{answer}}}"
    if rng.random() >= slip:
        return problem.worked()
    wrong_step = rng.randrange(len(problem.steps))
    wrong = near_miss(rng, problem.steps[wrong_step].value)
    lines = [f"{step.left} = {step.value}." for step in problem.steps[:wrong_step]]
    lines.append(f"{problem.steps[wrong_step].left} = {wrong}.")
    return " ".join(lines) + f" \\boxed{{{wrong}}}"
