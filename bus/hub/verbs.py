"""What other processes of this user ask of a hub that runs: its authority is open in that one process, and nowhere else.

enroll, join, issue_tls      papers for an agent that is opened in the process that asks
revoke, end_sessions         an operator cuts somebody off; everybody hears of it at once
reload, status, statistics   and what `overview` tells
"""

from __future__ import annotations

import os
from typing import Any, Protocol

from anyio import to_thread

from bus.errors import NotPermittedError
from bus.hub.admin import Desk
from bus.hub.broker_apart import BrokerApart
from bus.hub.broker_here import BrokerHere
from bus.hub.enrolling import LocalDesk
from bus.hub.in_force import InForce
from bus.hub.state import State
from bus.identity.authority import Authority
from bus.policy import Policy
from bus.trust.certificates import Profile
from bus.trust.revocations import Reason


class Running(Protocol):
    """A bus that runs."""

    state: State
    authority: Authority
    in_force: InForce
    local: LocalDesk
    broker: BrokerHere | BrokerApart

    @property
    def urls(self) -> list[str]: ...

    def policy(self) -> Policy: ...

    async def join(self, name: str) -> None: ...

    async def reload(self) -> bool: ...

    async def statistics(self) -> dict[str, Any]: ...


class Verbs:
    def __init__(self, running: Running) -> None:
        self._running = running

    def register(self, desk: Desk) -> None:
        running = self._running
        for verb in (running.join, running.reload, running.statistics, self.enroll, self.issue_tls, self.revoke, self.end_sessions):
            desk.register(verb.__name__, verb)
        running.broker.register(desk, self._status)

    # ---- papers --------------------------------------------------------------------------------------------------------------

    async def enroll(self, message: str) -> str:
        """The authority's answer to a message of an enrolment, both in hex."""
        answer = await to_thread.run_sync(self._running.local.answer, bytes.fromhex(message))
        await self._running.in_force.settle()
        return answer.hex()

    async def issue_tls(self, name: str, spki: str) -> str:
        """A certificate for a client of this name, whose key this is, both in hex. Raises AttestationError("not_enrolled")."""
        self._running.policy().role_of(name)
        return (await to_thread.run_sync(self._running.authority.issue_tls, name, bytes.fromhex(spki))).hex()

    # ---- cutting off ---------------------------------------------------------------------------------------------------------

    async def revoke(self, name: str, reason: str, profile: str = "agent") -> dict[str, Any]:
        """All certificates of a name, now. Raises AttestationError("not_enrolled")."""
        wanted, found = _reason(reason), _profile(profile)

        def work() -> None:
            self._running.authority.revoke(name, wanted, profile=found)
            if found is Profile.AGENT and wanted is not Reason.ROTATED:
                self._running.local.unlist(name)

        await self._running.in_force.settle(work)
        trust = self._running.in_force.snapshot.trust
        return {"statement": trust.statement.number, "crl_number": trust.revocations.number, "generation": trust.generation(name)}

    async def end_sessions(self, name: str) -> dict[str, Any]:
        """Sessions of this agent that began before now count no more."""
        await self._running.in_force.settle(lambda: self._running.authority.end_sessions(name))
        trust = self._running.in_force.snapshot.trust
        return {"statement": trust.statement.number, "sessions_not_before_ms": trust.sessions_not_before_ms(name)}

    # ---- what an operator sees first -----------------------------------------------------------------------------------------

    async def _status(self) -> dict[str, Any]:
        running, in_force = self._running, self._running.in_force
        statement = in_force.snapshot.trust.statement
        return {
            "pid": os.getpid(),
            "urls": running.urls,
            "state": str(running.state.folder),
            "domain": running.policy().domain,
            "policy": in_force.place,
            "policy_version": statement.policy_version,
            "trust_statement": statement.number,
            "failures": {what: str(error) for what, error in in_force.failures.items()},
            "agents_live": await running.broker.live(),
            "numbers": await running.statistics(),
        }


def _reason(word: str) -> Reason:
    try:
        return Reason(word)
    except ValueError:
        raise _no_such("reason", word, [one.value for one in Reason]) from None


def _profile(word: str) -> Profile:
    known = {"agent": Profile.AGENT, "broker": Profile.BROKER}
    if word not in known:
        raise _no_such("profile", word, [*known])
    return known[word]


def _no_such(what: str, word: str, known: list[str]) -> NotPermittedError:
    return NotPermittedError("operator", f"name the {what} {word[:40]!r}", f"it is one of {', '.join(known)}")
