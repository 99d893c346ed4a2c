"""The signed and authenticated head of every envelope: what a broker reads, and all that it reads.

    header = [1, kind, flags, topic, sender, session(16), epoch(32),
              seq, sent_ms, expires_ms, priority, records, id(16), ref(0|16), before]

What is hashed and authenticated are the bytes as received; they parse only in their one encoding, so the two never differ.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgpack

from bus.protocol.codec import malformed, pack
from bus.protocol.names import AGENT_NAME, MAX_TOKENS, MAX_TOPIC_BYTES

VERSION: Final = 1
DATA: Final = 1
GRANT: Final = 2
REQUEST: Final = 1
REPLY: Final = 2
"""Flags. An envelope has one of them or none."""

MAX_HEADER_BYTES: Final = 1_024
MAX_RECORDS: Final = 1_024
MAX_SEQ: Final = (1 << 32) - 1
"""An epoch ends after 2^32 envelopes."""
MAX_PRIORITY: Final = 4
SESSION_ID_BYTES: Final = 16
EPOCH_ID_BYTES: Final = 32
ID_BYTES: Final = 16

_FIELDS: Final = 15
_TOPIC: Final = re.compile(rf"[A-Za-z0-9_-]{{1,64}}(?:\.[A-Za-z0-9_-]{{1,64}}){{0,{MAX_TOKENS - 1}}}", re.ASCII)
_TYPES: Final = [int, int, int, str, str, bytes, bytes, int, int, int, int, int, bytes, bytes, int]


class Header(NamedTuple):
    version: int
    kind: int
    flags: int
    topic: str
    sender: str
    session: bytes
    epoch: bytes
    seq: int
    sent_ms: int
    expires_ms: int
    priority: int
    records: int
    id: bytes
    ref: bytes
    before: int
    """Records of this sender on this topic in this epoch before this envelope: how readers see gaps."""

    def encode(self) -> bytes:
        return pack(self)

    @property
    def is_request(self) -> bool:
        return self.flags == REQUEST

    @property
    def is_reply(self) -> bool:
        return self.flags == REPLY


def parse(data: bytes) -> Header:
    """The header that these bytes are. Raises RemoteProtocolError("malformed")."""
    if len(data) > MAX_HEADER_BYTES:
        raise malformed("a header of more than 1 KiB")
    try:
        fields = msgpack.unpackb(data, raw=False, max_array_len=_FIELDS, max_map_len=0, max_ext_len=0)
    except ValueError as error:
        raise malformed("a header is msgpack of the protocol's kind") from error
    # One comparison of all types, before anything is compared by value: True is 1, and no field here is a bool.
    if type(fields) is not list or [*map(type, fields)] != _TYPES:
        raise malformed("a header has these fifteen fields and no others")
    if (fault := _fault(fields)) is not None:
        raise malformed(fault)
    if _encoded(fields) != data:
        raise malformed("not in shortest form")
    return Header._make(fields)


def _encoded(fields: list[Any]) -> bytes:
    try:
        return pack(fields)
    except (OverflowError, ValueError) as error:
        raise malformed("a number that no field can hold") from error


def _fault(fields: list[Any]) -> str | None:
    version, kind, flags, topic, sender, session, epoch, seq, sent, expires, priority, records, id_, ref, before = fields
    if version != VERSION:
        return "an unknown version"
    if kind not in (DATA, GRANT) or not 0 <= flags <= REPLY:
        return "an unknown kind or flag"
    if not is_topic(topic) or not _is_agent(sender):
        return "no topic, or no agent's name"
    if len(session) != SESSION_ID_BYTES or len(epoch) != EPOCH_ID_BYTES or len(id_) != ID_BYTES or len(ref) not in (0, ID_BYTES):
        return "an id of the wrong length"
    if not (0 <= seq <= MAX_SEQ and sent >= 0 and expires >= 0 and 0 <= priority <= MAX_PRIORITY and 0 < records <= MAX_RECORDS):
        return "a number outside its range"
    return None if before >= 0 else "a number outside its range"


@lru_cache(maxsize=4_096)
def is_topic(text: str) -> bool:
    """Whether an envelope may name this topic: the grammar of topics, reserved tokens included."""
    return len(text) <= MAX_TOPIC_BYTES and _TOPIC.fullmatch(text) is not None


@lru_cache(maxsize=4_096)
def _is_agent(text: str) -> bool:
    return AGENT_NAME.fullmatch(text) is not None
