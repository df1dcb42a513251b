"""The bound on the length of numbers, against numbers that are computed."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sympy import Add, Integer, Mul, Pow, Rational, Symbol, factorial, pi

from prepo_cli.rewards import towers
from prepo_cli.rewards.towers import too_long

numbers = st.recursive(
    st.integers(-9, 9).map(lambda n: (Integer(n), float(abs(n)))),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: (Add(two[0][0], two[1][0], evaluate=False), two[0][1] + two[1][1])),
        st.tuples(inner, inner).map(lambda two: (Mul(two[0][0], two[1][0], evaluate=False), two[0][1] * two[1][1])),
        st.tuples(inner, st.integers(0, 4)).map(
            lambda two: (Pow(two[0][0], Integer(two[1]), evaluate=False), two[0][1] ** two[1])
        ),
    ),
    max_leaves=6,
)
"""Expressions that are not computed, and a bound on their absolute value that is."""


@given(numbers)
def test_the_bound_holds(number: tuple[object, float]) -> None:
    expression, largest = number
    bits = towers._bits(expression)
    assert bits >= math.log2(max(largest, 1)) - 1e-6 or largest > 1e300
    assert bits >= 0


@pytest.mark.parametrize(
    ("base", "exponent", "longer"),
    [(2, 10_000_000, False), (2, 10_000_001, True), (10, 3_010_299, False), (10, 3_010_300, True)],
)
def test_the_border(base: int, exponent: int, longer: bool) -> None:
    assert too_long(Pow(base, exponent, evaluate=False)) == longer


def test_golden() -> None:
    three = Pow(3, Pow(3, 3, evaluate=False), evaluate=False)
    assert towers._bits(three) == pytest.approx(27 * math.log2(3))
    assert not too_long(three)
    assert too_long(Pow(3, three, evaluate=False))
    assert too_long(Mul(Symbol("x"), Pow(pi, Pow(9, Pow(9, 9, evaluate=False), evaluate=False), evaluate=False)))
    assert too_long(Pow(Rational(1, 2), 10**8, evaluate=False))
    assert too_long(factorial(factorial(10, evaluate=False), evaluate=False))
    assert not too_long(Pow(Symbol("x"), 10**9))
