"""Bodies on a command line: what is typed is what arrives, and what arrives can be typed again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.cli.bodies import as_bytes, as_text, parse_body, parse_headers

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("typed", "body"),
    [
        ('{"ref": "main"}', {"ref": "main"}),
        ("[1, 2.5, null, true]", [1, 2.5, None, True]),
        ("17", 17),
        ('"17"', "17"),
        ("hello there", "hello there"),
        ("", ""),
        ("{broken", "{broken"),
        ("NaN", "NaN"),
        ("Infinity", "Infinity"),
        ("18446744073709551615", 18_446_744_073_709_551_615),
        ("18446744073709551616", "18446744073709551616"),
        ("-9223372036854775809", "-9223372036854775809"),
        ("1" * 5_000, "1" * 5_000),
        ("[" * 100_000, "[" * 100_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_is_typed_is_json_or_a_string(typed, body):
    assert parse_body(typed.encode(), raw=False) == body
    assert parse_body(typed.encode(), raw=True) == typed.encode()


def test_what_is_no_text_is_bytes():
    assert parse_body(b"\xff\x00", raw=False) == b"\xff\x00"


@given(JSON)
def test_what_is_shown_can_be_typed_again(body):
    assert parse_body(as_text(body).encode(errors="surrogatepass"), raw=False) == body


@given(JSON | st.binary())
def test_a_body_is_shown_on_one_line_and_moves_no_cursor(body):
    assert as_text(body).isprintable()


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\x7f", "\u202e", "a\nb", "\x85"])
def test_a_text_that_would_play_with_the_terminal_is_shown_escaped(text):
    assert as_text(text).isprintable()
    assert parse_body(as_text(text).encode(), raw=False) == text
    assert as_bytes(text) == text.encode()


@given(st.binary())
def test_bytes_come_out_as_they_are(data):
    assert as_bytes(data) == data


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", ""),
        ("grüße".encode(), "grüße"),
        (b"x" * 5_000, "x" * 5_000),
        (b"two\nlines", r"two\nlines"),
        (b"\xff\x00", r"\xff\x00"),
        (bytes(65_536), "<65,536 bytes: " + "00 " * 16 + "..>"),
        (bytes(range(256)), "<256 bytes: 00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f ..>"),
    ],
    ids=["none", "text", "long-text", "lines", "few", "zeros", "many"],
)
def test_bytes_are_shown_as_text_or_by_how_they_begin(data, shown):
    assert as_text(data) == shown
    assert as_bytes(data) == data


def test_values_that_json_has_not_are_shown_all_the_same():
    assert json.loads(as_text({"a": b"\x00\x01"})) == {"a": "AAE="}


def test_headers():
    assert parse_headers(("a=1", "b=x=y", "c=")) == {"a": "1", "b": "x=y", "c": ""}
    for wrong in ("a", "=1"):
        with pytest.raises(ValueError, match="header"):
            parse_headers((wrong,))
