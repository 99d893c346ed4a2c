"""Where a consumer begins, as text and as a value."""

from __future__ import annotations

import pytest

from bus.flow.start import ALL, LAST, NEW, Start, parse_start


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("new", NEW),
        ("all", ALL),
        ("last", LAST),
        ("time=0", Start("time", 0)),
        ("time=1800000000000", Start("time", 1_800_000_000_000)),
        ("position=9223372036854775807", Start("position", (1 << 63) - 1)),
    ],
)
def test_a_start_has_one_text(text, start):
    assert parse_start(text) == start
    assert str(start) == text


@pytest.mark.parametrize(
    "text",
    ["", "New", "new ", "time", "time=", "time=-1", "time=01", "time=+1", "time=1.5", "time=٣", "position=9223372036854775808",
     "position=" + "9" * 5_000, "all=1", "last=2", "=1", "time=1 "],
)  # fmt: skip
def test_anything_else_is_none(text):
    with pytest.raises(ValueError, match="no start"):
        parse_start(text)
