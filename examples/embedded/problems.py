"""The embedded task: eight families of arithmetic problems with five levels each.

A `Problem` has the question, the gold answer, the steps that lead to it, and a `key` made of the underlying numbers.
Two problems with the same key are the same problem, however they are worded, so the splits must not share a key.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

LEVELS = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Step:
    """One line of a solution, `left = value`; a slip replaces `value`."""

    left: str
    value: int


@dataclass(frozen=True)
class Problem:
    """One question with its gold answer and the steps of a correct solution."""

    source: str
    difficulty: int
    key: str
    question: str
    steps: tuple[Step, ...]
    answer: int

    def worked(self) -> str:
        """The correct solution, step by step."""
        return " ".join(f"{step.left} = {step.value}." for step in self.steps) + f" \\boxed{{{self.answer}}}"


def _chain(start: int, operations: list[tuple[str, int]]) -> tuple[Step, ...]:
    steps, value = [], start
    for sign, operand in operations:
        result = {"+": value + operand, "-": value - operand, "*": value * operand}[sign]
        steps.append(Step(f"{value} {sign} {operand}", result))
        value = result
    return tuple(steps)


def _product(a: int, b: int) -> tuple[Step, ...]:
    """a * b, multiplying by the tens and the ones of b separately."""
    tens, ones = b // 10 * 10, b % 10
    if tens == 0 or ones == 0:
        return (Step(f"{a} * {b}", a * b),)
    return (
        Step(f"{a} * {tens}", a * tens),
        Step(f"{a} * {ones}", a * ones),
        Step(f"{a * tens} + {a * ones}", a * b),
    )


def sums(rng: random.Random, level: int) -> Problem:
    """Add two to six terms from left to right; from level 3 on, some are subtracted."""
    top = (30, 50, 60, 99, 150)[level - 1]
    while True:
        start = rng.randint(2, top)
        operations = [("-" if level >= 3 and rng.random() < 0.4 else "+", rng.randint(2, top)) for _ in range(level)]
        steps = _chain(start, operations)
        if all(step.value >= 0 for step in steps):
            break
    text = f"{start}" + "".join(f" {sign} {n}" for sign, n in operations)
    wording = rng.choice(("What is {}?", "Compute {}.", "Find the value of {}."))
    return Problem("sum", level, f"sum:{text}", wording.format(text), steps, steps[-1].value)


def products(rng: random.Random, level: int) -> Problem:
    """One digit times two digits, then three factors, then two digits times two digits."""
    if level <= 3:
        low, high, b_low, b_high = ((2, 6, 6, 49), (3, 9, 11, 59), (6, 9, 41, 99))[level - 1]
        factors = [rng.randint(low, high), rng.randint(b_low, b_high)]
    elif level == 4:
        factors = [rng.randint(2, 6), rng.randint(2, 9), rng.randint(11, 29)]
    else:
        factors = [rng.randint(12, 39), rng.randint(12, 49)]
    steps: tuple[Step, ...] = ()
    value = factors[0]
    for factor in factors[1:]:
        steps += _product(value, factor)
        value *= factor
    text = " * ".join(map(str, factors))
    wording = rng.choice(("What is {}?", "Compute {}.", "Multiply: {}."))
    return Problem("product", level, f"product:{text}", wording.format(text), steps, value)


def remainders(rng: random.Random, level: int) -> Problem:
    """a mod m by subtracting the largest multiple; level 5 starts with a sum."""
    top, m_low, m_high = ((40, 2, 9), (70, 4, 12), (99, 6, 16), (200, 7, 25), (150, 9, 29))[level - 1]
    m = rng.randint(m_low, m_high)
    if level == 5:
        a, b = rng.randint(30, top), rng.randint(30, top)
        total, text = a + b, f"{a} + {b}"
        steps: tuple[Step, ...] = (Step(text, total),)
    else:
        total = rng.randint(m + 1, top)
        text, steps = str(total), ()
    multiple = total // m * m
    steps += (Step(f"{m} * {total // m}", multiple), Step(f"{total} - {multiple}", total - multiple))
    wording = rng.choice(("What is the remainder of {} divided by {}?", "Divide {} by {}. What remains?"))
    return Problem("remainder", level, f"remainder:{text}:{m}", wording.format(text, m), steps, total - multiple)


def gcds(rng: random.Random, level: int) -> Problem:
    """Greatest common divisor by Euclid's algorithm; higher levels need more divisions."""
    top, low_steps, high_steps = ((99, 1, 1), (60, 2, 2), (90, 3, 3), (160, 3, 4), (300, 4, 6))[level - 1]
    while True:
        a, b = sorted((rng.randint(4, top), rng.randint(2, top)), reverse=True)
        steps, x, y = [], a, b
        while y and len(steps) <= high_steps:
            steps.append(Step(f"{x} mod {y}", x % y))
            x, y = y, x % y
        if y == 0 and low_steps <= len(steps) <= high_steps and a != b:
            break
    wording = rng.choice(("What is gcd({}, {})?", "Find the greatest common divisor of {} and {}."))
    return Problem("gcd", level, f"gcd:{a}:{b}", wording.format(a, b), tuple(steps), x)


