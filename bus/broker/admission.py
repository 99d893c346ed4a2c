"""What an envelope must be so that a broker passes it on: said by a known agent of this link, now, and allowed by policy.

The header is all that a broker reads. What is the same for all envelopes of one session on one topic is worked out once, in a
permit, and kept until policy or trust change; for each envelope there are only numbers to compare. It is what receivers ask too
(lines 3, 8 and 9), so that what they would refuse costs little; they ask again themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from bus.errors import VerificationError
from bus.identity.envelopes.arrival import check_times
from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.standing import Standing
from bus.protocol.codec import malformed
from bus.protocol.epochs import PRIORITIES
from bus.protocol.header import DATA, Header
from bus.protocol.skew import SKEW_MS

AGAIN_MS: Final = 600_000
"""How late a durable envelope may be that is sent again after a reconnect."""
BESIDE_RECORDS: Final = 8 << 10
"""What an envelope may have beside its records: header, proof, and what is said about each."""
MAX_PERMITS: Final = 8_192
"""Kept at a time; a full table starts anew."""


@dataclass(slots=True, eq=False)
class Permit:
    """For one session on one topic, by one snapshot."""

    believed: Believed = field(repr=False)
    standing: Standing = field(repr=False)
    topic: str
    ttl_ms: int
    late_ms: int
    """How long ago it may have been sent."""
    priorities: frozenset[int]
    max_bytes: int
    is_durable: bool
    epoch: bytes = b""
    """The last that was seen."""
    is_clear: bool = field(init=False)
    """Nothing is against the session itself, whenever it was used."""

    def __post_init__(self) -> None:
        standing = self.standing
        self.is_clear = standing.fault is None and standing.forbidden is None and standing.rotated_ms is None

    def check(self, header: Header, size: int, now_ms: int) -> None:
        """Return if this may pass. Raises VerificationError, RemoteProtocolError("malformed").

        Nearly all may: one expression finds that out. What it does not let pass is looked at again, to say why.
        """
        sent, standing = header.sent_ms, self.standing
        if (
            self.is_clear
            and now_ms - self.late_ms <= sent <= now_ms + SKEW_MS
            and now_ms <= header.expires_ms <= sent + self.ttl_ms
            and standing.not_before_ms <= sent <= standing.not_after_ms
            and header.sender == standing.name
            and header.priority in self.priorities
            and header.kind == DATA
            and size <= header.records * self.max_bytes + BESIDE_RECORDS
        ):
            return
        self._look_again(header, size, now_ms)

    def _look_again(self, header: Header, size: int, now_ms: int) -> None:
        """The same, one by one; of a key that was replaced, what was sent before passes."""
        if header.kind != DATA:
            raise malformed("a grant goes by its own topic")
        check_times(header, self.ttl_ms, now_ms=now_ms)
        if header.sent_ms < now_ms - self.late_ms:
            raise VerificationError(
                "expired", agent=header.sender, detail=f"sent {now_ms - header.sent_ms} ms ago: compare the clocks"
            )
        self.standing.check_signer(header)
        if self.standing.forbidden is not None:
            raise self.standing.forbidden.error(header.sender)
        if header.priority not in self.priorities:
            raise VerificationError("not_permitted", agent=header.sender, detail=f"no priority of {self.topic}")
        if size > header.records * self.max_bytes + BESIDE_RECORDS:
            raise VerificationError("not_permitted", agent=header.sender, detail=f"larger than messages of {self.topic} may be")


class Admission:
    """Permits, of one snapshot at a time."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._permits: dict[tuple[bytes, str, bool], Permit] = {}

    def follow(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._permits.clear()

    def senders(self) -> Iterator[tuple[str, str]]:
        """Who sent what since policy or trust changed: an agent and a topic."""
        return ((one.believed.name, one.topic) for one in self._permits.values() if one.epoch)

    def permit(self, believed: Believed, topic: str, *, reply: bool = False) -> Permit:
        """`topic` is the envelope's; of a reply, the request's."""
        key = (believed.id, topic, reply)
        found = self._permits.get(key)
        if found is None:
            rule = self.snapshot.rule(topic, reply=reply)
            found = Permit(
                believed,
                self.snapshot.standing(believed, topic, reply=reply),
                topic,
                ttl_ms=rule.ttl_ms,
                late_ms=AGAIN_MS if rule.is_durable else SKEW_MS,
                priorities=frozenset(PRIORITIES[word] for word in rule.priorities),
                max_bytes=rule.max_bytes,
                is_durable=rule.is_durable,
            )
            if len(self._permits) >= MAX_PERMITS:
                self._permits.clear()
            self._permits[key] = found
        return found
