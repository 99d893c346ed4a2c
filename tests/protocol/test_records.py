"""The body: records in columns."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import RemoteProtocolError
from bus.protocol import records as columns
from bus.protocol.records import Records

ASCII = st.text(st.characters(max_codepoint=127), max_size=12)
HEADERS = st.dictionaries(ASCII, ASCII, min_size=1, max_size=5)


@given(st.lists(st.tuples(st.integers(0, 1), st.binary(max_size=50), st.none() | HEADERS), min_size=1, max_size=20))
def test_what_was_sent_comes_out(records: list[tuple[int, bytes, dict[str, str] | None]]):
    made = Records(
        bytes(kind for kind, _, _ in records),
        [payload for _, payload, _ in records],
        {index: headers for index, (_, _, headers) in enumerate(records) if headers},
    )
    body = made.encode()
    parsed = columns.parse(body)
    assert parsed == made
    assert parsed.encode() == body
    assert body == msgpack.packb(
        [made.kinds, made.payloads, [[i, [list(h) for h in hs.items()]] for i, hs in made.headers.items()]]
    )


def body(kinds: Any = b"\x00\x01", payloads: Any = (b"a", b"b"), extras: Any = ()) -> bytes:
    return msgpack.packb([kinds, payloads, extras])


def test_the_most_records_and_headers_pass():
    assert len(columns.parse(body(bytes(1024), [b""] * 1024)).payloads) == 1024
    pairs = [[f"h{number}", ""] for number in range(64)]
    assert len(columns.parse(body(extras=[[1, pairs]])).headers[1]) == 64


WRONG: dict[str, bytes] = {
    "nothing": b"",
    "two columns": msgpack.packb([b"", []]),
    "four columns": msgpack.packb([b"\x00", [b""], [], 0]),
    "no records": body(b"", []),
    "1025 records": body(bytes(1025), [b""] * 1025),
    "a kind that is none": body(b"\x00\x02"),
    "a kind too few": body(b"\x00"),
    "a kind too many": body(b"\x00\x00\x00"),
    "kinds as text": body("\x00\x01"),
    "payloads as bytes": body(payloads=b"ab"),
    "a payload of text": body(payloads=[b"a", "b"]),
    "a payload that is nil": body(payloads=[b"a", None]),
    "a payload that is a list": body(payloads=[b"a", [b"b"]]),
    "extras that are nil": body(extras=None),
    "an extra that is none": body(extras=[0]),
    "an extra of three": body(extras=[[0, [["a", "b"]], 1]]),
    "an extra for a record that is not there": body(extras=[[2, [["a", "b"]]]]),
    "an extra for a record before the first": body(extras=[[-1, [["a", "b"]]]]),
    "an extra for no number": body(extras=[[True, [["a", "b"]]]]),
    "extras out of order": body(extras=[[1, [["a", "b"]]], [0, [["a", "b"]]]]),
    "an extra twice": body(extras=[[0, [["a", "b"]]], [0, [["a", "b"]]]]),
    "an extra without headers": body(extras=[[0, []]]),
    "headers that are no list": body(extras=[[0, "ab"]]),
    "65 headers": body(extras=[[0, [[f"h{number}", ""] for number in range(65)]]]),
    "a header of one": body(extras=[[0, [["a"]]]]),
    "a header of three": body(extras=[[0, [["a", "b", "c"]]]]),
    "a header of bytes": body(extras=[[0, [["a", b"b"]]]]),
    "a header beyond ASCII": body(extras=[[0, [["a", "ä"]]]]),
    "a header twice": body(extras=[[0, [["a", "1"], ["a", "2"]]]]),
    "a header that is text": body(extras=[[0, ["ab"]]]),
    "something behind": body() + b"\x00",
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_all_else_is_malformed(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        columns.parse(data)
    assert caught.value.reason == "malformed"
