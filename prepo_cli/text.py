"""Text that is not ours, made safe to show: on one line, without control characters and without credentials."""

from __future__ import annotations

import re

HIDDEN = "***"
"""Stands for credentials wherever an address is shown or stored."""
_USER = re.compile(r"(?<=://)[^\s/?#]*@")
_QUERY = re.compile(r"(://[^\s?#]*\?)[^\s'\"]+")


def plain(text: str) -> str:
    r"""The text redacted and on one line: what steers a terminal, or can't be seen, is written as its escape.

    >>> print(plain("red \x1b[31m, moved \u202e, forged\nline"))
    red \x1b[31m, moved \u202e, forged\nline
    """
    shown = redacted(text)
    return shown if shown.isprintable() else "".join(c if c.isprintable() else _escaped(c) for c in shown)


def brief(text: str, limit: int = 80) -> str:
    """The text as `plain` shows it, with its middle left out if it is long.

    >>> brief("1" * 5000, 20)
    '111111111…1111111111'
    """
    shown = plain(text)
    return shown if len(shown) <= limit else f"{shown[: (limit - 1) // 2]}…{shown[-(limit // 2) :]}"


def counted(number: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "prompt"), counted(1200, "prompt")
    ('1 prompt', '1,200 prompts')
    """
    return f"{number:,} {noun}{'s' * (number != 1)}"


def redacted(text: str) -> str:
    """The text with the credentials of every address in it hidden.

    >>> redacted("no answer from http://me:secret@node1:8000/v1?api_key=secret for 240 s")
    'no answer from http://***@node1:8000/v1?*** for 240 s'
    """
    return _QUERY.sub(rf"\1{HIDDEN}", _USER.sub(f"{HIDDEN}@", text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
