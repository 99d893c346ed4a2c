"""One agent's inbox keys as they are written down, and what is due with them. Nothing here reads a file or a clock.

    current       the newest: the one that senders are told of
    overlapping   an earlier one whose certificate still counts: a sender may not have heard of the newer yet
    waiting       nobody seals to it any more, but what was sealed to it may still be read; then it is destroyed

A new key is due when there is none, when it is a week old, and when something that its certificate or its seal says is no
longer so. The older ones stay until nothing that was sealed to them can be waiting any more: what they open cannot be had again.

The counter never falls. It stands in the record, in the certificate that was published, and in what peers remember: the next
one is above all of these, so an older copy of any one of them does no harm.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cached_property
from itertools import pairwise
from typing import Any, Final

from bus.errors import RemoteProtocolError, VerificationError
from bus.policy import Policy
from bus.protocol.kem import BY_WORD
from bus.protocol.papers import MAX_INBOX_MS, InboxBody, InboxCertificate
from bus.protocol.skew import SKEW_MS

VERSION: Final = 1
ROTATED_AFTER_MS: Final = 7 * 86_400_000
LIFETIME_MS: Final = MAX_INBOX_MS
"""The longest that there is: an agent that was away for three weeks finds what was sent to it."""
LONGEST_EPOCH_MS: Final = 86_400_000
"""A grant that was sealed to a key in its last moment opens messages that are sent until the epoch ends."""
MAX_KEYS: Final = 1_024
"""Of one agent. One that makes a new key each hour for a month has 700."""
MAX_LEAP: Final = 1 << 20
"""How far ahead of what was given out here a counter may be that is known from elsewhere: what a file from a backup lacks."""
_WORDS: Final = {number: word for word, number in BY_WORD.items()}


class Why(Enum):
    """Why a new key is due. The words are for people and programs."""

    MISSING = "there was none"
    LOST = "a newer one was published, and is lost"
    IDENTITY = "the identity certificate is another"
    KIND = "policy asks for another kind"
    PLACE = "keys are sealed elsewhere now"
    AGE = "the last one was made a week ago"
    ASKED = "asked for"


class Phase(Enum):
    CURRENT = "current"
    OVERLAPPING = "overlapping"
    WAITING = "waiting for destruction"


@dataclass(frozen=True, slots=True)
class Place:
    """What sealed a private key: a kind of TPM, and the Name of its primary key (empty for the software keystore)."""

    origin: str
    parent: bytes


@dataclass(frozen=True)
class InboxKey:
    """One key: its certificate, its private half as the TPM sealed it, and how long it must be kept."""

    certificate: bytes
    sealed: bytes = field(repr=False)
    place: Place
    needed_until_ms: int

    @cached_property
    def body(self) -> InboxBody:
        """What its certificate says. Raises RemoteProtocolError."""
        return InboxCertificate.parse(self.certificate).body

    @property
    def counter(self) -> int:
        return self.body.counter

    @property
    def id(self) -> bytes:
        return self.body.key_id

    @property
    def kind(self) -> str:
        """The word of policy."""
        return _WORDS[self.body.kem]


@dataclass(frozen=True, slots=True)
class Record:
    """All inbox keys of one agent, ascending by counter."""

    name: str
    counter: int = 0
    """The highest that was ever given out, even if its key is gone."""
    keys: tuple[InboxKey, ...] = ()

    @property
    def newest(self) -> InboxKey | None:
        return self.keys[-1] if self.keys else None

    def with_key(self, key: InboxKey) -> Record:
        return replace(self, counter=key.counter, keys=(*self.keys, key))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the newest key of an agent should be like."""

    identity: bytes
    """SHA-256 of the agent's identity certificate."""
    kem: int
    place: Place
    retention_ms: int
    """The longest of the policy's durable topics."""
    floor: int = 0
    """The highest counter that is known from elsewhere, of the generation that the name has now."""
    passed_ms: int = 0
    """An instant that is known to have passed, whatever the clock says. Only by that a key is destroyed."""


