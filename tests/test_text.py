"""Text that may come from anywhere: on one line, harmless to a terminal, without credentials."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prepo_cli.text import HIDDEN, brief, plain, redacted


@given(st.text())
def test_plain_text_is_printable_and_unchanged_if_it_was(text: str) -> None:
    shown = plain(text)
    assert shown.isprintable()
    assert plain(shown) == shown
    if text.isprintable() and "://" not in text:
        assert shown == text
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("a\r\nprepo: forged", r"a\r\nprepo: forged"),
        ("\u202eevil\u200b\u2028", r"\u202eevil\u200b\u2028"),
        ("\udc80", r"\udc80"),
        ("[bold]größe 数[/]", "[bold]größe 数[/]"),
    ],
)
def test_what_steers_or_hides_is_shown(text: str, shown: str) -> None:
    assert plain(text) == shown


@given(st.text(), st.integers(10, 60))
def test_brief_text_is_short_and_keeps_both_ends(text: str, limit: int) -> None:
    shown, whole = brief(text, limit), plain(text)
    assert len(shown) <= limit
    assert whole.startswith(shown.partition("…")[0]) and whole.endswith(shown.rpartition("…")[2])


SECRET = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="/?#'\""), min_size=6)


@given(SECRET, SECRET, st.sampled_from(["http", "https", "ftp"]))
def test_no_part_of_the_credentials_is_left(user: str, token: str, scheme: str) -> None:
    found = redacted(f"no answer from {scheme}://{user}@node1:8000/v1?key={token} for 240 s")
    assert found == f"no answer from {scheme}://{HIDDEN}@node1:8000/v1?{HIDDEN} for 240 s"
    assert redacted(found) == found


def test_text_without_credentials_stays() -> None:
    for text in ("http://node1:8000/v1", "me@example.com", "is 3 > 2? yes", "http://[::1]:8000"):
        assert redacted(text) == text
