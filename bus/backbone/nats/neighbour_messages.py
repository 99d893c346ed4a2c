"""What gateways say to each other on NATS, byte for byte. Functions of values; nothing waits here.

    here     01 | id(16)                                      on SPACE.here, each second: I am a gateway, and this is where I listen
    hello    02 | id(16) | key(32)                            on SPACE.to.ID: let us have a link. From the one with the lesser id
    welcome  03 | label(16) | key(32)                         the answer; label: the first half of the key in the hello
    words    04 | label(16) | number(8) | sealed              everything after it; label: of the end that it is for

    sealed   kind(1) | taken(8) | a part of the stream        kind 0: goes on, 1: the last. taken: bytes of the other end's stream
                                                              that were taken in, by which it knows how much more it may send

Numbers begin with 1. The two streams of a link are frames, each after its length, cut into messages wherever one is full. What is
anything else is junk: it is counted and passed over, and so is what does not open.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from bus.backbone.nats.sealing import KEY_BYTES, LABEL_BYTES, TAG_BYTES

ID_BYTES: Final = 16
HERE: Final = 1
HELLO: Final = 2
WELCOME: Final = 3
WORDS: Final = 4
GOES_ON: Final = 0
LAST: Final = 1

_NUMBER: Final = struct.Struct(">Q")
_SAID: Final = struct.Struct(">BQ")
_HEAD_BYTES: Final = 1 + LABEL_BYTES + _NUMBER.size
OVERHEAD_BYTES: Final = _HEAD_BYTES + _SAID.size + TAG_BYTES


class Keyed(NamedTuple):
    """A hello, whose `who` is an id, or a welcome, whose `who` is a label."""

    who: bytes
    key: bytes


class Words(NamedTuple):
    label: bytes
    number: int
    head: bytes
    sealed: bytes


class Said(NamedTuple):
    """What was sealed."""

    is_last: bool
    taken: int
    stream: bytes


def here(id_: bytes) -> bytes:
    return bytes([HERE]) + id_


def hello(id_: bytes, key: bytes) -> bytes:
    return bytes([HELLO]) + id_ + key


def welcome(label: bytes, key: bytes) -> bytes:
    return bytes([WELCOME]) + label + key


def words_head(label: bytes, number: int) -> bytes:
    return bytes([WORDS]) + label + _NUMBER.pack(number)


def said(taken: int, stream: bytes, *, is_last: bool = False) -> bytes:
    return _SAID.pack(LAST if is_last else GOES_ON, taken) + stream


def parse_here(data: bytes) -> bytes | None:
    return data[1:] if len(data) == 1 + ID_BYTES and data[0] == HERE else None


def parse_keyed(data: bytes, kind: int) -> Keyed | None:
    """A hello or a welcome."""
    if len(data) != 1 + ID_BYTES + KEY_BYTES or data[0] != kind:
        return None
    return Keyed(data[1 : 1 + ID_BYTES], data[1 + ID_BYTES :])


def parse_words(data: bytes) -> Words | None:
    if len(data) < OVERHEAD_BYTES or data[0] != WORDS:
        return None
    head = data[:_HEAD_BYTES]
    (number,) = _NUMBER.unpack_from(head, 1 + LABEL_BYTES)
    return Words(head[1 : 1 + LABEL_BYTES], number, head, data[_HEAD_BYTES:])


def parse_said(plain: bytes) -> Said | None:
    """Of what was opened, which has at least so many bytes."""
    kind, taken = _SAID.unpack_from(plain)
    return Said(kind == LAST, taken, plain[_SAID.size :]) if kind in (GOES_ON, LAST) else None
