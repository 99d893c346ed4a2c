"""Grants that are given: to all readers of a new epoch, and to those who ask. Each is sealed once, and given again as it is.

    who            whoever passes the sealer's checks now, in `granting` and `entitled`; others are left out and counted
    the same       one grant for each epoch and host: several agents of one host share its keys, and so a grant. Who asks gets one
                   by its own name, and a new one when the session that vouches for it is over. Nobody proves that a KEM key is
                   its own, so a grant to somebody who has certified another's never stands for one to that other
    an answer      100 a second and reader; an ask proves nothing, and may be made by anybody
    to oneself     an epoch of durable messages, with the names of its audience: for those who ask when this process is gone

What was given is kept until nobody can use it: with the session of the reader's key, or with the epoch.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from bus.errors import LocalProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed, BelievedInbox
from bus.identity.envelopes.granting import Reader, inbox_key, make_grants, session_key
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.epochs.entitled import Grantable
from bus.identity.host.session import Session
from bus.protocol.expiry import Expiry
from bus.protocol.skew import SKEW_MS

ANSWERS_A_SECOND: Final = 100
"""To one reader."""
GRANTED: Final = "granted"
UNKNOWN_EPOCH: Final = "unknown_epoch"
BUSY: Final = "busy"
_PASSING: Final = {BUSY, "trust_stale"}

Candidate = Believed | BelievedInbox
"""A reader by its session, or by its inbox key."""


class LeftOut(NamedTuple):
    reader: str
    reason: str


class Made(NamedTuple):
    grants: list[bytes]
    """Those that are new."""
    left_out: list[LeftOut]


class Answer(NamedTuple):
    """To one who asked."""

    code: str
    """granted, unknown_epoch, busy, or why this reader is left out."""
    grant: bytes = b""

    @property
    def word(self) -> str:
        """What the one who asked is told, if it gets no grant."""
        return BUSY if self.code in _PASSING else "not_permitted"


class _Given(NamedTuple):
    reader: str
    grant: bytes
    granter_from_ms: int
    granter_to_ms: int
    """When the session that vouches for it began and ended."""


class Terms(NamedTuple):
    """By what is granted, now."""

    snapshot: Snapshot
    granter: Session
    expires_ms: int
    now_ms: int


class Giving:
    """`counter_of`: the highest counter ever seen of the inbox certificates of a name in a generation."""

    def __init__(self, counter_of: Callable[[str, int], int], *, random: Callable[[int], bytes]) -> None:
        self._counter_of, self._random = counter_of, random
        self._given: dict[bytes, _Given] = {}
        """By epoch, key id, and whose key it is (`_place`)."""
        self._expiry = Expiry()
        self._recent: dict[str, deque[int]] = {}
        """When the last seals for answers to this reader were made."""
        self.made = self.repeated = 0
        self.left_out: Counter[tuple[str, str]] = Counter()
        """By the epoch's sender and reason."""
        self.answers: Counter[str] = Counter()

    def grant(self, grantable: Grantable, candidates: Iterable[Candidate], terms: Terms) -> Made:
        """For all of them that may have it and do not have it yet, under one signature."""
        readers: dict[bytes, tuple[Candidate, Reader]] = {}
        left_out: list[LeftOut] = []
        for one in candidates:
            try:
                reader = self._checked(grantable, one, terms)
            except VerificationError as error:
                left_out.append(self.leave_out(grantable, one.name, error.reason))
                continue
            place = _place(grantable, one, reader)
            if self._find(place, grantable, terms) is None:
                readers[place] = one, reader
        return Made(self._make(grantable, list(readers.values()), terms), left_out)

    def answer(self, grantable: Grantable, asker: Believed, terms: Terms, *, tick_ms: int) -> Answer:
        """To a session that asks. `tick_ms` is of a clock that never runs backwards."""
        try:
            reader = self._checked(grantable, asker, terms)
        except VerificationError as error:
            self.leave_out(grantable, asker.name, error.reason)
            return self.say(error.reason)
        if not self._may_answer(asker.name, tick_ms):
            return self.say(BUSY)
        given = self._find(_place(grantable, asker, reader), grantable, terms)
        is_its_own = given is not None and given.reader == asker.name
        if given is not None and is_its_own and terms.now_ms <= given.granter_to_ms:  # later, who asks may have no papers for it
            self.repeated += 1
            return self.say(GRANTED, given.grant)
        return self.say(GRANTED, self._make(grantable, [(asker, reader)], terms)[0])

    def say(self, code: str, grant: bytes = b"") -> Answer:
        self.answers[code] += 1
        return Answer(code, grant)

    def leave_out(self, grantable: Grantable, reader: str, reason: str) -> LeftOut:
        self.left_out[grantable.epoch.params.sender, reason] += 1
        return LeftOut(reader, reason)

    def _checked(self, grantable: Grantable, one: Candidate, terms: Terms) -> Reader:
        """Raises VerificationError with why not."""
        snapshot, now_ms, params = terms.snapshot, terms.now_ms, grantable.epoch.params
        members = grantable.entitled(snapshot, now_ms=now_ms)
        if isinstance(one, Believed):
            return Reader(one.name, session_key(one, params, members, snapshot=snapshot, now_ms=now_ms), one.id)
        to_itself, generation = one.name == params.sender, snapshot.trust.generation(one.name)
        if to_itself:  # whether or not it may hear what it says
            members = frozenset({(one.name, generation)})
        highest = self._counter_of(one.name, generation)
        key = inbox_key(one, params, members, highest=highest, snapshot=snapshot, now_ms=now_ms)
        return Reader(one.name, key, b"", grantable.members if to_itself else ())

    def _find(self, place: bytes, grantable: Grantable, terms: Terms) -> _Given | None:
        """What was given before, if it is still believed: it must not be from a session that was taken back since."""
        given = self._given.get(place)
        if given is None or given.granter_from_ms < terms.snapshot.trust.sessions_not_before_ms(grantable.epoch.params.sender):
            return None
        return given

    def _make(self, grantable: Grantable, readers: list[tuple[Candidate, Reader]], terms: Terms) -> list[bytes]:
        if not readers:
            return []
        if not grantable.secret:
            raise LocalProtocolError("this epoch was given up: nobody can be granted it any more")
        granter = terms.granter
        made = make_grants(
            grantable.secret,
            grantable.epoch,
            [reader for _, reader in readers],
            session=granter.id,
            expires_ms=terms.expires_ms,
            key=granter.keys,
            now_ms=granter.sent_ms(terms.now_ms),
            random=self._random,
        )
        self.made += len(made)
        for (one, reader), grant in zip(readers, made, strict=True):
            place = _place(grantable, one, reader)
            self._given[place] = _Given(reader.name, grant, granter.begun_ms, granter.not_after_ms)
            ends_ms = one.not_after_ms if isinstance(one, Believed) else terms.expires_ms
            self._expiry.keep(place, until_ms=min(ends_ms, terms.expires_ms) + SKEW_MS)
        return made

    def _may_answer(self, reader: str, tick_ms: int) -> bool:
        recent = self._recent.setdefault(reader, deque(maxlen=ANSWERS_A_SECOND))
        if len(recent) == ANSWERS_A_SECOND and tick_ms - recent[0] < 1_000:
            return False
        recent.append(tick_ms)
        return True

    def forget(self, now_ms: int, *, tick_ms: int) -> None:
        for place in self._expiry.take_expired(now_ms):
            del self._given[place]
        for reader in [reader for reader, recent in self._recent.items() if tick_ms - recent[-1] >= 1_000]:
            del self._recent[reader]

    def statistics(self) -> dict[str, Any]:
        return {
            "grants_given": {"made": self.made, "repeated": self.repeated, "kept": len(self._given)},
            "left_out": dict(self.left_out),
            "answers": dict(self.answers),
        }


def _place(grantable: Grantable, one: Candidate, reader: Reader) -> bytes:
    """Where a grant of this epoch to this key stands: of a session's by its host, of an inbox's by its agent."""
    owner = one.host_signer if isinstance(one, Believed) else one.name.encode()
    return grantable.epoch.id + reader.key.id + owner
