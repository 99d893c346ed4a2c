"""Records as messages of a stream, and back. What comes from NATS may be anything: what is no record of this class is None."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from bus.backbone.interface import ConsumerName, DeadLetter, Entry
from bus.backbone.nats.appending import Outgoing
from bus.backbone.nats.connection import Arrived
from bus.backbone.nats.jetstream import Kept
from bus.backbone.nats.layout import (
    CONSUMER,
    DIED,
    EXPIRES,
    ID,
    MESSAGE_ID,
    ORIGINAL,
    SENDER,
    TOPIC,
    Names,
    message_id,
    number,
    parse_reply,
)
from bus.backbone.registry import check_name
from bus.errors import RemoteProtocolError
from bus.protocol.envelope import MAX_ENVELOPE_BYTES
from bus.protocol.frames import parse_dead_letter
from bus.protocol.names import TOKEN

MAX_FRAME_BYTES = MAX_ENVELOPE_BYTES + 4_096
"""Of a dead letter, which is its original and why."""


class Record(NamedTuple):
    position: int
    seq: int
    """Where it lies itself; something else than its position where it was handed out anew by an operator."""
    deliveries: int
    topic: str
    expires_ms: int
    envelope: bytes


def outgoing(entry: Entry, names: Names) -> Outgoing:
    headers = {
        MESSAGE_ID: message_id("record", entry.sender, entry.id),
        SENDER: entry.sender,
        ID: entry.id.hex(),
        EXPIRES: str(entry.expires_ms),
    }
    return Outgoing(names.record(entry.class_, entry.topic), headers, entry.envelope, entry.expires_ms)


def requeued(original: Kept, letter: DeadLetter, names: Names) -> Outgoing:
    """What a consumer is handed anew: the original, for it alone, once for each dead letter."""
    expires = original.headers.get(EXPIRES, "")
    headers = {
        MESSAGE_ID: message_id("again", str(letter.position)),
        SENDER: letter.sender,
        ID: letter.id.hex(),
        EXPIRES: expires,
        ORIGINAL: str(letter.original),
        TOPIC: letter.topic,
    }
    return Outgoing(names.requeued(letter.class_, letter.consumer), headers, original.data, number(expires))


def parse_record(arrived: Arrived, class_: str, names: Names) -> Record | None:
    """What a consumer got."""
    given = parse_reply(arrived.reply)
    topic = names.topic(class_, arrived.subject)
    expires_ms = number(arrived.headers.get(EXPIRES, ""))
    if given is None or topic is None or not expires_ms or len(arrived.data) > MAX_FRAME_BYTES:
        return None
    return Record(given.seq, given.seq, given.deliveries, topic, expires_ms, arrived.data)


def parse_requeued(arrived: Arrived, class_: str, names: Names) -> Record | None:
    """What an operator had handed out anew."""
    given = parse_reply(arrived.reply)
    topic = names.topic(class_, names.record(class_, arrived.headers.get(TOPIC, "")))
    position, expires_ms = number(arrived.headers.get(ORIGINAL, "")), number(arrived.headers.get(EXPIRES, ""))
    if given is None or topic is None or not position or not expires_ms or len(arrived.data) > MAX_FRAME_BYTES:
        return None
    return Record(position, given.seq, given.deliveries, topic, expires_ms, arrived.data)


def parse_dead(kept: Kept, class_: str, names: Names) -> DeadLetter | None:
    """A dead letter as it lies in its stream."""
    topic = names.topic(class_, kept.subject)
    owner, _, name = kept.headers.get(CONSUMER, "").partition("/")
    original, died_ms = number(kept.headers.get(ORIGINAL, "")), number(kept.headers.get(DIED, ""))
    id_ = _bytes(kept.headers, ID)
    if topic is None or not original or not died_ms or id_ is None:
        return None
    consumer, sender = ConsumerName(owner, name), kept.headers.get(SENDER, "")
    try:
        check_name(consumer)
        reason, deliveries, _ = parse_dead_letter(kept.data)
    except (RemoteProtocolError, ValueError):
        return None
    if sender and TOKEN.fullmatch(sender) is None:
        return None
    return DeadLetter(class_, kept.seq, topic.partition(".")[2], sender, id_, consumer, original, reason, deliveries, died_ms)


def _bytes(headers: Mapping[str, str], name: str) -> bytes | None:
    try:
        return bytes.fromhex(headers.get(name, ""))
    except ValueError:
        return None