def why(record: Record, wanted: Wanted, *, now_ms: int) -> Why | None:
    """Why a new key is due; None if none is."""
    newest = record.newest
    if newest is None:
        return Why.MISSING
    body = newest.body
    reasons = (
        (Why.LOST, newest.counter < max(record.counter, wanted.floor)),
        (Why.IDENTITY, body.identity != wanted.identity),
        (Why.KIND, body.kem != wanted.kem),
        (Why.PLACE, newest.place != wanted.place),
        (Why.AGE, now_ms >= min(body.not_before_ms + SKEW_MS + ROTATED_AFTER_MS, body.not_after_ms)),
    )
    return next((reason for reason, holds in reasons if holds), None)


def times(*, now_ms: int, identity_not_before_ms: int, identity_not_after_ms: int) -> tuple[int, int]:
    """From when until when a new certificate counts: never outside the time of the identity that signs it."""
    begins = max(now_ms - SKEW_MS, identity_not_before_ms)
    return begins, min(begins + LIFETIME_MS, identity_not_after_ms)


def next_counter(record: Record, wanted: Wanted) -> int:
    """Raises VerificationError("inbox_rollback") where somebody else took so many that whoever followed would run out of them."""
    if wanted.floor > record.counter + MAX_LEAP:
        detail = (
            f"an inbox certificate {wanted.floor} of it was seen, and {record.counter} were made here: somebody else has used its "
            f"identity key; `tpmbus trust revoke {record.name}` and enrol it again, then its counters begin anew"
        )
        raise VerificationError("inbox_rollback", agent=record.name, detail=detail)
    return max(record.counter, wanted.floor) + 1


def kept(record: Record, wanted: Wanted, *, now_ms: int) -> Record:
    """The record without what nobody can need any more. When each is over is never brought forward, only put off.

    A clock alone does not decide: one that is ahead for a moment would destroy what opens messages that still wait.

    A shorter retention is for messages that are sent from now on; those that wait were promised the longer one.
    """
    keys = (replace(key, needed_until_ms=max(key.needed_until_ms, needed_until(key.body, wanted))) for key in record.keys)
    passed_ms = min(now_ms, wanted.passed_ms)
    return replace(record, keys=tuple(key for key in keys if passed_ms <= key.needed_until_ms))


def needed_until(body: InboxBody, wanted: Wanted) -> int:
    return body.not_after_ms + LONGEST_EPOCH_MS + wanted.retention_ms


def phase(record: Record, key: InboxKey, *, now_ms: int) -> Phase:
    if now_ms > key.body.not_after_ms:
        return Phase.WAITING
    return Phase.CURRENT if key is record.newest else Phase.OVERLAPPING


def longest_retention(policy: Policy) -> int:
    return max((rule.retention_ms for rule in policy.topics if rule.is_durable), default=0)


# ---- on disk -------------------------------------------------------------------------------------------------------------------


def encode(record: Record) -> bytes:
    keys = [
        {
            "certificate": b64encode(key.certificate).decode(),
            "sealed": b64encode(key.sealed).decode(),
            "origin": key.place.origin,
            "parent": key.place.parent.hex(),
            "needed_until_ms": key.needed_until_ms,
        }
        for key in record.keys
    ]
    document = {"version": VERSION, "name": record.name, "counter": record.counter, "keys": keys}
    return json.dumps(document, indent=1).encode() + b"\n"


def decode(data: bytes, *, name: str) -> Record:
    """What `encode` wrote for this agent. Raises ValueError for anything else."""
    try:
        document = json.loads(data)
        if document["version"] != VERSION:
            raise ValueError(f"it was written by another version of tpmbus ({document['version']})")
        record = Record(document["name"], _number(document["counter"]), tuple(map(_key, document["keys"])))
        _check(record, name=name)
    except (KeyError, TypeError, RecursionError, RemoteProtocolError) as error:
        raise ValueError(f"no record of inbox keys: {error}") from error
    return record


def _key(line: dict[str, Any]) -> InboxKey:
    certificate, sealed = (b64decode(line[name], validate=True) for name in ("certificate", "sealed"))
    place = Place(line["origin"], bytes.fromhex(line["parent"]))
    return InboxKey(certificate, sealed, place, _number(line["needed_until_ms"]))


def _check(record: Record, *, name: str) -> None:
    counters = [key.counter for key in record.keys]
    if record.name != name or any(key.body.name != name for key in record.keys):
        raise ValueError("it is another agent's")
    if any(one >= other for one, other in pairwise(counters)) or counters[-1:] > [record.counter]:
        raise ValueError("its counters do not ascend")


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 64:
        raise ValueError("a number that nobody writes")
    return value
