"""The header: what parses is its one encoding, and every field has its range."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import RemoteProtocolError
from bus.protocol import header as headers
from bus.protocol.header import Header

FIELDS: dict[str, Any] = {
    "version": 1,
    "kind": 1,
    "flags": 0,
    "topic": "tasks.build",
    "sender": "DIRECTOR",
    "session": b"s" * 16,
    "epoch": b"e" * 32,
    "seq": 7,
    "sent_ms": 1_700_000_000_000,
    "expires_ms": 1_700_000_060_000,
    "priority": 3,
    "records": 2,
    "id": b"i" * 16,
    "ref": b"",
    "before": 12,
}


def encoded(**changes: Any) -> bytes:
    return msgpack.packb(list((FIELDS | changes).values()))


def test_a_header_is_these_fifteen_fields_in_this_order():
    parsed = headers.parse(encoded())
    assert parsed._asdict() == FIELDS
    assert parsed.encode() == encoded()
    assert not parsed.is_request
    assert not parsed.is_reply
    assert headers.parse(encoded(flags=1)).is_request
    assert headers.parse(encoded(flags=2, ref=b"r" * 16)).is_reply


EDGES: dict[str, dict[str, Any]] = {
    "the last number": {"seq": 2**32 - 1},
    "the most records": {"records": 1024},
    "the longest topic": {"topic": ".".join(["a" * 31] * 16)},
    "reserved topics": {"topic": "_reply.MONITOR.00ff"},
    "a short name": {"sender": "A"},
    "the longest name": {"sender": "A" * 32},
    "the end of time": {"sent_ms": 2**64 - 1, "expires_ms": 2**64 - 1, "before": 2**64 - 1},
    "control": {"priority": 0},
    "a grant": {"kind": 2},
}


@pytest.mark.parametrize("changes", EDGES.values(), ids=EDGES.keys())
def test_what_is_at_the_edge_is_inside(changes: dict[str, Any]):
    assert headers.parse(encoded(**changes)) == Header(**(FIELDS | changes))


WRONG: dict[str, bytes] = {
    "nothing": b"",
    "no array": msgpack.packb({"a": 1}),
    "a bin": msgpack.packb(b"header"),
    "too few fields": msgpack.packb(list(FIELDS.values())[:-1]),
    "too many fields": msgpack.packb([*FIELDS.values(), 0]),
    "bytes after it": encoded() + b"\x00",
    "its last byte missing": encoded()[:-1],
    "more than 1 KiB": encoded(topic="t" * 1100),
    "an array in the long form": b"\xdc\x00\x0f" + encoded()[1:],
    "a number in a long form": encoded().replace(b"\x07", b"\xcc\x07", 1),
    "version 0": encoded(version=0),
    "version 2": encoded(version=2),
    "version true": encoded(version=True),
    "kind 0": encoded(kind=0),
    "kind 3": encoded(kind=3),
    "flags 3": encoded(flags=3),
    "negative flags": encoded(flags=-1),
    "an empty topic": encoded(topic=""),
    "a topic with an empty token": encoded(topic="a..b"),
    "a topic with a wildcard": encoded(topic="tasks.*"),
    "a topic that ends in a newline": encoded(topic="tasks\n"),
    "a topic beyond ASCII": encoded(topic="täsks"),
    "a topic of 17 tokens": encoded(topic=".".join("a" * 17)),
    "a topic of 513 bytes": encoded(topic=".".join(["a" * 56] * 9) + "a"),
    "a token of 65 bytes": encoded(topic="a" * 65),
    "a topic as bytes": encoded(topic=b"tasks"),
    "a small name": encoded(sender="director"),
    "a name of 33 bytes": encoded(sender="A" * 33),
    "no name": encoded(sender=""),
    "a session of 15 bytes": encoded(session=b"s" * 15),
    "an epoch of 31 bytes": encoded(epoch=b"e" * 31),
    "an id of 17 bytes": encoded(id=b"i" * 17),
    "a ref of 1 byte": encoded(ref=b"r"),
    "an id as text": encoded(id="i" * 16),
    "a number beyond 2^32": encoded(seq=2**32),
    "a negative number": encoded(seq=-1),
    "a number with a fraction": encoded(seq=1.0),
    "sent before 1970": encoded(sent_ms=-1),
    "expires before 1970": encoded(expires_ms=-1),
    "priority 5": encoded(priority=5),
    "a negative priority": encoded(priority=-1),
    "no records": encoded(records=0),
    "1025 records": encoded(records=1025),
    "a negative count": encoded(before=-1),
    "nil": encoded(before=None),
    "a bool": encoded(before=False),
    "a list": encoded(before=[1]),
    "an extension": encoded(before=msgpack.ExtType(1, b"")),
    "a map": encoded(before={}),
    "no UTF-8": encoded().replace(b"tasks.build", b"tasks.buil\xff"),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_all_else_is_malformed(data: bytes):
    with pytest.raises(RemoteProtocolError) as caught:
        headers.parse(data)
    assert caught.value.reason == "malformed"


@given(st.binary(max_size=300))
def test_any_bytes_parse_or_are_refused(data: bytes):
    try:
        parsed = headers.parse(data)
    except RemoteProtocolError:
        return
    assert parsed.encode() == data


@given(st.integers(0, len(encoded()) * 8 - 1))
def test_a_flipped_bit_is_refused_or_another_header_in_its_one_encoding(bit: int):
    flipped = bytearray(encoded())
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        parsed = headers.parse(bytes(flipped))
    except RemoteProtocolError:
        return
    assert parsed.encode() == bytes(flipped)
    assert parsed != headers.parse(encoded())


@pytest.mark.parametrize(("topic", "allowed"), [("a", True), ("_grant.A", True), ("a.>", False), ("", False)])
def test_which_topics_an_envelope_may_name(topic: Any, allowed: bool):
    assert headers.is_topic(topic) is allowed
