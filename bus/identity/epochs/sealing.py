"""The epochs that this process seals with: one for each sender and all that policy decides, and no more of them than are needed.

    found       by exactly what makes one epoch differ from another, but for its times; a changed audience is another key
    live        ends with the session under which it was made: at its renewal, at once
    durable     24 hours, over any number of renewals, never longer than this process
    spent       another one takes its place

When policy or trust changes, every epoch has to be asked for again, so that nobody goes on with one that is no longer right; those
for whose topics there is another one now are given up at once, drafts and all. After a renewal what is being signed at that moment
may still be sealed. For a few seconds what was given up can be granted to those who hold messages of it and no key. Secrets of live
epochs go then; those of durable ones go where epochs of earlier sessions are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bus.identity.envelopes.reserved import reply_topic, requester_of
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.epochs.entitled import Grantable
from bus.identity.host.forks import retired_in_a_child
from bus.identity.host.session import Session
from bus.protocol import audience
from bus.protocol.audience import Members
from bus.protocol.epochs import AEADS, CLASSES, DURABLE, PRIORITIES, SECRET_BYTES, SIGNERS, Params, SealingEpoch
from bus.protocol.kem import BY_WORD

DURABLE_MS: Final = 86_400_000
LINGER_MS: Final = 10_000
"""How long what was given up can be granted, and its drafts be sealed: readers park for two seconds, and a TPM may be slow."""


class EpochKey(NamedTuple):
    """All that makes one epoch another one, but for its times."""

    domain: str
    sender: str
    audience: bytes
    class_: int
    priority: int
    signed_by: int
    aead: int
    kem: int


class Use(NamedTuple):
    """What an epoch is asked for. `request`: the topic of the request, if `topic` is where its reply goes."""

    sender: str
    topic: str
    priority: str | None = None
    """None: the rule's own."""
    request: str | None = None


@dataclass(slots=True, eq=False)
class Sealing:
    """An epoch that a lane holds as long as it is `still_good`."""

    key: EpochKey
    epoch: SealingEpoch
    grantable: Grantable
    use: Use
    """What it was last asked for."""
    session: bytes
    """The id of the session that a live one belongs to; empty for a durable one."""
    good_until_ms: int = field(default=-1)

    def still_good(self, sent_ms: int) -> bool:
        """Whether an envelope that is sent at this time may be sealed with it; if not, ask for one again."""
        return sent_ms <= self.good_until_ms and not self.epoch.is_spent


