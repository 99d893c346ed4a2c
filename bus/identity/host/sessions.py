"""The sessions of all agents that are open in this process: one pair of host keys, and for each agent a certificate that names it.

This is the table. It is asked before every signature, and changed in whole steps: an agent opens or closes, its identity is
replaced, or a new pair takes over for everybody at once. When that is due is decided in `renewal`.

Two hands of the clock are watched. What peers judge by is the wall clock, so a session ends when either hand says so. One that a
jump of the wall clock has put out of its time counts again when the clock is set right, if it was not renewed before.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Final

import anyio

from bus.clock import Clock
from bus.errors import BusError, LocalProtocolError, SessionEndedError
from bus.identity.host.attempts import LONGEST_SECONDS, Outcome, attempt, is_passing, part, reason_of
from bus.identity.host.forks import retired_in_a_child
from bus.identity.host.host_keys import OPENS_LONGER_SECONDS, HostKeys, Openers
from bus.identity.host.session import Holder, Session, certify
from bus.protocol import kem
from bus.tpm.interface import TpmEngine
from bus.trust.statement import NEW, Statement

_log = logging.getLogger(__name__)

VALID: Final = "valid"
EXPIRED: Final = "expired"
IDENTITY_ENDED: Final = "identity_ended"


class Sessions:
    """`statement` gives the newest trust statement, and never raises. While agents are open, `renewal.run` must be running."""

    def __init__(
        self,
        engine: TpmEngine,
        statement: Callable[[], Statement],
        clock: Clock,
        *,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.clock, self.random = clock, random
        self._in_force = statement
        self._heard: Statement | None = None
        self._retired = False
        self._engine = engine
        self._keys: HostKeys | None = None
        self._last_end = 0.0
        self._openers = Openers()
        self._holders: dict[str, Holder] = {}
        self._sessions: dict[str, Session] = {}
        self._former: list[Session] = []
        self._failures: dict[str, str] = {}
        self._trouble: str | None = None
        self._opening: set[str] = set()
        self._counts: Counter[str] = Counter()
        self.point = 0.0
        """A random number from 0 to 1 for each pair: where in its life its renewal begins."""
        self.born = 0.0
        """When the pair took over, on the clock that never runs backwards."""
        self.changing = anyio.Lock()
        """Held by who makes a new pair."""
        self.wanted = anyio.Event()
        """Set when `renewal` should look before its time."""
        self.generation = 0
        """How often anybody's session became another one."""
        self.on_change: list[Callable[[], None]] = []
        """Called each time, in the same step of the loop: who must announce papers or grant anew notes it, and does it later."""
        retired_in_a_child(self)

    # ---- asking --------------------------------------------------------------------------------------------------------------

    def statement(self) -> Statement:
        """Under which sessions are made: the newest that is in force, or that was heard of."""
        in_force, heard = self._in_force(), self._heard
        return in_force if heard is None or heard.number <= in_force.number else heard

    def hear(self, statement: Statement) -> None:
        """One that is not in force here yet, and verified: enough to begin a session with, and so to be told the rest."""
        self._heard = statement
        self.wanted.set()

    def now_ms(self) -> int:
        """The time to judge by: the wall clock's, but never before the statement was issued, since it is later than that."""
        return max(self.clock.now_ms(), self.statement().issued_ms)

    def current(self, name: str) -> Session:
        """The session to sign under. Raises SessionEndedError; LocalProtocolError if the agent is not open, or after a fork."""
        session = self._sessions.get(name)
        if session is not None and session.is_good(self.now_ms()):
            return session
        self.holder(name)
        self.wanted.set()
        raise SessionEndedError(name, self.state(name))

    def state(self, name: str) -> str:
        """`valid`, or why there is no valid session: a code of the TPM's or of the specification, or `expired`."""
        session, now_ms = self._sessions.get(name), self.now_ms()
        if session is not None and session.is_good(now_ms):
            return VALID
        if session is not None and session.is_its_identitys_last and now_ms > session.not_after_ms:
            return IDENTITY_ENDED
        return self._failures.get(name, EXPIRED)

    @property
    def keys(self) -> HostKeys:
        """The pair that signs now. Raises LocalProtocolError if no agent is open, and in a forked child."""
        if self._keys is None:
            raise LocalProtocolError(
                "there are no host keys: " + ("this process was forked" if self._retired else "no agent is open")
            )
        return self._keys

    def opener(self, kem_key_id: bytes) -> HostKeys | None:
        """The pair that a grant was sealed to, if it still opens."""
        if self._keys is not None and self._keys.kem_key_id == kem_key_id:
            return self._keys
        return self._openers.find(kem_key_id)

    def holder(self, name: str) -> Holder:
        """Raises LocalProtocolError if the agent is not open here, and in a forked child."""
        if name not in self._holders:
            raise LocalProtocolError(f"{name} is not open in this process; one that was forked opens its own agents")
        return self._holders[name]

    @property
    def holders(self) -> Mapping[str, Holder]:
        return MappingProxyType(self._holders)

    @property
    def held(self) -> Mapping[str, Session]:
        """Every session, whether it counts now or not."""
        return MappingProxyType(self._sessions)

    def former(self) -> Iterator[Session]:
        """Those that another one took over from, while they count: what was signed under them may have to go again."""
        now_ms = self.now_ms()
        return (one for one in self._former if one.keys.can_prove and one.is_good(now_ms) and self.is_in_force(one))

    def is_in_force(self, session: Session) -> bool:
        """Whether it stands by what the authority says now: not from before a date, and its trust signer has no successor."""
        statement = self.statement()
        return session.begun_ms >= statement.agents.get(session.holder.name, NEW)[1] and session.trust_signer == statement.signer

    def statistics(self) -> Mapping[str, int]:
        valid = sum(self.state(name) == VALID for name in self._holders)
        counts = {name: self._counts[name] for name in ("renewals", "certified", "failed")}
        return {**counts, "open": len(self._holders), "valid": valid, "old_pairs": len(self._openers)}

    # ---- opening and closing -------------------------------------------------------------------------------------------------

    async def open(self, *holders: Holder) -> None:
        """Certify these agents for the current pair; all of them or, with an error, none. Raises TpmError, VerificationError."""
        names = {holder.name for holder in holders}
        taken = names & (self._holders.keys() | self._opening)
        if taken or len(names) < len(holders):
            raise LocalProtocolError(f"an agent is open once in a process: {', '.join(sorted(taken or names))}")
        self._opening |= names
        try:
            self._admit(await self._certified({holder.name: holder for holder in holders}))
        finally:
            self._opening -= names

    async def replace(self, holder: Holder) -> None:
        """From now on an open agent has another identity certificate or key: it vouches for the current pair with that one."""
        self.holder(holder.name)
        made = await self._certified({holder.name: holder})
        self.holder(holder.name)  # it may have been closed meanwhile
        self._admit(made)

    def close(self, name: str) -> None:
        """Forget an agent. What was sealed to this host can still be opened until the pair's time is over."""
        if self._holders.pop(name, None) is not None:
            self._sessions.pop(name, None)
            self._former = [one for one in self._former if one.holder.name != name]
            self._failures.pop(name, None)
            self._tell()

    def retire(self) -> None:
        """Give up every key, for good: nothing is open any more, nor will be. Happens in a forked child; nobody is told."""
        self._retired = True
        for table in (self._holders, self._sessions, self._failures):
            table.clear()
        self._former.clear()
        self._openers.retire()
        if self._keys is not None:
            self._keys.retire()
            self._keys = None

    async def _certified(self, wanted: Mapping[str, Holder]) -> dict[str, Session]:
        """For the pair that signs when this returns; a renewal may switch to another one meanwhile."""
        strongest = max((holder.kem for holder in wanted.values()), default=kem.X25519)
        made: dict[str, Session] = {}
        while True:
            keys = await self._pair(strongest)
            missing = [holder for name, holder in wanted.items() if name not in made or made[name].keys is not keys]
            if not missing:
                return made
            outcome = await self.attempt(missing, keys)
            if outcome.error is not None:
                raise outcome.error
            made |= outcome.made

    def _admit(self, made: Mapping[str, Session]) -> None:
        self._holders.update({name: session.holder for name, session in made.items()})
        self._adopt(made.values())
        self.wanted.set()  # their lifetime may be shorter than the others'

    async def _pair(self, strongest: int) -> HostKeys:
        """The current pair. The first is made here; where an agent needs a stronger one, it takes over from the weaker."""
        if self._retired:
            raise LocalProtocolError("these sessions are given up; a process that was forked makes its own")
        if self._keys is None:
            self._take_over(HostKeys.make(strongest, self.random))
        if self.keys.kem < strongest:
            async with self.changing:
                if self.keys.kem < strongest:
                    await self._change_now(HostKeys.make(strongest, self.random))
        return self.keys

    async def _change_now(self, pair: HostKeys) -> None:
        """For everybody, at once, or with an error for nobody."""
        made: dict[str, Session] = {}
        while waiting := self.without(made):
            outcome = await self.attempt(waiting, pair)
            if outcome.error is not None:
                raise outcome.error
            made |= outcome.made
        self.switch(pair, made)

    # ---- what renewal does with it -------------------------------------------------------------------------------------------

    def without(self, made: Mapping[str, Session]) -> list[Holder]:
        """Who has no certificate in `made`, or one of an identity that was replaced meanwhile."""
        return [holder for name, holder in self._holders.items() if name not in made or made[name].holder is not holder]

    async def attempt(
        self, holders: Iterable[Holder], keys: HostKeys, *, longest_seconds: float = LONGEST_SECONDS
    ) -> Outcome[Session]:
        """Have these keys certified for each of them; once, and remember why not."""
        asked = {holder.name: holder for holder in holders}

        async def ask(name: str) -> Session:
            now, now_ms = self.clock.monotonic(), self.now_ms()
            return await certify(self._engine, asked[name], keys, self.statement(), now=now, now_ms=now_ms, random=self.random)

        outcome = await attempt(ask, asked, self.clock, longest_seconds=longest_seconds)
        self._counts["certified"] += len(outcome.made)
        for name in asked:
            if name in outcome.made:
                self._failures.pop(name, None)
            elif (error := outcome.refused.get(name, outcome.trouble)) is not None:
                self._note(name, error)
        if outcome.trouble is not None and self._trouble != reason_of(outcome.trouble):
            _log.warning("new session certificates must wait: %s", outcome.trouble)
        if outcome.trouble is not None or outcome.made:
            self._trouble = None if outcome.trouble is None else reason_of(outcome.trouble)
        return outcome

    def _note(self, name: str, error: BusError) -> None:
        self._counts["failed"] += 1
        reason = reason_of(error)
        if name in self._holders and self._failures.get(name) != reason:
            self._failures[name] = reason
            if not is_passing(error):  # what concerns everybody is said once
                _log.warning("%s gets no new session certificate: %s", name, error)

    def switch(self, pair: HostKeys, made: Mapping[str, Session]) -> None:
        """All at once: nothing in here waits. Who is not in `made` is left without a session."""
        if self._retired:
            return
        self._former += self._sessions.values()
        self._sessions.clear()
        self._take_over(pair)
        self._counts["renewals"] += 1
        self._adopt(made.values())

    def follow(self, made: Mapping[str, Session]) -> None:
        """Those whom a switch left behind have a certificate now, if it is still for the pair that signs."""
        self._adopt(session for session in made.values() if session.keys is self._keys)

    def drop(self) -> None:
        """Old keys whose time is over; also the current ones, if no TPM has been there to renew them."""
        now = self.clock.monotonic()
        self._openers.drop(now)
        self._former = [one for one in self._former if now <= one.ends]
        if self._keys is not None and now > self._last_end + OPENS_LONGER_SECONDS:
            self._keys.retire()
            self._keys = None
            self._sessions.clear()
            self._tell()

    def _take_over(self, pair: HostKeys) -> None:
        if self._keys is not None:
            self._openers.keep(self._keys, ends=self._last_end)
        self._keys = pair
        self.point = part(self.random)
        self.born = self._last_end = self.clock.monotonic()

    def _adopt(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            name = session.holder.name
            if self._holders.get(name) is session.holder:
                if name in self._sessions:
                    self._former.append(self._sessions[name])
                self._sessions[name] = session
                self._failures.pop(name, None)
                self._last_end = max(self._last_end, session.ends)
        self._tell()

    def _tell(self) -> None:
        self.generation += 1
        for call in self.on_change:
            call()
