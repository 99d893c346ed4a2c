"""What tests of enrolment share: real software TPMs, a real authority with its desk, and a carrier that can be tampered with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio.to_thread
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from bus.identity.authority import Authority, Passphrase, open_authority
from bus.identity.authority.desk import Desk
from bus.identity.enroll import Enrolled, Predecessor, Wish, enroll
from bus.identity.kem_keys import generate
from bus.policy import Policy, load
from bus.protocol.kem import X25519
from bus.testing import ManualClock
from bus.tpm.engine import Engine
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import FolderVault
from bus.trust.endorsement import Roots, key_hash
from bus.trust.enrolment_messages import LISTED

NOW = 2_000_000_000_000
DOMAIN = "tpmbus.test"
SEAL = Passphrase("a passphrase of tests", log_n=10)
POLICY = """
version: 1
domain: tpmbus.test
agents: {LEAD: lead, STRONG: strong, FREE: free, HARD: hard}
roles:
  lead: {key: ecc256/sha256, inbox: x25519}
  strong: {key: rsa3072/sha3-384, inbox: x25519}
  free: {key: ecc256/sha256, inbox: x25519, key_origin: software, environment: allow}
  hard: {key: ecc256/sha256, inbox: x25519, key_origin: hardware}
"""


def policy(text: str = POLICY) -> Policy:
    return load({"policy.yaml": text})


def roots_of(*folders: Path) -> Roots:
    """The CAs of these software TPMs."""

    def der(path: Path) -> bytes:
        return x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)

    return Roots.of(
        software=[der(folder / "ca" / "swtpm-localca-rootca-cert.pem") for folder in folders],
        intermediates=[der(folder / "ca" / "issuercert.pem") for folder in folders],
    )


@asynccontextmanager
async def engine_of(swtpm: Any, vault: Path) -> AsyncIterator[Engine]:
    """The software TPM, with a software keystore beside it."""
    from bus.tpm.esapi import EsapiTpm

    kept = await anyio.to_thread.run_sync(FolderVault, vault)
    secret = await anyio.to_thread.run_sync(kept.secret)
    async with Engine(lambda: EsapiTpm(swtpm.tcti), kept, software=SoftwareTpm(secret)) as engine:
        yield engine


@dataclass
class World:
    engine: Engine
    authority: Authority
    desk: Desk
    clock: ManualClock
    uid: int | None = None
    tamper: Callable[[bytes], bytes] = field(default=lambda message: message)
    """What becomes of a message on its way to the authority."""
    sent: list[bytes] = field(default_factory=list)
    heard: list[bytes] = field(default_factory=list)

    async def exchange(self, message: bytes) -> bytes:
        self.sent.append(message)
        answer = await self.ask(self.tamper(message))
        self.heard.append(answer)
        return answer

    async def ask(self, message: bytes) -> bytes:
        return await anyio.to_thread.run_sync(lambda: self.desk.answer(message, uid=self.uid))

    async def list_chip(self, *names: str, engine: Engine | None = None) -> bytes:
        found = key_hash((await (engine or self.engine).endorsement()).spki)
        for name in names:
            await anyio.to_thread.run_sync(self.desk.list_chip, name, found)
        return found

    async def enroll(self, *wishes: Wish, engine: Engine | None = None) -> list[Enrolled]:
        return await enroll(
            engine or self.engine, wishes, exchange=self.exchange, root=self.authority.root, domain=self.authority.domain
        )


@asynccontextmanager
async def world_of(engine: Engine, folder: Path, roots: Roots, *, text: str = POLICY) -> AsyncIterator[World]:
    clock = ManualClock(NOW)
    async with open_authority(folder, domain=DOMAIN, protection=SEAL, clock=clock) as authority:
        rules = policy(text)
        desk = await anyio.to_thread.run_sync(lambda: Desk(authority, policy=lambda: rules, roots=roots, clock=clock))
        yield World(engine, authority, desk, clock)


def wish(name: str, way: int = LISTED, *, token: bytes = b"", predecessor: Predecessor | None = None) -> Wish:
    return Wish(name, X25519, generate(X25519).public, way, token, predecessor)
