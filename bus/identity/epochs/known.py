"""Whom a host knows: the sessions whose papers it believed, and the newest inbox certificate of each agent.

    papers      believed once; the same bytes again cost a hash; what was refused is refused again without looking, for a minute
    one         of a session: the first, unless later ones bring the ML-DSA key that trust names, and the first did not
    kept        until nothing live that was signed under them can come any more, and for ten minutes after they came: who reads
                old durable messages gets the papers of each session with them, and gets them again when it asks
    room        64 sessions a name, 4,096 in all (or 16 for each agent that may be heard); the earliest go, current ones last
    inboxes     a counter is on disk before its certificate is used, and a lower one is never used again; counters of who was
                revoked are not looked at, so that they do not stand against who gets the name next

To let go of papers loses nothing: what needs them waits, and they are asked for. So here, unlike with what stops replays, there
is no harm in pushing out. A name that opens many sessions pushes out its own, long before there is no room for others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from itertools import chain
from typing import Final

from bus.errors import LocalProtocolError, RemoteProtocolError, VerificationError, twin
from bus.identity.envelopes.believe import Believed, BelievedInbox, believe
from bus.identity.envelopes.granting import check_not_revoked
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.remembered import Remembered
from bus.identity.trust_memory import InboxMark, TrustMemory
from bus.protocol import cosign
from bus.protocol.expiry import Expiry
from bus.protocol.skew import SKEW_MS
from bus.trust.view import TrustView

MAX_OF_A_NAME: Final = 64
LEAST_MS: Final = 600_000
REFUSED: Final = 256
REFUSED_MS: Final = 60_000


class Known:
    def __init__(self, held: Held, memory: TrustMemory, trust: TrustView) -> None:
        self._held, self._memory, self._trust = held, memory, trust
        self._ids: dict[bytes, bytes] = {}
        """Of sessions, by the digest of their papers, in the order in which they came."""
        self._papers: dict[bytes, bytes] = {}
        """The other way round."""
        self._of_name: dict[str, dict[bytes, Believed]] = {}
        self._expiry = Expiry()
        self._refused: Remembered[bytes, VerificationError | RemoteProtocolError] = Remembered(
            entries=REFUSED, lifetime_ms=REFUSED_MS
        )
        self._inboxes: dict[str, BelievedInbox] = {}
        self.longest_live_ms = 0
        """The longest that a live message may travel."""
        self.refused: Counter[str] = Counter()
        """By reason."""

    # ---- sessions ------------------------------------------------------------------------------------------------------------

    def believe(self, data: bytes, *, now_ms: int) -> Believed:
        """The session of these papers. Raises RemoteProtocolError("malformed"), VerificationError("untrusted", "bad_proof")."""
        digest = hashlib.sha256(data).digest()
        session = self._ids.get(digest)
        if session is not None:
            return self._held.sessions[session]
        again = self._refused.get(digest, now_ms=now_ms)
        if again is not None:
            self.refused[again.reason] += 1
            raise twin(again)
        try:
            found = believe(data, self._held.verifier, now_ms=now_ms)
        except (RemoteProtocolError, VerificationError) as error:
            self.refused[error.reason] += 1
            self._refused.put(digest, error.with_traceback(None), now_ms=now_ms, generation=self._refused.generation)
            raise
        return self._admit(found, digest, now_ms=now_ms)

    def _admit(self, found: Believed, digest: bytes, *, now_ms: int) -> Believed:
        held = self._held
        known = held.sessions.get(found.id)
        if known is not None:  # the same certificate; what is beside it nobody signed, so whoever carried it may have changed it
            if self._is_vouched_for(known) or not self._is_vouched_for(found):
                return known
            self._drop(found.id)
        mine = self._of_name.get(found.name, {})
        if len(mine) >= MAX_OF_A_NAME:
            self._drop(next((one.id for one in mine.values() if not _is_current(one, now_ms)), next(iter(mine))))
        if len(self._ids) >= held.room.limit():
            ended = (session for session in self._ids.values() if not _is_current(held.sessions[session], now_ms))
            self._drop(next(ended, next(iter(self._ids.values()))))
        held.sessions[found.id] = found
        self._ids[digest], self._papers[found.id] = found.id, digest
        self._of_name.setdefault(found.name, {})[found.id] = found
        self._expiry.keep(found.id, until_ms=max(found.not_after_ms + self.longest_live_ms + SKEW_MS, now_ms + LEAST_MS))
        return found

    def _is_vouched_for(self, one: Believed) -> bool:
        """Whether trust names the ML-DSA key in these papers."""
        return self._trust.ml_dsa_hash(one.name) == cosign.key_hash(one.papers.ml_dsa)

    def _drop(self, session: bytes) -> None:
        digest = self._papers.pop(session, None)
        if digest is None:
            return
        name = self._held.sessions.pop(session).name
        del self._ids[digest], self._of_name[name][session]
        if not self._of_name[name]:
            del self._of_name[name]

    def session_of(self, name: str, *, now_ms: int) -> Believed | None:
        """The newest of this agent that counts now; else the newest."""
        return max(
            self._of_name.get(name, {}).values(), key=lambda one: (_is_current(one, now_ms), one.not_before_ms), default=None
        )

    # ---- inboxes -------------------------------------------------------------------------------------------------------------

    def mark(self, found: BelievedInbox, *, now_ms: int) -> InboxMark:
        """What has to be written down of it. Raises VerificationError("revoked", "untrusted") if it does not count now."""
        check_not_revoked(found.identity, self._trust, now_ms=now_ms)
        body = found.inbox.body
        if now_ms > min(body.not_after_ms, found.identity.not_after_ms):
            raise VerificationError("untrusted", agent=found.name, detail="its inbox certificate has ended")
        return self._trust.generation(found.name), body.counter

    def take_inbox(self, found: BelievedInbox, *, now_ms: int) -> None:
        """From now on this agent's. Raises VerificationError("revoked", "untrusted", "inbox_rollback").

        Its mark was written down before, in `TrustMemory.accept_inboxes`; else LocalProtocolError: a counter that a crash makes
        us forget would let an older key come back.
        """
        generation, counter = self.mark(found, now_ms=now_ms)
        highest = self._memory.inbox_counter(found.name, generation)
        if counter < highest:
            self.refused["inbox_rollback"] += 1
            raise VerificationError(
                "inbox_rollback", agent=found.name, detail=f"inbox key {counter}, and {highest} was seen before"
            )
        if counter > highest:
            raise LocalProtocolError(f"the counter of {found.name}'s inbox key is not written down yet")
        self._inboxes[found.name] = found

    # ---- readers -------------------------------------------------------------------------------------------------------------

    def readers(
        self, listening: Iterable[str], durable: Iterable[str], *, now_ms: int
    ) -> tuple[list[Believed | BelievedInbox], list[str]]:
        """What is known of these, by their sessions and by their inboxes; and of whom nothing is."""
        found: list[Believed | BelievedInbox] = []
        unknown: list[str] = []
        by_session = ((name, self.session_of(name, now_ms=now_ms)) for name in listening)
        for name, one in chain(((name, self._inboxes.get(name)) for name in durable), by_session):
            if one is None:
                unknown.append(name)
            else:
                found.append(one)
        return found, unknown

    # ---- letting go ----------------------------------------------------------------------------------------------------------

    def follow(self, trust: TrustView, *, longest_live_ms: int) -> None:
        """Another trust is in force: what was refused may be judged anew."""
        self._trust, self.longest_live_ms = trust, longest_live_ms
        self._refused.clear()

    def forget(self, now_ms: int) -> None:
        for session in self._expiry.take_expired(now_ms):
            self._drop(session)
        for name in [name for name, one in self._inboxes.items() if now_ms > one.inbox.body.not_after_ms]:
            del self._inboxes[name]

    def __len__(self) -> int:
        return len(self._ids)


def _is_current(one: Believed, now_ms: int) -> bool:
    return one.not_before_ms - SKEW_MS <= now_ms <= one.not_after_ms
