"""Part 3: envelope and header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from . import pack, shape
from .names import is_topic
from .refusal import demand

MAX_ENVELOPE, MAX_HEADER = 1_048_576, 1_024


@dataclass(frozen=True)
class Header:
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


def read_header(data: bytes) -> Header:
    fields: list[Any] = shape.array(pack.parse(data, MAX_HEADER), 15)
    version, kind, flags, topic, sender, session, epoch, seq, sent, expires, priority, records, own, ref, before = fields
    shape.one_of(version, [1])
    demand(is_topic(shape.text(topic)), "malformed", "no topic")
    return Header(
        shape.one_of(kind, [1, 2]),
        shape.one_of(flags, [0, 1, 2]),
        topic,
        shape.agent(sender),
        shape.binary(session, [16]),
        shape.binary(epoch, [32]),
        shape.number(seq, 0, shape.U32),
        shape.number(sent),
        shape.number(expires),
        shape.number(priority, 0, 4),
        shape.number(records, 1, 1_024),
        shape.binary(own, [16]),
        shape.binary(ref, [0, 16]),
        shape.number(before),
    )


def read_envelope(data: bytes) -> tuple[bytes, bytes]:
    """(header, sealed), both as bytes."""
    header, sealed = shape.array(pack.parse(data, MAX_ENVELOPE), 2)
    return shape.binary(header, range(MAX_HEADER + 1)), shape.binary(sealed)
