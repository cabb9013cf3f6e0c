from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blocksync.errors import ProtocolError, UsageError
from blocksync.trust.names import check_slot_name, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("db1.example.org", "db1.example.org"),
        ("Zürich 数据库", "Zürich 数据库"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("two\r\nlines\t", "two\\x0d\\x0alines\\x09"),
        ("\x9b31m", "\\x9b31m"),
        ("a\u202egnp.exe", "a\\u202egnp.exe"),
        ("zero\u200bwidth\u2066", "zero\\u200bwidth\\u2066"),
        ("tag\U000e0041", "tag\\U000e0041"),
        ("lone\ud800", "lone\\ud800"),
        ("filler\u3164", "filler\\u3164"),
        ("variant\ufe0f", "variant\\ufe0f"),
        ("no\u00a0break", "no break"),
        ("line\u2028end", "line\\u2028end"),
        ("e\u0301\u0301\u0301\u0301\u0301", "e\u0301\u0301\u0301\u0301\\u0301"),
        ("", ""),
    ],
)
def test_what_a_terminal_would_obey_is_shown_instead(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_long_text_is_cut_between_characters_and_marked() -> None:
    assert printable("abcdef", 6) == "abcdef"
    assert printable("abcdefg", 6) == "abcde…"
    assert printable("abc\x1bx", 6) == "abc…"  # half an escape would not fit
    assert printable("ab", 1) == "…"
    assert printable("\x1b" * 10_000_000, 20) == "\\x1b\\x1b\\x1b\\x1b…"


@given(st.text(max_size=300), st.integers(1, 100))
def test_the_result_is_harmless_short_and_stable(text: str, limit: int) -> None:
    shown = printable(text, limit)
    assert len(shown) <= limit
    shown.encode("utf-8")
    assert not [c for c in shown if unicodedata.category(c)[0] == "C" or unicodedata.category(c) in ("Zl", "Zp")]
    assert printable(shown, limit) == shown


@pytest.mark.parametrize("name", ["a", "sda", "db-1.root_2", "_x", "9", "A" * 64])
def test_slot_names(name: str) -> None:
    assert check_slot_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".x", "-x", "a/b", "a\\b", "a b", "a\n", "\n", "é", "a\x00", "A" * 65, "a:b", "٣"]
)
def test_no_slot_names(name: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_slot_name(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(ProtocolError):
        check_slot_name(name, kind=ProtocolError)
