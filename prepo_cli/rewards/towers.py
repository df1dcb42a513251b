r"""Numbers too large to compare by computing them, as in 9^{9^{9^{9}}} or (10!)!.

math-verify parses them without computing them, and then hangs on the comparison. They are found by a bound on their
length in bits, from the innermost expression outwards.
"""

from __future__ import annotations

import math
from typing import Any

MAX_BITS = 1e7
"""Computing a longer number takes seconds."""


class _TooLong(Exception):
    """A part of the expression has more than MAX_BITS bits."""


def too_long(expression: Any) -> bool:
    """Whether a SymPy expression has a part that would be a number of more than MAX_BITS bits; a text has none.

    >>> from sympy import Pow, Symbol
    >>> tower = Pow(9, Pow(9, 9, evaluate=False), evaluate=False)
    >>> too_long(tower), too_long(tower.exp), too_long(Pow(Symbol("x"), 10**8)), too_long("9^{9^9}")
    (True, False, False, False)
    """
    from sympy import Basic

    try:
        if isinstance(expression, Basic):
            _bits(expression)
    except _TooLong:
        return True
    return False


def _bits(expression: Any) -> float:
    """An upper bound on log2 of the absolute value; 0 for what is unknown, such as a symbol."""
    from sympy import Add, Float, Mul, NumberSymbol, Pow, Rational, binomial, factorial

    if isinstance(expression, Rational):
        return _log2(max(abs(int(expression.p)), int(expression.q)))
    if isinstance(expression, (Float, NumberSymbol)):
        return _log2(float(expression))
    inner = [_bits(argument) for argument in expression.args]
    if isinstance(expression, Pow):
        return _checked(_value(inner[1]) * inner[0])
    if isinstance(expression, factorial):
        return _checked(_value(inner[0]) * inner[0])
    if isinstance(expression, binomial):
        return _checked(_value(inner[0]))
    if isinstance(expression, Mul):
        return _checked(sum(inner))
    return max(inner) + _log2(len(inner)) if isinstance(expression, Add) else 0.0


def _log2(value: float) -> float:
    return max(0.0, math.log2(abs(value))) if value else 0.0


def _value(bits: float) -> float:
    return math.exp2(_checked(bits) if bits < 1000 else 1000)


def _checked(bits: float) -> float:
    if bits > MAX_BITS:
        raise _TooLong
    return bits
