"""What is called how on NATS, and what a message says beside its envelope. Functions of values; nothing waits here.

    stream           SPACE_CLASS        one for each retention class; CLASS is its pattern made readable, and a part of its hash
    subjects         SPACE.CLASS.r.<topic>              records
                     SPACE.CLASS.d.<topic>              dead letters, by the topic of the original
                     SPACE.CLASS.q.<owner>.<name>       what an operator hands to one consumer again
                     SPACE.CLASS.p.<owner>.<name>.MADE.SEQ  that it put this record off: how often, since when
    consumer         OWNER=NAME, and OWNER=NAME=again
    buckets          KV_SPACE_consumers, KV_SPACE_grants, KV_SPACE_classes, KV_SPACE_trust
    said live        SPACE.again        a consumer has something to look at again
                     SPACE.here         a gateway is here
                     SPACE.to.ID        what is for one gateway
                     SPACE.authority    what agents ask of the authority, whichever hub has it
                     SPACE.answers.ID   what it answers, for one gateway
                     SPACE.told.BUCKET  a value that all follow, for those who are there, also while nothing can be stored

Wildcards of NATS stand for any token, ours for none that begins with an underscore: so dead letters have a place of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from bus.backbone.interface import DEAD, DEDUPLICATION_MS, MAX_OUTSTANDING, ConsumerName, RetentionClass
from bus.protocol.names import TOKEN

MESSAGE_ID: Final = "Nats-Msg-Id"
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
TTL: Final = "Nats-TTL"
SENDER: Final = "Tpmbus-Sender"
ID: Final = "Tpmbus-Id"
EXPIRES: Final = "Tpmbus-Expires"
CONSUMER: Final = "Tpmbus-Consumer"
ORIGINAL: Final = "Tpmbus-Original"
DIED: Final = "Tpmbus-Died"
TOPIC: Final = "Tpmbus-Topic"
UNTIL: Final = "Tpmbus-Until"

ALLOW_TTL: Final = "allow_msg_ttl"
"""Of a stream: its messages may have a time of their own. nats-server 2.11 and newer."""

ACK: Final = b"+ACK"
TERM: Final = b"+TERM"
TOUCH: Final = b"+WPI"

SPARE_MS: Final = 86_400_000
"""A stream keeps what it has so much longer than policy says: servers go by clocks of their own, and what one that is ahead takes
for over, nobody can have again. What is past its time is not handed out anyway. It is longer than duplicates are known
(`DEDUPLICATION_MS`): a server that begins again knows those ids alone whose messages it has."""
_MS: Final = 1_000_000
_SPACE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}", re.ASCII)
_LARGEST: Final = (1 << 63) - 1


class Given(NamedTuple):
    """What the reply subject of a delivery says."""

    seq: int
    deliveries: int


class Names:
    """Of one bus on a NATS account. Several can share one, each in a space of its own."""

    def __init__(self, space: str) -> None:
        """Raises ValueError."""
        if _SPACE.fullmatch(space) is None:
            raise ValueError(f"{space[:64]!r} is no space for a bus on NATS: it is 1 to 32 of a-z 0-9 _ -")
        self.space = space
        self.again = f"{space}.again"
        self.here = f"{space}.here"
        self.authority = f"{space}.authority"

    def answers(self, asker: str) -> str:
        """Where who asked the authority listens."""
        return f"{self.space}.answers.{asker}"

    def to(self, gateway: str) -> str:
        """Where one gateway listens."""
        return f"{self.space}.to.{gateway}"

    def told(self, bucket: str) -> str:
        """Where who follows a bucket listens too."""
        return f"{self.space}.told.{bucket}"

    def stream(self, class_: str) -> str:
        return f"{self.space}_{_token(class_)}"

    def record(self, class_: str, topic: str) -> str:
        return f"{self.space}.{_token(class_)}.r.{topic}"

    def dead(self, class_: str, topic: str) -> str:
        return f"{self.space}.{_token(class_)}.d.{topic}"

    def requeued(self, class_: str, name: ConsumerName) -> str:
        return f"{self.space}.{_token(class_)}.q.{name.owner}.{name.name}"

    def put_off(self, class_: str, name: ConsumerName, made_ms: int) -> str:
        """With a record's sequence behind it: where it stands that this consumer put that off."""
        return f"{self.space}.{_token(class_)}.p.{name.owner}.{name.name}.{made_ms}"

    def filter(self, class_: str, pattern: str) -> str:
        """The subjects of a pattern, which may be one of dead letters."""
        if pattern.startswith(DEAD):
            return self.dead(class_, pattern.removeprefix(DEAD))
        return self.record(class_, pattern)

    def topic(self, class_: str, subject: str) -> str | None:
        """The topic, as the interface has it, of a message of this class; None for what is no record."""
        before = f"{self.space}.{_token(class_)}."
        kind, rest = subject[len(before) : len(before) + 2], subject[len(before) + 2 :]
        if not subject.startswith(before) or kind not in ("r.", "d.") or not all(map(TOKEN.fullmatch, rest.split("."))):
            return None
        return rest if kind == "r." else DEAD + rest

    def stream_config(self, settings: RetentionClass, *, replicas: int) -> dict[str, Any]:
        """`allow_msg_ttl`: newer servers give it back, older ones do not know it. Who once has it cannot be without."""
        keep_ms = keeps_ms(settings)
        return {
            "name": self.stream(settings.name),
            "description": f"tpmbus: what policy keeps as {settings.name}",
            "subjects": [f"{self.space}.{_token(settings.name)}.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "old",
            "num_replicas": replicas,
            "max_age": keep_ms * _MS,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_msgs_per_subject": -1,
            "duplicate_window": min(DEDUPLICATION_MS, keep_ms) * _MS,
            ALLOW_TTL: True,
        }

    def bucket_config(self, name: str, *, replicas: int) -> dict[str, Any]:
        """A stream that NATS's own tools show as a key-value bucket."""
        bucket = f"{self.space}_{name}"
        return {
            "name": f"KV_{bucket}",
            "subjects": [f"$KV.{bucket}.>"],
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "num_replicas": replicas,
            "max_age": 0,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_msg_size": -1,
            "max_msgs_per_subject": 1,
            "duplicate_window": 120_000 * _MS,
            "allow_rollup_hdrs": True,
        }


def consumer_config(
    name: str, subject: str, settings: RetentionClass, *, begins: Mapping[str, Any], unused_seconds: int = 0
) -> dict[str, Any]:
    """`begins`: where, in JetStream's words. How often something is handed out at most is counted by brokers: they bury it."""
    config: dict[str, Any] = {
        "durable_name": name,
        "ack_policy": "explicit",
        "ack_wait": settings.ack_wait_ms * _MS,
        "max_deliver": -1,
        "filter_subject": subject,
        "replay_policy": "instant",
        "max_ack_pending": MAX_OUTSTANDING,
        "max_waiting": 512,
        **begins,
    }
    if unused_seconds:
        config["inactive_threshold"] = unused_seconds * 1_000 * _MS
    return config


def keeps_ms(settings: RetentionClass) -> int:
    """So long the stream of this class keeps what has no time of its own."""
    return settings.retention_ms + SPARE_MS


def ttl(expires_ms: int, now_ms: int, kept_ms: int) -> str:
    """How long servers are to keep what expires then; empty where they keep it no longer anyway. Whole seconds, rounded up."""
    seconds = max(1, -((now_ms - expires_ms - SPARE_MS) // 1000))
    return f"{seconds}s" if seconds * 1000 < kept_ms else ""


def durable_name(name: ConsumerName) -> str:
    return f"{name.owner}={name.name}"


def message_id(*parts: str | bytes) -> str:
    """By which JetStream knows a message again. Each part counts with its length, so that no two lists of parts are alike."""
    state = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        state.update(len(data).to_bytes(4) + data)
    return state.hexdigest()[:32]


def nak(delay_ms: int) -> bytes:
    return b'-NAK {"delay": %d}' % (delay_ms * _MS) if delay_ms > 0 else b"-NAK"


def parse_reply(reply: str) -> Given | None:
    """`$JS.ACK.[domain.account.]stream.consumer.deliveries.seq.nth.time.pending[.token]`; None for anything else."""
    parts = reply.split(".")
    if parts[:2] != ["$JS", "ACK"] or len(parts) < 9:
        return None
    first = 4 if len(parts) == 9 else 6
    deliveries, seq = number(parts[first]), number(parts[first + 1])
    return Given(seq, deliveries) if seq and deliveries else None


def consumer_of(reply: str) -> str:
    """Of a reply subject that `parse_reply` took: whose it is, written so that two consumers differ."""
    parts = reply.split(".")
    return ".".join(parts[: 4 if len(parts) == 9 else 6])


def question(reply: str) -> str:
    """Of a reply subject that `parse_reply` took: one of the same consumer for a record that there is not.

    The server answers what is said of that, after all that was said before, and does nothing.
    """
    parts = reply.split(".")
    parts[5 if len(parts) == 9 else 7] = str(_LARGEST)
    return ".".join(parts)


def number(text: str) -> int:
    """A positive number in decimal; 0 for everything else."""
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0
    return value if value <= _LARGEST else 0


def _token(class_: str) -> str:
    readable = "".join(sign if sign.isalnum() else "-" for sign in class_).strip("-")[:32]
    return f"{readable}-{hashlib.sha256(class_.encode()).hexdigest()[:12]}"
