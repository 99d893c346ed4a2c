"""Enrolling the agents of this machine at its own authority: the same messages as from another machine, without the way between.

Whoever owns the state folder may enrol whomever the signed policy knows; that is written into the enrolment list as what it is,
a local user with every name. One name is an exception: one that was revoked stays out until an operator lists it again.

Agents are enrolled a few at a time, so that an interruption loses little, a nonce does not run out while a slow chip certifies
seventy keys, and somebody who looks on sees it going on.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from anyio import to_thread

from bus.clock import Clock
from bus.errors import AttestationError, RemoteProtocolError
from bus.identity import kem_keys
from bus.identity.authority import Authority
from bus.identity.authority.desk import Desk
from bus.identity.enroll import Exchange, Predecessor, Wish, enroll
from bus.policy import Policy
from bus.protocol import kem
from bus.protocol.kem import PrivateKey
from bus.tpm.interface import SOFTWARE, KeyInfo, TpmEngine
from bus.trust import certificates
from bus.trust.certificates import Certificate
from bus.trust.endorsement import Roots, key_hash
from bus.trust.enrolment_authority import refusal
from bus.trust.enrolment_list import EVERY_NAME
from bus.trust.enrolment_messages import LOCAL, RENEWAL, REQUEST, Request, kind_of
from bus.trust.profiles import DAY_MS
from bus.trust.root import Root

AT_A_TIME: Final = 16
RENEWED_BEFORE_MS: Final = 30 * DAY_MS
"""An identity certificate is made anew when it has no more than this left of its year."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A new certificate, and the inbox key that its enrolment named."""

    certificate: Certificate
    inbox_key: PrivateKey


class Held(NamedTuple):
    """Who has a name, as far as whoever asks is told."""

    certificate: Certificate
    ek_hash: bytes = b""
    """Of the chip that it was issued to; empty where there is none, or where it is not known."""


def fits(certificate: Certificate | None, key: KeyInfo, *, now_ms: int) -> bool:
    """Whether this identity certificate is for this key, and good for a while."""
    if certificate is None or certificate.not_after_ms - now_ms <= RENEWED_BEFORE_MS:
        return False
    pinned = (certificate.spki, certificate.suite.name, certificate.origin)
    return pinned == (key.spki, key.suite, key.origin)


class Enrolling:
    """An engine whose agents' keys are certified by whoever `exchange` reaches."""

    def __init__(
        self,
        engine: TpmEngine,
        policy: Callable[[], Policy],
        *,
        exchange: Exchange,
        held: Callable[[str], Awaitable[Held | None]],
        root: Root,
        domain: str,
        clock: Clock,
    ) -> None:
        """`held`: the certificate in force of a name, with the hash of the chip that it was issued to, where that is known."""
        self._engine, self._policy, self._exchange, self._held = engine, policy, exchange, held
        self._root, self._domain, self._clock = root, domain, clock

    async def enroll(self, keys: Sequence[KeyInfo]) -> AsyncIterator[Enrolled]:
        """Certificates for the agents that have these keys. Raises AttestationError, TpmError."""
        every: dict[bytes, KeyInfo] = {}
        for start in range(0, len(keys), AT_A_TIME):
            wishes, inbox_keys = [], []
            for key in keys[start : start + AT_A_TIME]:
                kind = kem.BY_WORD[self._policy().role_of(key.name).inbox]
                inbox_keys.append(kem_keys.generate(kind))
                wishes.append(await self._wish(key, inbox_keys[-1], every))
            done = await enroll(
                self._engine, wishes, exchange=self._exchange, root=self._root, domain=self._domain, keys_in_force=keys
            )
            for one, inbox_key in zip(done, inbox_keys, strict=True):
                yield Enrolled(one.certificate, inbox_key)

    async def _wish(self, key: KeyInfo, inbox_key: PrivateKey, every: dict[bytes, KeyInfo]) -> Wish:
        """Where the name has another key already, that one signs for its successor, so that both count for a while.

        `every`: all keys of the vault, listed when that is needed, and once: many take long.
        """
        held = await self._held(key.name)
        if held is not None and held.certificate.spki != key.spki and not every:
            every.update({info.spki: info for info in await self._engine.keys()})
        old = every.get(held.certificate.spki) if held is not None and held.certificate.spki != key.spki else None
        if held is None or old is None or not self._signs(old):
            return Wish(key.name, inbox_key.kem, inbox_key.public, LOCAL)
        same_chip = key.origin != SOFTWARE and held.ek_hash == key_hash((await self._engine.endorsement(beside=key.id)).spki)
        predecessor = Predecessor(self._engine, old.id)
        return Wish(key.name, inbox_key.kem, inbox_key.public, RENEWAL if same_chip else LOCAL, predecessor=predecessor)

    def _signs(self, old: KeyInfo) -> bool:
        return old.ends_ms is None or old.ends_ms > self._clock.now_ms()


class LocalDesk:
    """The authority's desk, for this user. Every method blocks: call it in a worker thread."""

    def __init__(self, authority: Authority, policy: Callable[[], Policy], *, roots: Roots, clock: Clock) -> None:
        """Raises VaultError("damaged") for an enrolment list that is none."""
        self._authority = authority
        self._desk = Desk(authority, policy=policy, roots=roots, clock=clock)
        if os.getuid() not in self._desk.listed.uids.get(EVERY_NAME, frozenset()):
            self._desk.list_uid(EVERY_NAME, os.getuid())

    @property
    def desk(self) -> Desk:
        """With the enrolment list, for operators."""
        return self._desk

    def held(self, name: str) -> Held | None:
        holder = self._authority.holder(name)
        if holder is None:
            return None
        return Held(certificates.read(holder.der, root=self._authority.root, domain=self._authority.domain), holder.ek_hash)

    def certificate(self, name: str) -> Certificate | None:
        """What the name has now."""
        held = self.held(name)
        return None if held is None else held.certificate

    def is_barred(self, name: str) -> bool:
        """Revoked, and not listed again since."""
        generation, _ = self._authority.standings().get(name, (0, 0))
        listed = self._desk.listed
        again = name in listed.chips or name in listed.uids
        return generation > 0 and not again and self._authority.holder(name) is None

    def unlist(self, name: str) -> None:
        """Nobody may enrol under this name any more."""
        self._desk.unlist(name)

    def answer(self, message: bytes) -> bytes:
        """As `Desk.answer`, for messages that came from this user; nobody who is barred gets in this way."""
        if (name := next(filter(self.is_barred, _names(message)), None)) is not None:
            return refusal(AttestationError("uid_unknown", agent=name, detail="it was revoked, and nobody has listed it again"))
        return self._desk.answer(message, uid=os.getuid())

    def enrolling(self, engine: TpmEngine, policy: Callable[[], Policy], *, clock: Clock) -> Enrolling:
        """For agents whose keys are in this engine."""

        async def exchange(message: bytes) -> bytes:
            return await to_thread.run_sync(self.answer, message)

        async def held(name: str) -> Held | None:
            return await to_thread.run_sync(self.held, name)

        root, domain = self._authority.root, self._authority.domain
        return Enrolling(engine, policy, exchange=exchange, held=held, root=root, domain=domain, clock=clock)


def _names(message: bytes) -> Sequence[str]:
    """Whom a request is for."""
    with suppress(RemoteProtocolError):
        return [one.name for one in Request.parse(message).applicants] if kind_of(message) == REQUEST else []
    return []  # the desk says what is wrong with it
