"""The frames of a link: arrays that begin with their type. What each means, and who may send it, is in the specification.

`encode` packs fields as they are; `parse` gives them back with every type and range checked, or raises. The two frames that carry
everything, PUBLISH and DELIVER, hold their numbers as columns of four bytes each: no list within a list has to be made for them,
and who reads the same column again finds at once what it found the first time.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Any, Final

from bus.protocol.codec import ascii_text, malformed, pack, sized, unpack, unsigned
from bus.protocol.envelope import MAX_ENVELOPE_BYTES
from bus.protocol.handshake import REFUSE as REFUSALS
from bus.protocol.header import EPOCH_ID_BYTES, ID_BYTES
from bus.protocol.names import MAX_TOPIC_BYTES, is_agent_name
from bus.protocol.signatures import HOST_SIGNATURE_BYTES

MAX_FRAME_BYTES: Final = MAX_ENVELOPE_BYTES + (64 << 10)
MAX_ROWS: Final = 1_024
"""Of the list that a frame holds; envelopes of a turn too."""
MAX_TURNS_OUT: Final = 256
"""Turns of a link that are not credited yet."""
MAX_DELIVERED: Final = 16_384
"""Subscriptions that one delivery names."""

BY_ITS_TOPIC: Final = 0
"""The alias of envelopes that go where their own header says: grants, replies, audit records."""
KEPT_GRANT: Final = 1
"""The alias of grants that are kept with durable messages, on disk before the turn is stored."""
FIRST_ALIAS: Final = 2

ALL_DELIVERIES: Final = 0
"""In the place of a subscription, in a CREDIT of the host: deliveries were taken in."""
LISTENS: Final = 0
DURABLE: Final = 1
GONE: Final = 2
"""How somebody listens, in INTEREST."""
ACK: Final = 1
NAK: Final = 2
NOT_BEGUN: Final = "not_begun"
"""The reason of a NAK: who leaves was handed it and has not looked at it. Whoever is next gets it as if for the first time."""
TERM: Final = 3
TOUCH: Final = 4
STATEMENT: Final = 0
CRL: Final = 1
BUNDLE: Final = 2
MAX_DOCUMENT_BYTES: Final = 16 << 20
"""Of what TRUST carries in parts."""
UNHEARD: Final = "unheard"
"""What a REFUSE says of a request that nobody listens to any more. It breaks no rule: the word is no code."""
JUNK: Final = "junk"
"""What a DRAIN says to a host before its link is ended over what was refused."""
MAX_WORD_BYTES: Final = 256
_U32: Final = (1 << 32) - 1
_U64: Final = (1 << 64) - 1


class Frame(IntEnum):
    HELLO_A = 1
    HELLO_B = 2
    PROVE = 3
    OPEN = 4
    OPENED = 5
    PUBLISH = 6
    CREDIT = 7
    STORED = 8
    SUBSCRIBE = 9
    SUBSCRIBED = 10
    UNSUBSCRIBE = 11
    DELIVER = 12
    SETTLE = 13
    INTEREST = 14
    INTEREST_SEEN = 15
    ASK = 16
    PAPERS = 17
    TRUST = 18
    AUTHORITY = 19
    PING = 20
    PONG = 21
    DRAIN = 22
    REFUSE = 23


def encode(frame: Frame, *fields: Any) -> bytes:
    """The frame without its length. The caller keeps to the types; nobody else would be told."""
    return pack((int(frame), *fields))


def parse(data: bytes) -> list[Any]:
    """[type, field..]. Raises RemoteProtocolError("malformed")."""
    if len(data) > MAX_FRAME_BYTES:
        raise malformed("a frame of more than 1 MiB and 64 KiB")
    fields = unpack(data, longest=MAX_ROWS, arrays=MAX_ROWS + 2)
    types = [*map(type, fields)]
    if types == _DELIVERED and _is_delivery(fields):
        return fields
    if types == _CREDITED and fields[0] == _CREDIT and 0 <= fields[1] <= _U32 and 0 <= fields[2] <= _U32:
        return fields  # as many as deliveries and turns are
    checks = _FIELDS.get(fields[0]) if fields and type(fields[0]) is int else None
    if checks is None or len(fields) != len(checks) + 1:
        raise malformed("no frame has this type, or so many fields")
    for place, check in enumerate(checks, 1):
        check(fields[place])
    if fields[0] == Frame.PUBLISH and len(fields[2]) != 4 * len(fields[3]):
        raise malformed("a turn has one alias for each envelope")
    if fields[0] == Frame.TRUST and fields[3] + len(fields[4]) > fields[2]:
        raise malformed("a part that ends after the whole")
    return fields


def column(numbers: Iterable[int]) -> bytes:
    """Numbers of four bytes each."""
    listed = [*numbers]
    return struct.pack(f">{len(listed)}I", *listed)


def numbers(column: bytes) -> tuple[int, ...]:
    return struct.unpack(f">{len(column) // 4}I", column)


def sub_ref(sub: int) -> bytes:
    """What a REFUSE names a subscription by."""
    return sub.to_bytes(4, "big")


# ---- the fields of each ----------------------------------------------------------------------------------------------------------

Check = Callable[[Any], Any]


def _u32(value: Any) -> None:
    if type(value) is not int or not 0 <= value <= _U32:
        raise malformed("a field is no number of 32 bits")


def _within(most: int) -> Check:
    return lambda value: unsigned(value, most=most)


def _bytes(*sizes: int) -> Check:
    return lambda value: sized(value, *sizes)


def _envelope(value: Any) -> None:
    if type(value) is not bytes or len(value) > MAX_ENVELOPE_BYTES:
        raise malformed("no envelope, or one of more than 1 MiB")


def _envelopes(value: Any) -> None:
    if type(value) is not list or not value or {*map(type, value)} != {bytes} or max(map(len, value)) > MAX_ENVELOPE_BYTES:
        raise malformed("a turn is a list of envelopes")


def _column(most: int) -> Check:
    def check(value: Any) -> None:
        if type(value) is not bytes or len(value) % 4 or len(value) > 4 * most:
            raise malformed("a field is no column of 32-bit numbers")

    return check


def _word(value: Any) -> None:
    if len(ascii_text(value)) > MAX_WORD_BYTES:
        raise malformed("a word of more than 256 bytes")


def _topic(value: Any) -> None:
    if len(ascii_text(value)) > MAX_TOPIC_BYTES + 1 + len("_dead."):
        raise malformed("a topic or pattern that is too long")


def _name(value: Any) -> None:
    if not is_agent_name(ascii_text(value)):
        raise malformed("no agent's name")


def _code(value: Any) -> None:
    if value not in REFUSALS and value != UNHEARD:
        raise malformed("a peer says one of six words when it refuses")


def _rows(*checks: Check) -> Check:
    def check(value: Any) -> None:
        if type(value) is not list:
            raise malformed("a field is no list")
        for row in value:
            if type(row) is not list or len(row) != len(checks):
                raise malformed("a row of the wrong length")
            for one, field in zip(checks, row, strict=True):
                one(field)

    return check


def _papers(value: Any) -> None:
    if type(value) is not list or not value or {*map(type, value)} != {bytes} or not all(value):
        raise malformed("papers are a list of bytes")


_u64: Final = _within(_U64)
_FIELDS: Final[Mapping[int, tuple[Check, ...]]] = {
    Frame.HELLO_A: (_bytes(),),
    Frame.HELLO_B: (_bytes(),),
    Frame.PROVE: (_bytes(HOST_SIGNATURE_BYTES),),
    Frame.OPEN: (_u32, _topic),
    Frame.OPENED: (_u32, _within(1), _within(1), _u64),
    Frame.PUBLISH: (_u32, _column(MAX_ROWS), _envelopes),
    Frame.CREDIT: (_u32, _u32),
    Frame.STORED: (_u32, _rows(_bytes(ID_BYTES), _u64)),
    Frame.SUBSCRIBE: (_u32, _name, _topic, _word, _word, _word, _u32, _word),
    Frame.SUBSCRIBED: (_u32,),
    Frame.UNSUBSCRIBE: (_u32,),
    Frame.DELIVER: (_u32, _column(MAX_DELIVERED), _u32, _u64, _envelope),
    Frame.SETTLE: (_u32, _within(TOUCH), _rows(_u64, _u64), _u64, _word),
    Frame.INTEREST: (_u64, _rows(_name, _topic, _within(GONE))),
    Frame.INTEREST_SEEN: (_u64,),
    Frame.ASK: (_bytes(ID_BYTES, EPOCH_ID_BYTES), _bytes()),
    Frame.PAPERS: (_papers, _bytes(0, HOST_SIGNATURE_BYTES)),
    Frame.TRUST: (_within(BUNDLE), _within(MAX_DOCUMENT_BYTES), _within(MAX_DOCUMENT_BYTES), _bytes()),
    Frame.AUTHORITY: (_bytes(),),
    Frame.PING: (_u64,),
    Frame.PONG: (_u64,),
    Frame.DRAIN: (_word,),
    Frame.REFUSE: (_code, _bytes(0, 4, ID_BYTES, EPOCH_ID_BYTES)),
}


_DELIVER: Final = int(Frame.DELIVER)
_DELIVERED: Final = [int, int, bytes, int, int, bytes]
_CREDIT: Final = int(Frame.CREDIT)
_CREDITED: Final = [int, int, int]


def _is_delivery(fields: list[Any]) -> bool:
    """Whether it is a DELIVER, and all of it within its range: most of what a host hears is one, so it is asked at once. What is
    wrong with another is said by the checks of each field.
    """
    frame, number, subs, deliveries, position, envelope = fields
    return (
        frame == _DELIVER
        and 0 <= number <= _U32
        and len(subs) % 4 == 0
        and len(subs) <= 4 * MAX_DELIVERED
        and 0 <= deliveries <= _U32
        and 0 <= position <= _U64
        and len(envelope) <= MAX_ENVELOPE_BYTES
    )


def dead_letter(reason: str, deliveries: int, envelope: bytes) -> bytes:
    """What stands in a DELIVER to those who read dead letters."""
    return pack((reason, deliveries, envelope))


def parse_dead_letter(data: bytes) -> tuple[str, int, bytes]:
    """Raises RemoteProtocolError("malformed")."""
    fields = unpack(data, longest=3, arrays=1)
    if len(fields) != 3:
        raise malformed("a dead letter is a reason, a number of deliveries and an envelope")
    _word(fields[0])
    _u32(fields[1])
    _envelope(fields[2])
    return fields[0], fields[1], fields[2]