class SealingEpochs:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._table: dict[EpochKey, Sealing] = {}
        self._by_id: dict[bytes, Sealing] = {}
        self._ended: deque[tuple[int, Sealing]] = deque()
        self._digests: dict[int, tuple[Members, bytes]] = {}
        self.made = self.ended = 0
        retired_in_a_child(self)

    def __len__(self) -> int:
        """Those that seal."""
        return len(self._table)

    def __iter__(self) -> Iterator[Sealing]:
        return iter(self._table.values())

    def find(self, epoch_id: bytes) -> Sealing | None:
        """For granting: also one that was given up a moment ago."""
        return self._by_id.get(epoch_id)

    def get(self, use: Use, session: Session, *, sent_ms: int, random: Callable[[int], bytes]) -> Sealing:
        """The epoch for this, under the sender's current session; a new one if there is none that is good.

        Raises VerificationError("trust_stale"): then nothing is sealed at all.
        """
        self._snapshot.trust.check_fresh(sent_ms)
        key, members = self._key(use, self._snapshot)
        found = self._table.get(key)
        if found is not None and (_is_over(found, sent_ms) or found.session not in (b"", session.id)):
            self._end(found, now_ms=sent_ms)
            found = None
        if found is None:
            found = self._make(key, members, use, session, sent_ms=sent_ms, secret=random(SECRET_BYTES))
        found.use = use
        found.good_until_ms = min(found.epoch.params.ends_ms, self._snapshot.trust.statement.next_update_ms)
        found.grantable.used_for(_kind(use.topic))
        return found

    def _make(self, key: EpochKey, members: Members, use: Use, session: Session, *, sent_ms: int, secret: bytes) -> Sealing:
        durable = key.class_ == DURABLE
        ends_ms = sent_ms + DURABLE_MS if durable else session.not_after_ms
        epoch = retired_in_a_child(SealingEpoch.make(secret, Params(*key, made_ms=sent_ms, ends_ms=ends_ms)))
        made = Sealing(key, epoch, Grantable(epoch, secret, members, set()), use, b"" if durable else session.id)
        self._table[key] = self._by_id[epoch.id] = made
        self.made += 1
        return made

    def _key(self, use: Use, snapshot: Snapshot) -> tuple[EpochKey, Members]:
        rule = snapshot.rule(use.request or use.topic, reply=use.request is not None)
        members = snapshot.audience(use.topic)
        return EpochKey(
            snapshot.domain,
            use.sender,
            self._digest(members),
            CLASSES[rule.class_],
            PRIORITIES[use.priority or rule.priority],
            SIGNERS[rule.signed_by],
            AEADS[rule.aead],
            BY_WORD[rule.kem],
        ), members

    def _digest(self, members: Members) -> bytes:
        """Of one snapshot's audiences, each worked out once: an audience may have ten thousand names."""
        known = self._digests.get(id(members))
        if known is None or known[0] is not members:
            known = self._digests[id(members)] = members, audience.digest(members)
        return known[1]

    # ---- ending --------------------------------------------------------------------------------------------------------------

    def follow(self, snapshot: Snapshot, *, now_ms: int) -> None:
        """Another policy or trust is in force."""
        self._snapshot = snapshot
        self._digests.clear()
        for one in list(self._table.values()):
            one.good_until_ms = -1
            if self._key(one.use, snapshot)[0] != one.key:
                self._end(one, now_ms=now_ms)
                one.epoch.retire()

    def renewed(self, sessions: Mapping[str, Session], *, now_ms: int) -> None:
        """These are the current sessions; whose is not among them has closed, or has none."""
        for one in list(self._table.values()):
            session = sessions.get(one.key.sender)
            if one.session and (session is None or session.id != one.session):
                self._end(one, now_ms=now_ms)

    def close(self, sender: str) -> None:
        """This agent seals no more, and nobody is granted anything of it."""
        for one in [one for one in self._by_id.values() if one.key.sender == sender]:
            if self._table.get(one.key) is one:
                del self._table[one.key]
                self.ended += 1
            _give_up(one)
            del self._by_id[one.epoch.id]

    def _end(self, one: Sealing, *, now_ms: int) -> None:
        """No number of it is given out any more."""
        del self._table[one.key]
        one.good_until_ms = -1
        self._ended.append((now_ms + LINGER_MS, one))
        self.ended += 1
        if not one.epoch.outstanding:
            one.epoch.retire()

    def forget(self, now_ms: int) -> list[Grantable]:
        """Let go of what has ended. What comes back are durable ones with their secrets: messages of them may wait for long."""
        for one in [one for one in self._table.values() if _is_over(one, now_ms)]:
            self._end(one, now_ms=now_ms)
        kept = []
        while self._ended and not self._ended[0][0] > now_ms:
            _, one = self._ended.popleft()
            if self._by_id.pop(one.epoch.id, None) is None:
                continue  # its agent has closed
            one.epoch.retire()
            if one.epoch.params.is_durable:
                kept.append(one.grantable)
            else:
                one.grantable.secret = b""
        return kept

    def statistics(self) -> dict[str, int]:
        return {"sealing": len(self._table), "made": self.made, "ended": self.ended}

    def retire(self) -> None:
        """Give up every secret, in a forked child too."""
        for one in self._by_id.values():
            _give_up(one)
        self._table.clear()
        self._by_id.clear()
        self._ended.clear()


def _give_up(one: Sealing) -> None:
    one.good_until_ms = -1
    one.epoch.retire()
    one.grantable.secret = b""


def _is_over(one: Sealing, sent_ms: int) -> bool:
    return one.epoch.is_spent or sent_ms > one.epoch.params.ends_ms


def _kind(topic: str) -> str:
    """Replies to one agent are alike, whichever of its sessions they go to."""
    requester = requester_of(topic)
    return topic if requester is None else reply_topic(requester, bytes(16))
