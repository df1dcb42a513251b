r"""The `math` verdict: does a completion's final answer equal the gold answer as mathematics?

The last \boxed{} is the answer. Without any box, it is what follows the last ####, or else an announcement ("the
answer is"), or the whole completion if that is too short to be anything else; the last number in reasoning that was cut
off does not count. With several gold answers, one of them is enough, or all of them as a set or tuple.

math-verify compares. It may hang, so `check` is called only in worker processes (pool.py). `quick_verdict` compares
plain integers without it, with the same outcome.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from prepo_cli.rewards.answers import BOX, given_answer, normalize
from prepo_cli.rewards.towers import too_long

WHOLE_COMPLETION_CHARS = 50
TAIL_CHARS = 2000
MAX_ANSWER_CHARS = 2000
MAX_DEPTH = 50
"""Parsing takes seconds from some hundred nested brackets on."""
# Twelve digits are exact in a double, in which math-verify compares a gold such as 27.0.
INTEGER = re.compile(r"-?[0-9]{1,12}")
GOLD_INTEGER = re.compile(r"(-?[0-9]{1,12})(?:\.0{1,3})?")
BRACKET = re.compile(r"[()\[\]{}]")
BINOMIAL = re.compile(r"binom\s*\{\s*[0-9]{6,}")
DOLLAR = re.compile(r"(?<!\\)\$")


class Job(NamedTuple):
    """One comparison by math-verify. `kind` says where `answer` comes from: a box, a short completion or a tail."""

    golds: tuple[str, ...]
    answer: str
    kind: str


def prepare(golds: tuple[str, ...], completion: str) -> Job | bool:
    """The job for a completion, or its verdict where no comparison is needed.

    Answers far longer than any gold answer, or nested far deeper, count as wrong without being parsed, so that garbage
    costs no time.
    """
    content = given_answer(completion)
    if content is not None:
        longest = max(MAX_ANSWER_CHARS, 4 * max(map(len, golds), default=0))
        deepest = max(MAX_DEPTH, *map(nesting, golds))
        if not content.strip() or len(content) > longest or nesting(content) > deepest:
            return False
        quick = quick_verdict(golds, content)
        return Job(golds, content, "boxed") if quick is None else quick
    text = completion.strip()
    if not text or BOX.search(completion):
        return False
    if len(text) <= WHOLE_COMPLETION_CHARS:
        return Job(golds, text, "short")
    tail = text[-TAIL_CHARS:]
    return Job(golds, tail, "tail") if "answer" in tail.lower() else False


def nesting(text: str) -> int:
    """How deep brackets of any kind are nested, closed or not.

    >>> nesting("12"), nesting("f(x, [1, 2]) + (3)"), nesting("(((")
    (0, 2, 3)
    """
    depth = deepest = 0
    for bracket in BRACKET.findall(text):
        depth += 1 if bracket in "([{" else -1
        deepest = max(deepest, depth)
    return deepest


def quick_verdict(golds: tuple[str, ...], content: str) -> bool | None:
    """math-verify's verdict where the boxed answer and all gold answers are plain integers; None in all other cases."""
    answer = INTEGER.fullmatch(content.strip())
    if answer is None:
        return None
    values = [GOLD_INTEGER.fullmatch(gold.strip()) for gold in golds]
    if not all(values):
        return None
    return int(answer[0]) in {int(value[1]) for value in values if value}


def check(job: Job) -> bool:
    """math-verify's verdict, but of numbers too long to compute only the same expression equals another.

    Hostile text can make it hang or kill the process all the same.
    """
    from math_verify import verify

    if any(map(BINOMIAL.search, [job.answer, *job.golds])):  # computed while parsing
        return normalize(job.answer) in map(normalize, job.golds)
    target, golds = _parse_answer(job.answer, job.kind), _parse_golds(job.golds)
    if any(map(too_long, [*target, *golds])):
        if any(form == gold for form in target for gold in golds):
            return True
        target, golds = ([each for each in forms if not too_long(each)] for forms in (target, golds))
    return bool(target) and bool(verify(golds, target, timeout_seconds=None))


def _parse_answer(answer: str, kind: str) -> list[Any]:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    if kind == "boxed":
        return list(parse(_boxed(answer), parsing_timeout=None))
    if kind == "short":
        return list(parse(answer, parsing_timeout=None))
    announced = (
        LatexExtractionConfig(try_extract_without_anchor=False, boxed_match_priority=-1),
        ExprExtractionConfig(try_extract_without_anchor=False),
    )
    return list(parse(answer, extraction_config=announced, parsing_timeout=None))


@lru_cache(maxsize=256)
def _parse_golds(golds: tuple[str, ...]) -> list[Any]:
    from math_verify import parse

    texts = [gold if DOLLAR.search(gold) or BOX.search(gold) else _boxed(gold) for gold in golds]
    if len(golds) > 1:
        texts.append(_boxed(", ".join(DOLLAR.sub("", gold) for gold in golds)))
    return [expression for text in texts for expression in parse(text, parsing_timeout=None)]


def _boxed(text: str) -> str:
    return f"\\boxed{{{text}}}"