def comparisons(rng: random.Random, level: int) -> Problem:
    """The largest (or smallest) of several small results."""
    top = (20, 30, 50, 70, 99)[level - 1]
    while True:
        sides: list[tuple[str, tuple[Step, ...], int]] = []
        for i in range(3 if level >= 4 else 2):
            if level >= 2 and i == 0:
                a, b = rng.randint(2, 9), rng.randint(2, max(9, top // 4))
                steps = _product(a, b)
                sides.append((f"{a} * {b}", steps, a * b))
            elif rng.random() < 0.5:
                a, b = rng.randint(2, top), rng.randint(2, top)
                sides.append((f"{a} + {b}", (Step(f"{a} + {b}", a + b),), a + b))
            else:
                a, b = sorted((rng.randint(2, top), rng.randint(2, top)), reverse=True)
                sides.append((f"{a} - {b}", (Step(f"{a} - {b}", a - b),), a - b))
        values = [value for _, _, value in sides]
        if len(set(values)) == len(values):
            break
    largest = rng.random() < 0.7
    answer = max(values) if largest else min(values)
    text = ", ".join(side for side, _, _ in sides)
    question = f"What is the {'largest' if largest else 'smallest'} of {text}?"
    key = f"compare:{'max' if largest else 'min'}:{':'.join(sorted(side for side, _, _ in sides))}"
    return Problem("compare", level, key, question, tuple(step for _, steps, _ in sides for step in steps), answer)


def equations(rng: random.Random, level: int) -> Problem:
    """One unknown: from x + b = c to the unknown on both sides and brackets."""
    x = rng.randint(2, (30, 12, 25, 20, 25)[level - 1])
    a, b = rng.randint(2, 9), rng.randint(2, (30, 30, 50, 60, 20)[level - 1])
    if level == 1:
        text, steps = f"x + {b} = {x + b}", (Step(f"x = {x + b} - {b}", x),)
    elif level <= 3:
        c = a * x + b
        text = f"{a}x + {b} = {c}"
        steps = (Step(f"{a}x = {c} - {b}", a * x), Step(f"x = {a * x} / {a}", x))
    elif level == 4:
        d = rng.randint(1, a - 1)
        c = (a - d) * x + b
        text = f"{a}x + {b} = {d}x + {c}"
        steps = (Step(f"{a} - {d}", a - d), Step(f"{a - d}x = {c} - {b}", c - b), Step(f"x = {c - b} / {a - d}", x))
    else:
        e = rng.randint(2, 40)
        c = a * (x + b) + e
        text = f"{a}(x + {b}) + {e} = {c}"
        steps = (
            Step(f"{a}(x + {b}) = {c} - {e}", c - e),
            Step(f"x + {b} = {c - e} / {a}", x + b),
            Step(f"x = {x + b} - {b}", x),
        )
    wording = rng.choice(("Solve {} for x.", "Find x: {}."))
    return Problem("equation", level, f"equation:{text}", wording.format(text), steps, x)


_NAMES = ("Anna", "Ben", "Clara", "David", "Eva", "Finn", "Greta", "Hugo", "Ida", "Jonas")
_THINGS = ("apples", "books", "coins", "pens", "cards", "shells", "stamps", "eggs")


def word_problems(rng: random.Random, level: int) -> Problem:
    """Short stories with one to four steps."""
    name, other = rng.sample(_NAMES, 2)
    thing = rng.choice(_THINGS)
    bags, each = rng.randint(2, 9), rng.randint(3, (12, 12, 15, 19, 29)[level - 1])
    more, gone = rng.randint(2, 40), rng.randint(2, 20)
    if level == 1:
        start = rng.randint(10, 60)
        if rng.random() < 0.5:
            question = f"{name} has {start} {thing} and finds {more} more. How many {thing} does {name} have?"
            steps, key = _chain(start, [("+", more)]), f"{start}+{more}"
        else:
            gone = rng.randint(2, start - 1)
            question = f"{name} has {start} {thing} and loses {gone}. How many {thing} are left?"
            steps, key = _chain(start, [("-", gone)]), f"{start}-{gone}"
    elif level == 2:
        question = f"{name} has {bags} bags of {each} {thing} and finds {more} more. How many {thing} in all?"
        steps, key = (*_product(bags, each), *_chain(bags * each, [("+", more)])), f"{bags}*{each}+{more}"
    elif level == 3:
        gone = rng.randint(2, bags * each - 1)
        question = (
            f"{name} has {bags} bags of {each} {thing}, gives {gone} to {other} and buys {more}. "
            f"How many {thing} does {name} have?"
        )
        steps = (*_product(bags, each), *_chain(bags * each, [("-", gone), ("+", more)]))
        key = f"{bags}*{each}-{gone}+{more}"
    elif level == 4:
        boxes, per_box = rng.randint(2, 9), rng.randint(3, 15)
        question = (
            f"{name} has {bags} bags of {each} {thing}. {other} has {boxes} boxes of {per_box} {thing}. "
            f"How many {thing} do they have together?"
        )
        a, b = bags * each, boxes * per_box
        steps = (*_product(bags, each), *_product(boxes, per_box), *_chain(a, [("+", b)]))
        key = f"{bags}*{each}+{boxes}*{per_box}"
    else:
        people = rng.randint(2, 6)
        total = bags * each + more
        total -= total % people
        more = total - bags * each
        if more <= 0:
            return word_problems(rng, level)
        question = (
            f"{name} has {bags} bags of {each} {thing} and {other} brings {more}. They share them equally "
            f"among {people} friends, and each friend loses 1. How many {thing} does each friend have?"
        )
        share = total // people
        steps = (
            *_product(bags, each),
            *_chain(bags * each, [("+", more)]),
            Step(f"{total} / {people}", share),
            Step(f"{share} - 1", share - 1),
        )
        key = f"({bags}*{each}+{more})/{people}-1"
    return Problem("word", level, f"word:{key}", question, steps, steps[-1].value)


def sequences(rng: random.Random, level: int) -> Problem:
    """The next term of a sequence: constant steps, growing steps, or the sum of the previous two terms."""
    start, d = rng.randint(1, (40, 50, 60, 20, 30)[level - 1]), rng.randint(2, (12, 15, 29, 7, 20)[level - 1])
    if level <= 2:
        terms = [start + i * d for i in range(4)]
        steps = (Step(f"{terms[1]} - {terms[0]}", d), Step(f"{terms[3]} + {d}", terms[3] + d))
    elif level == 3:
        start += 4 * d
        terms = [start - i * d for i in range(4)]
        steps = (Step(f"{terms[0]} - {terms[1]}", d), Step(f"{terms[3]} - {d}", terms[3] - d))
    elif level == 4:
        grow = rng.randint(1, 6)
        terms = [start]
        for i in range(3):
            terms.append(terms[-1] + d + i * grow)
        last = terms[3] - terms[2]
        steps = (
            Step(f"{terms[2]} - {terms[1]}", last - grow),
            Step(f"{terms[3]} - {terms[2]}", last),
            Step(f"{last} - {last - grow}", grow),
            Step(f"{last} + {grow}", last + grow),
            Step(f"{terms[3]} + {last + grow}", terms[3] + last + grow),
        )
    else:
        terms = [start, start + d]
        for _ in range(3):
            terms.append(terms[-1] + terms[-2])
        steps = (Step(f"{terms[0]} + {terms[1]}", terms[2]), Step(f"{terms[3]} + {terms[4]}", terms[3] + terms[4]))
    text = ", ".join(map(str, terms))
    wording = rng.choice(("What comes next: {}?", "Give the next number: {}."))
    return Problem("sequence", level, f"sequence:{text}", wording.format(text), steps, steps[-1].value)


FAMILIES: dict[str, Callable[[random.Random, int], Problem]] = {
    "sum": sums,
    "product": products,
    "remainder": remainders,
    "gcd": gcds,
    "compare": comparisons,
    "equation": equations,
    "word": word_problems,
    "sequence": sequences,
}
