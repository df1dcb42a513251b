"""Problems of the eight families that are far beyond what the embedded model can learn: large numbers, many steps.

They read like the others, so a prompt's text and its perplexity give them away, and nothing else does.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from math import gcd

from problems import Problem

LEVEL = 9
"""Their `difficulty`; the task's own levels end at 5."""


def _problem(source: str, text: str, question: str, answer: int) -> Problem:
    return Problem(source, LEVEL, f"{source}:{text}", question, (), answer)


def sums(rng: random.Random) -> Problem:
    """Eight to twelve terms of four digits."""
    terms = [rng.randint(1000, 9999) for _ in range(rng.randint(8, 12))]
    text = " + ".join(map(str, terms))
    return _problem("sum", text, rng.choice(("What is {}?", "Compute {}.")).format(text), sum(terms))


def products(rng: random.Random) -> Problem:
    """Three factors of three digits."""
    a, b, c = (rng.randint(101, 999) for _ in range(3))
    text = f"{a} * {b} * {c}"
    return _problem("product", text, rng.choice(("What is {}?", "Multiply: {}.")).format(text), a * b * c)


def remainders(rng: random.Random) -> Problem:
    """Eight digits divided by four, with a remainder of at least three digits."""
    while True:
        a, m = rng.randint(10**7, 10**8), rng.randint(1001, 9999)
        if a % m >= 100:
            break
    wording = rng.choice(("What is the remainder of {} divided by {}?", "Divide {} by {}. What remains?"))
    return _problem("remainder", f"{a}:{m}", wording.format(a, m), a % m)


def gcds(rng: random.Random) -> Problem:
    """Two numbers of six digits with a divisor of three."""
    divisor = rng.randint(101, 499)
    while True:
        a, b = rng.randint(500, 2000), rng.randint(500, 2000)
        if a != b and gcd(a, b) == 1:
            break
    wording = rng.choice(("What is gcd({}, {})?", "Find the greatest common divisor of {} and {}."))
    return _problem("gcd", f"{a * divisor}:{b * divisor}", wording.format(a * divisor, b * divisor), divisor)


def comparisons(rng: random.Random) -> Problem:
    """The largest or smallest of four products of three digits each."""
    pairs = [(rng.randint(101, 999), rng.randint(101, 999)) for _ in range(4)]
    largest = rng.random() < 0.7
    text = ", ".join(f"{a} * {b}" for a, b in pairs)
    answer = (max if largest else min)(a * b for a, b in pairs)
    return _problem("compare", text, f"What is the {'largest' if largest else 'smallest'} of {text}?", answer)


def equations(rng: random.Random) -> Problem:
    """The unknown in two brackets, with coefficients of two digits and a solution of four."""
    x, a, b, c, d = rng.randint(1001, 9999), *(rng.randint(12, 97) for _ in range(4))
    text = f"{a}(x + {b}) + {c}(x - {d}) = {a * (x + b) + c * (x - d)}"
    return _problem("equation", text, rng.choice(("Solve {} for x.", "Find x: {}.")).format(text), x)


def word_problems(rng: random.Random) -> Problem:
    """A story with two products of three digits."""
    bags, each, boxes, per_box = (rng.randint(101, 999) for _ in range(4))
    question = (
        f"Anna has {bags} bags of {each} coins. Ben has {boxes} boxes of {per_box} coins. "
        "How many coins do they have together?"
    )
    return _problem("word", f"{bags}*{each}+{boxes}*{per_box}", question, bags * each + boxes * per_box)


def sequences(rng: random.Random) -> Problem:
    """The next term where each is a multiple of the one before, plus a constant."""
    factor, added = rng.randint(7, 19), rng.randint(11, 97)
    terms = [rng.randint(12, 99)]
    while len(terms) < 5:
        terms.append(terms[-1] * factor + added)
    text = ", ".join(map(str, terms[:4]))
    wording = rng.choice(("What comes next: {}?", "Give the next number: {}."))
    return _problem("sequence", text, wording.format(text), terms[4])


FAMILIES: tuple[Callable[[random.Random], Problem], ...] = (
    sums,
    products,
    remainders,
    gcds,
    comparisons,
    equations,
    word_problems,
    sequences,
)
