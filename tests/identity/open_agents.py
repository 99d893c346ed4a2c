"""Agents that are open in one process: keys in an engine on a fake TPM, certificates as an authority makes them, a statement.

Nothing is signed by an authority here, since nobody here asks whether one did; `test_sessions` has one test that does. The engine
can be `away` (it fails), `hang` (it never answers), or refuse single keys; what is asked of it is counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel

from bus.errors import BusError, TpmUnavailableError
from bus.identity.host import renewal
from bus.identity.host.session import Holder
from bus.identity.host.sessions import Sessions
from bus.protocol.contexts import Purpose
from bus.protocol.kem import X25519
from bus.protocol.proof import BatchProof
from bus.protocol.signatures import load_public
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock
from bus.tpm.engine import Engine
from bus.tpm.interface import KeyInfo, Priority
from bus.tpm.vault import MemoryVault
from bus.trust.certificates import Certificate, Profile
from bus.trust.statement import Statement

MINUTE_MS = 60_000
DAY_MS = 86_400_000
QUICK = IDENTITY_SUITES["ecc256/sha256"]


class WatchedEngine:
    """The engine, and what is asked of it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.away = self.hangs = False
        self.refuses: dict[str, BusError] = {}
        self.asked: list[tuple[str, Purpose, int, Priority]] = []
        self.pending = self.most_pending = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    async def sign_many(
        self, key: str, purpose: Purpose, contents: Sequence[bytes], *, signer: bytes | None = None, priority: Priority
    ) -> list[BatchProof]:
        self.asked.append((key, purpose, len(contents), priority))
        if self.hangs:
            await anyio.sleep_forever()
        if self.away:
            raise TpmUnavailableError("no_tpm", "the TPM is away")
        if key in self.refuses:
            raise self.refuses[key]
        self.pending += 1
        self.most_pending = max(self.pending, self.most_pending)
        try:
            return await self.engine.sign_many(key, purpose, contents, signer=signer, priority=priority)
        finally:
            self.pending -= 1

    def asked_for(self, purpose: Purpose) -> Counter[str]:
        return Counter(key for key, found, _, _ in self.asked if found is purpose)


def certificate(key: KeyInfo, *, not_before_ms: int, not_after_ms: int, number: int = 0) -> Certificate:
    der = f"certificate {number} of {key.id}".encode()
    return Certificate(
        der=der,
        signer=hashlib.sha256(der).digest(),
        profile=Profile.AGENT,
        domain="tpmbus.test",
        name=key.name,
        spki=key.spki,
        public_key=load_public(key.spki),
        suite=IDENTITY_SUITES[key.suite],
        origin=key.origin,
        level=0,
        serial=number + 1,
        not_before_ms=not_before_ms,
        not_after_ms=not_after_ms,
    )


class Place:
    """One process with its TPM."""

    def __init__(self, engine: Engine, random: Callable[[int], bytes] | None) -> None:
        self.clock = ManualClock()
        self.began_ms = self.clock.ms
        self.engine = WatchedEngine(engine)
        self.standing: dict[str, tuple[int, int]] = {}
        self.signer: Certificate | None = None
        """Of statements."""
        self.withheld = False
        """Nobody brings a newer statement."""
        self.statement = self._statement(1)
        options = {} if random is None else {"random": random}
        self.sessions = Sessions(self.engine, self.newest, self.clock, **options)
        self.tasks: Any = None
        self.chip = FakeTpm()

    def newest(self) -> Statement:
        number = 1 + max(0, self.clock.ms - self.began_ms) // (5 * MINUTE_MS)
        if not self.withheld and number > self.statement.number:
            self.statement = self._statement(number)
        return self.statement

    def restate(self, **standing: tuple[int, int]) -> None:
        self.standing |= standing
        self.statement = self._statement(self.statement.number + 1)

    def _statement(self, number: int) -> Statement:
        issued = self.began_ms + (number - 1) * 5 * MINUTE_MS
        raw = f"statement {number} {self.standing}".encode()
        digest = hashlib.sha256(raw).digest()
        return Statement(
            domain="tpmbus.test",
            number=number,
            issued_ms=max(min(issued, self.clock.ms), *(ended for _, ended in self.standing.values()), 0),  # as an authority does
            next_update_ms=issued + 60 * MINUTE_MS,
            policy_version=1,
            policy_digest=bytes(32),
            crl_number=1,
            crl_digest=bytes(32),
            agents=dict(self.standing),
            ml_dsa={},
            signer=self.signer,
            raw=raw,
            digest=digest,
            body_digest=digest,
        )

    async def holder(
        self, name: str, *, minutes: float = 15, kem: int = X25519, days: float = 300, number: int = 0, **changes: Any
    ) -> Holder:
        key = await self.engine.create(name, changes.pop("suite", QUICK))
        ends = self.clock.ms + int(days * DAY_MS)
        identity = certificate(key, not_before_ms=self.began_ms - DAY_MS, not_after_ms=ends, number=number)
        return Holder(identity, key.id, int(minutes * MINUTE_MS), kem, **changes)

    async def open(self, *names: str, **options: Any) -> None:
        await self.sessions.open(*[await self.holder(name, **options) for name in names])

    async def settle(self) -> None:
        """Let everybody go on until they wait for the clock."""
        with anyio.fail_after(30):
            for _ in range(12):
                await anyio.lowlevel.checkpoint()
                while self.engine.pending:
                    await anyio.lowlevel.checkpoint()

    async def advance(self, seconds: float, *, step: float = 1.0, look: Callable[[], None] | None = None) -> None:
        """Time passes a step at a time; `look` is called after each."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            await self.settle()
            if look is not None:
                look()

    def valid(self) -> set[str]:
        return {name for name in self.sessions.holders if self.sessions.state(name) == "valid"}


@asynccontextmanager
async def place(*, random: Callable[[int], bytes] | None = None) -> AsyncIterator[Place]:
    """With its renewal running."""
    chip = FakeTpm()
    async with Engine(lambda: chip, MemoryVault()) as engine, anyio.create_task_group() as tasks:
        here = Place(engine, random)
        here.chip = chip
        here.tasks = tasks
        tasks.start_soon(renewal.run, here.sessions)
        await here.settle()
        yield here
        tasks.cancel_scope.cancel()


def at_point(point: float) -> Callable[[int], bytes]:
    """Random bytes of which those that choose the moment of renewal say this one; the others are random."""
    import os

    def random(size: int) -> bytes:
        return min(int(point * (1 << 56)), (1 << 56) - 1).to_bytes(7, "big") if size == 7 else os.urandom(size)

    return random
