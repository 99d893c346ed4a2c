"""What other processes of this user ask of a hub that runs: its authority is open in that one process, and nowhere else.

enroll, join, issue_tls      papers for an agent that is opened in the process that asks
papers, enroll_from_afar     the same for another machine (`far_desk`)
admit, barred, let_in        who joins the policy, who was revoked, and who may enrol
revoke, end_sessions         an operator cuts somebody off; everybody hears of it at once
reload, status, statistics   and what `overview` tells
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from anyio import to_thread

from bus.errors import NotPermittedError, RemoteProtocolError
from bus.hub.admin import Desk
from bus.hub.backbones import NatsServers
from bus.hub.believed_chips import believed_chips
from bus.hub.broker_apart import BrokerApart
from bus.hub.broker_here import BrokerHere
from bus.hub.enrolling import LocalDesk
from bus.hub.far_host import shown
from bus.hub.in_force import InForce
from bus.hub.letting_in import Change, apply
from bus.hub.state import State
from bus.identity.authority import Authority
from bus.metrics.sources import part
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
    def servers(self) -> NatsServers | None: ...

    @property
    def urls(self) -> list[str]: ...

    def policy(self) -> Policy: ...

    async def join(self, name: str) -> None: ...

    async def reload(self) -> bool: ...

    async def vouch(self, name: str, digest: bytes) -> None: ...

    async def statistics(self) -> dict[str, Any]: ...


class Verbs:
    def __init__(self, running: Running) -> None:
        self._running = running

    def register(self, desk: Desk) -> None:
        running = self._running
        own = (
            self.enroll,
            self.enroll_from_afar,
            self.papers,
            self.vouch,
            self.issue_tls,
            self.admit,
            self.barred,
            self.let_in,
            self.revoke,
            self.end_sessions,
        )
        for verb in (running.join, running.reload, running.statistics, *own):
            desk.register(verb.__name__, verb)
        running.broker.register(desk, self._status)

    # ---- papers --------------------------------------------------------------------------------------------------------------

    async def enroll(self, message: str) -> str:
        """The authority's answer to a message of an enrolment, both in hex."""
        answer = await to_thread.run_sync(self._running.local.answer, bytes.fromhex(message))
        await self._running.in_force.settle()
        return answer.hex()

    async def enroll_from_afar(self, message: str) -> str:
        """The same for another machine, whose users are nobody's here: by token, by chip, or by the key that has the name."""

        def work() -> bytes:
            desk = self._running.local.desk
            desk.believe(believed_chips(self._running.state))  # an operator may have put the other machine's there just now
            return desk.answer(bytes.fromhex(message))

        answer = await to_thread.run_sync(work)
        await self._running.in_force.settle()
        return answer.hex()

    async def papers(self) -> dict[str, str]:
        """What another machine pins and goes by, in hex."""
        return await to_thread.run_sync(shown, self._running.authority.public)

    async def vouch(self, name: str, digest: str) -> None:
        """An agent that is opened in another process of this user has this ML-DSA key. `digest`: its SHA-256, in hex."""
        self._running.policy().role_of(name)
        await self._running.vouch(name, bytes.fromhex(digest))

    async def issue_tls(self, name: str, spki: str) -> str:
        """A certificate for a client of this name, whose key this is, both in hex. Raises AttestationError("not_enrolled")."""
        self._running.policy().role_of(name)
        return (await to_thread.run_sync(self._running.authority.issue_tls, name, bytes.fromhex(spki))).hex()

    # ---- who may be here -----------------------------------------------------------------------------------------------------

    async def admit(self, agents: Mapping[str, str]) -> bool:
        """With these agents, and their roles, besides those of the policy's files. Raises PolicyError."""
        return await self._running.in_force.join(agents)

    async def barred(self, names: Sequence[str]) -> list[str]:
        """Who of them was revoked, and let in by nobody since."""
        local = self._running.local
        return await to_thread.run_sync(lambda: [name for name in names if local.is_barred(name)])

    async def let_in(
        self,
        token: str | None = None,
        ek: tuple[str, str] | None = None,
        uid: tuple[int, str] | None = None,
        remove: str | None = None,
    ) -> dict[str, Any]:
        """Change the enrolment list: the new token, in hex, and the list as it is then."""
        try:
            change = Change(token, ek and (ek[0], ek[1]), uid and (uid[0], uid[1]), remove)
            done = await to_thread.run_sync(apply, self._running.local.desk, change, self._running.policy())
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise RemoteProtocolError("malformed", f"let_in: {error}") from error
        return {"token": None if done.token is None else done.token.hex(), "listed": done.listed.encode().decode()}

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
        done = {"statement": trust.statement.number, "crl_number": trust.revocations.number}
        if found is Profile.TRUST:
            return {**done, "signer": trust.statement.signer.signer.hex()}
        return {**done, "generation": trust.generation(name)}

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
            **kept_by(running.servers, numbers := await running.statistics()),
            "numbers": numbers,
        }


def kept_by(servers: NatsServers | None, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """What keeps durable messages, and whether it can be reached now."""
    if servers is None:
        return {"backbone": "journal"}
    broker = numbers["broker"]
    found = part(broker, "nats")
    return {
        "backbone": servers.shown,
        "backbone_connected": bool(part(broker, "backbone").get("connected")),
        "backbone_version": str(found.get("version", "")),
        "backbone_features": [*(found.get("features") or [])],
    }


def _reason(word: str) -> Reason:
    try:
        return Reason(word)
    except ValueError:
        raise _no_such("reason", word, [one.value for one in Reason]) from None


def _profile(word: str) -> Profile:
    known = {"agent": Profile.AGENT, "broker": Profile.BROKER, "trust": Profile.TRUST}
    if word not in known:
        raise _no_such("profile", word, [*known])
    return known[word]


def _no_such(what: str, word: str, known: list[str]) -> NotPermittedError:
    return NotPermittedError("operator", f"name the {what} {word[:40]!r}", f"it is one of {', '.join(known)}")
