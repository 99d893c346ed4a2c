"""Records that were taken from lanes become envelopes: numbered, signed together, sealed each under its lane's epoch.

By session it happens here and now, one signature for the whole turn. By identity the drafts are made here, and the engine signs
them with whatever else waits for that key (`identity_turns`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final, NamedTuple

from bus.agent.lane import MOST_RECORDS, Lane, Note
from bus.errors import SessionEndedError
from bus.flow.rounds import MAX_ENVELOPE_BYTES
from bus.flow.waiting import Run, Taken
from bus.identity.envelopes import seal
from bus.identity.envelopes.seal import RANDOM_BYTES, Draft, Outgoing
from bus.identity.host.sessions import Sessions
from bus.identity.signer import Signer
from bus.protocol.header import ID_BYTES
from bus.protocol.proof import Proof
from bus.protocol.records import Records
from bus.protocol.suites import HOST_SUITE, Suite

_PLAIN: Final = Note()
MAX_COUNTED: Final = 4_096
"""Epochs whose records are counted: more than one process has."""
_Fact = tuple[bytes, Lane, Mapping[int, Note], int, Sequence[Run]]
"""Id, lane, notes, number of records and runs of one envelope."""


class Part(NamedTuple):
    """What one lane sends in a turn."""

    lane: Lane
    taken: Taken


class Sent(NamedTuple):
    """An envelope on its way, and what to tell whom when it arrived."""

    envelope: bytes
    id: bytes
    lane: Lane
    notes: Mapping[int, Note]
    """Of its records, by index, those that have one."""
    records: int
    runs: Sequence[Run] = ()
    """Of its records, those in a row that are waited for together."""


class Drafted(NamedTuple):
    """What one lane sends, as it waits for its identity's signature. It is sealed, or given up."""

    part: Part
    drafts: list[Draft]
    facts: list[_Fact]

    @property
    def is_whole(self) -> bool:
        """One envelope, as large as any: then more is likely to come at once."""
        taken = self.part.taken
        return len(self.drafts) == 1 and (len(taken.payloads) >= MOST_RECORDS or 2 * taken.size_bytes >= MAX_ENVELOPE_BYTES)

    def sealed(self, proofs: Sequence[Proof]) -> list[Sent]:
        """Raises LocalProtocolError."""
        return _sealed(self.drafts, proofs, self.facts)

    def give_up(self) -> None:
        """Every number that is not sealed is burned."""
        seal.give_up(self.drafts)


class SealingTurns:
    def __init__(self, sessions: Sessions, signer: Signer, *, random: Callable[[int], bytes]) -> None:
        self._sessions, self._signer, self._random = sessions, signer, random
        self._before: dict[bytes, dict[str, int]] = {}

    def by_session(self, parts: Sequence[Part], now_ms: int) -> list[Sent]:
        """One signature over all of them. Raises LocalProtocolError; then every number that was taken is burned."""
        drafts: list[Draft] = []
        try:
            facts = [fact for part in parts for fact in self._draft(part, HOST_SUITE, drafts, now_ms)]
            return _sealed(drafts, self._signer.sign_by_session(drafts), facts)
        except BaseException:
            seal.give_up(drafts)
            raise

    def drafted(self, part: Part, now_ms: int) -> Drafted:
        """Numbered, to be signed by its identity. Raises LocalProtocolError; then every number that was taken is burned."""
        drafts: list[Draft] = []
        try:
            suite = self._signer.suite_of(part.lane.agent, by_identity=True)
            return Drafted(part, drafts, self._draft(part, suite, drafts, now_ms))
        except BaseException:
            seal.give_up(drafts)
            raise

    async def signed(self, lane: Lane, these: Collection[Drafted]) -> list[list[Proof]]:
        """The proofs of each, when the TPM has signed: one request for all of them. Raises TpmError, LocalProtocolError."""
        drafts = [draft for one in these for draft in one.drafts]
        proofs = iter(await self._signer.sign_by_identity(lane.agent, drafts, cosign=lane.rule.cosign is not None))
        return [[*islice(proofs, len(one.drafts))] for one in these]

    def _draft(self, part: Part, suite: Suite, drafts: list[Draft], now_ms: int) -> list[_Fact]:
        """Drafts of all that a lane sends, added to `drafts` one by one, so that none is forgotten if another one fails."""
        lane = part.lane
        sealing = lane.sealing
        if sealing is None:
            raise SessionEndedError(lane.agent, "expired")
        facts = []
        for outgoing, notes, runs in self._outgoing(part, sealing.epoch.id, now_ms):
            random = self._random(RANDOM_BYTES)
            drafts.append(seal.draft(sealing.epoch, outgoing, suite=suite, random=random))
            facts.append((outgoing.id or random[:ID_BYTES], lane, notes, len(outgoing.records.payloads), runs))
        return facts

    def _outgoing(self, part: Part, epoch: bytes, now_ms: int) -> Iterator[tuple[Outgoing, Mapping[int, Note], Sequence[Run]]]:
        """One envelope for all records, or one for each."""
        lane, taken = part
        session = self._sessions.held.get(lane.agent)
        if session is None:
            raise SessionEndedError(lane.agent, "expired")
        sent_ms = session.sent_ms(now_ms)
        expires_ms = sent_ms + lane.key.ttl_ms
        topic, flags, count = lane.key.topic, lane.key.flags, len(taken.payloads)
        before = self._count(epoch, topic, count)
        if not lane.is_single:
            records = Records(taken.kinds, taken.payloads, taken.headers)
            yield Outgoing(topic, records, session.id, sent_ms, expires_ms, before, flags), taken.notes, taken.runs
            return
        runs = {place: (Run(0, 1, note),) for first, end, note in taken.runs for place in range(first, end)}
        for place, payload in enumerate(taken.payloads):
            headers = taken.headers.get(place)
            records = Records(taken.kinds[place : place + 1], (payload,), {0: headers} if headers else {})
            note = taken.notes.get(place, _PLAIN)
            outgoing = Outgoing(topic, records, session.id, sent_ms, expires_ms, before + place, flags, note.ref, note.id)
            yield outgoing, {} if note is _PLAIN else {0: note}, runs.get(place, ())

    def _count(self, epoch: bytes, topic: str, records: int) -> int:
        """How many were sent on this topic in this epoch before: gaps in it are how readers see what they missed."""
        topics = self._before.get(epoch)
        if topics is None:
            if len(self._before) >= MAX_COUNTED:
                del self._before[next(iter(self._before))]  # the oldest; a reader takes a count that begins anew for no gap
            topics = self._before[epoch] = {}
        count = topics.get(topic, 0)
        topics[topic] = count + records
        return count


def _sealed(drafts: Sequence[Draft], proofs: Sequence[Proof], facts: Sequence[_Fact]) -> list[Sent]:
    return [Sent(seal.seal(draft, proof), *fact) for draft, proof, fact in zip(drafts, proofs, facts, strict=True)]
