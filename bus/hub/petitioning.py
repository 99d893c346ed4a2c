"""What agents with `may:` ask of the authority over the bus: judged, done, and told to everybody by the next trust statement.

The answer goes back by the way that the request came, which nobody believes: it says which statement to wait for, or a word why
not. Of what does not verify the asker hears as little as any peer does; the precise reason is logged here, once a minute a reason.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from anyio import to_thread

from bus.clock import Clock
from bus.errors import BusError, NotPermittedError, PolicyError, RemoteProtocolError, VerificationError
from bus.hub.enrolling import LocalDesk
from bus.hub.in_force import InForce
from bus.identity.authority import Authority
from bus.identity.authority.petitions import BUSY, Judge
from bus.protocol.handshake import told
from bus.trust.petition import DONE, Answer, Petition, Verb, petition_id
from bus.trust.revocations import Reason

_log = logging.getLogger(__name__)
FAILED: Final = "failed"
"""For a reason of the authority's own."""
LOGGED_SECONDS: Final = 60.0
Reply = Callable[[int, bytes], Awaitable[None]]


class Petitioning:
    def __init__(self, authority: Authority, local: LocalDesk, in_force: InForce, clock: Clock) -> None:
        self._authority, self._local, self._in_force, self._clock = authority, local, in_force, clock
        self._judge = Judge(authority, policy=lambda: in_force.policy, clock=clock)
        self._logged: dict[str, float] = {}

    async def serve(self, taken: AsyncGenerator[tuple[int, bytes], None], reply: Reply) -> None:
        """One after the other, until there are no more."""
        async with aclosing(taken):
            async for number, request in taken:
                await reply(number, await self.answer(request))

    async def answer(self, request: bytes) -> bytes:
        """Never raises for what is in the request, nor for what the authority meets."""
        code, certificate = await self._done(request)
        return Answer(petition_id(request), code, self._in_force.snapshot.trust.statement.number, certificate).encode()

    async def _done(self, request: bytes) -> tuple[str, bytes]:
        """A code, and a certificate if that is what was asked for."""
        try:
            petition = await to_thread.run_sync(self._judge.judge, request)
        except BusError as error:
            reason = self._note(error)
            return (reason if reason in (BUSY, FAILED) else told(reason)), b""
        try:
            certificate = await self._do(petition)
        except BusError as error:
            return self._note(error), b""
        _log.info("the authority did for %s: %s", petition.agent, petition.verb)
        return DONE, certificate

    async def _do(self, petition: Petition) -> bytes:
        verb, in_force = petition.verb, self._in_force
        if verb is Verb.TLS:
            (spki,) = petition.arguments
            return await to_thread.run_sync(self._issue_tls, petition.agent, spki)
        if verb is Verb.RELOAD:
            await in_force.reload()
        elif verb is Verb.JOIN:
            name, role = petition.arguments
            await in_force.join({str(name): str(role)})
        else:
            await in_force.settle(lambda: self._change(verb, *petition.arguments))
        return b""

    def _issue_tls(self, name: str, spki: Any) -> bytes:
        """In a thread. For whom it is says the signature, so for nobody else."""
        return self._authority.issue_tls(name, spki)

    def _change(self, verb: Verb, name: Any, other: Any = None) -> None:
        """In a thread."""
        if verb is Verb.REVOKE:
            self._authority.revoke(name, reason := Reason(other))
            if reason is not Reason.ROTATED:
                self._local.unlist(name)
        elif verb is Verb.END_SESSIONS:
            self._authority.end_sessions(name)
        elif verb is Verb.CHIP:
            self._local.desk.list_chip(name, other)
        elif verb is Verb.TOKEN:
            self._local.desk.list_token(name, other)
        else:
            self._local.unlist(name)

    def _note(self, error: BusError) -> str:
        """What is wrong, in a word."""
        reason, now = _reason(error), self._clock.monotonic()
        if now - self._logged.get(reason, -LOGGED_SECONDS) >= LOGGED_SECONDS:
            self._logged[reason] = now
            _log.warning("a request to the authority was refused as %s: %s", reason, error)
        return reason


def _reason(error: BusError) -> str:
    if isinstance(error, VerificationError | RemoteProtocolError):
        return error.reason
    if isinstance(error, PolicyError):
        return "policy"
    return "not_permitted" if isinstance(error, NotPermittedError) else FAILED
