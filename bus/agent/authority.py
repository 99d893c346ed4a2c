"""What an agent whose role has `may:` asks of the authority, over the bus: signed by its identity key, unread on the way.

    async with hub.agent("WARDEN") as warden:
        await warden.authority.revoke("PAINTER")

Its own policy says at once what it may not ask. The answer is only a hint: what was done counts when the trust statement says so
that the answer names, and each method returns when this host goes by that statement. Of a revocation it is looked up there.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import anyio

from bus.errors import (
    AttestationError,
    ConnectionLostError,
    NotPermittedError,
    OverloadedError,
    VerificationError,
)
from bus.protocol.frames import Frame, encode
from bus.trust.enrolment_messages import TOKEN_BYTES
from bus.trust.petition import DONE, RANDOM_BYTES, RIGHTS, Answer, Petition, Signed, Verb, petition_id

if TYPE_CHECKING:
    from bus.agent.host import Host
    from bus.trust.view import TrustView

ANSWER_SECONDS: Final = 30.0
BUSY: Final = "busy"
_OF_PEERS: Final = frozenset(("malformed", "not_permitted", "unverified"))


class Petitions:
    """Of one host: one request at a time, as a broker takes them."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._turn = anyio.Lock()
        self._id = b""
        self._said: Answer | None = None
        self._answered = anyio.Event()
        self._followed = anyio.Event()

    async def ask(self, agent: str, verb: Verb, *arguments: str | bytes) -> TrustView:
        """Trust as it is after that. Raises what `Authority`'s methods do."""
        await self._answer(agent, verb, *arguments)
        return self.trust

    async def tls(self, agent: str, spki: bytes) -> bytes:
        """A TLS certificate for a key of this agent's, DER: as it came, so look whether it is one. Raises the same."""
        return (await self._answer(agent, Verb.TLS, spki)).certificate

    async def _answer(self, agent: str, verb: Verb, *arguments: str | bytes) -> Answer:
        host = self._host
        role, right = host.keyring.snapshot.policy.role_of(agent), RIGHTS.get(verb)
        if right is not None and right not in role.may:
            raise NotPermittedError(agent, f"ask for {verb}", f"role {role.name} has no `may: [{right}]`")
        async with self._turn:
            domain = host.keyring.snapshot.policy.domain
            petition = Petition(domain, agent, host.keyring.now_ms(), host.random(RANDOM_BYTES), verb, arguments)
            body = petition.encode()
            _ = Petition.parse(body)  # what is wrong with the arguments is said here
            request = Signed(body, await host.signer.sign_petition(agent, body)).encode()
            with host.clock.fail_after(ANSWER_SECONDS):
                said = await self._exchange(request)
                _raise(said.code, agent, verb)
                while self.trust.statement.number < said.statement:
                    await self._followed.wait()
        return said

    @property
    def trust(self) -> TrustView:
        """As this host goes by it."""
        return self._host.keyring.snapshot.trust

    async def _exchange(self, request: bytes) -> Answer:
        if not self._host.is_connected:
            raise ConnectionLostError("there is no link to the broker now: ask again")
        self._id, self._said, self._answered = petition_id(request), None, anyio.Event()
        try:
            self._host.send(encode(Frame.AUTHORITY, request))
            await self._answered.wait()
            return self._found()
        finally:
            self._id = b""

    def _found(self) -> Answer:
        if self._said is None:
            raise ConnectionLostError("the link went before the authority answered: look whether it was done, and ask again")
        return self._said

    # ---- what the host hears -------------------------------------------------------------------------------------------------

    def answered(self, data: bytes) -> None:
        """Raises RemoteProtocolError("malformed")."""
        answer = Answer.parse(data)
        if answer.id == self._id:
            self._said = answer
            self._answered.set()

    def refused(self, ref: bytes, code: str) -> None:
        if self._id and ref == self._id:
            self._said = Answer(ref, code, 0)
            self._answered.set()

    def lost(self) -> None:
        self._answered.set()

    def follow(self) -> None:
        """Other trust counts."""
        self._followed.set()
        self._followed = anyio.Event()


class Authority:
    """Of one agent. Every method raises NotPermittedError, OverloadedError (ask again later), AttestationError with the authority's
    reason, RemoteProtocolError("malformed") for a name that is none, TpmError, ConnectionLostError, TimeoutError.
    """

    def __init__(self, name: str, petitions: Petitions, check_open: Callable[[], None]) -> None:
        self._name, self._petitions, self._check_open = name, petitions, check_open

    async def revoke(self, name: str, reason: str = "compromised") -> None:
        """All that this agent has counts no more, for everybody, when this returns; and nobody may enrol under its name."""
        before = self._petitions.trust.generation(name)
        trust = await self._ask(Verb.REVOKE, name, reason)
        if reason != "rotated" and trust.generation(name) <= before:
            raise VerificationError("untrusted", agent=name, detail="the broker says it is revoked, and trust does not: ask again")

    async def end_sessions(self, name: str) -> None:
        """Sessions of this agent that began before now count no more."""
        await self._ask(Verb.END_SESSIONS, name)

    async def let_in(self, name: str, *, chip: bytes | None = None) -> bytes:
        """Let an agent enrol: by its chip (SHA-256 of the endorsement key), or by a one-time token, which is what this returns."""
        if chip is not None:
            await self._ask(Verb.CHIP, name, chip)
            return b""
        token = os.urandom(TOKEN_BYTES)
        await self._ask(Verb.TOKEN, name, hashlib.sha256(token).digest())
        return token

    async def shut_out(self, name: str) -> None:
        """Nobody may enrol under this name any more."""
        await self._ask(Verb.REMOVE, name)

    async def reload(self) -> None:
        """Have the policy's files signed as they are now. AttestationError("policy") where something is wrong with them."""
        await self._ask(Verb.RELOAD)

    async def join(self, name: str, role: str) -> None:
        """From now on this is an agent of the policy, whom its files do not list. AttestationError("policy") for no such role."""
        await self._ask(Verb.JOIN, name, role)

    async def _ask(self, verb: Verb, *arguments: str | bytes) -> TrustView:
        self._check_open()
        return await self._petitions.ask(self._name, verb, *arguments)

    def __repr__(self) -> str:
        return f"<Authority, as {self._name} asks it>"


def _raise(code: str, agent: str, verb: Verb) -> None:
    if code == BUSY:
        raise OverloadedError("what the authority is asked over this bus", pending=1, limit=1)
    if code in _OF_PEERS:
        raise NotPermittedError(agent, f"ask for {verb}", f"the authority says {code}; its log says why")
    if code != DONE:
        raise AttestationError(code, agent=agent, detail=f"the authority could not {verb}")
