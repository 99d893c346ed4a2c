"""The broker's own identity: a software key of its own, a certificate of profile broker, and sessions renewed like any other's.

    STATE/broker/       a vault of the software keystore that holds this one key; 0700
    trust/public/       certificates/broker.NAME.pem, and brokers.json, the names that agents pin

The hub that has the authority calls its broker BROKER. A gateway's broker has a name of its own, so that it can be revoked alone.

The broker is what strangers talk to, so its process gets nothing that is anybody else's: not the TPM's socket, not the vault of the
agents. A key in the TPM would mean the one or the other. So it is a software key, and says so in its certificate. What that costs:
who copies this folder can pose as the broker until its certificate is revoked, and a broker is believed no content anyway. And
what it gives besides: a broker's session needs no TPM, so it is there before one is, and while one is away.

A broker whose certificate was revoked gets another key, and a certificate for that one, when its hub opens next.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from anyio import to_thread

from bus.clock import Clock
from bus.errors import VaultError
from bus.hub.enrolling import fits
from bus.hub.state import State
from bus.identity.anchor import BROKER, BROKERS, Anchor, encode_brokers, read_brokers
from bus.identity.authority import Authority
from bus.identity.host.session import Holder
from bus.identity.public_trust import read_broker
from bus.protocol import kem
from bus.protocol.papers import MAX_SESSION_MS
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE, KeyInfo, TpmEngine
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import FolderVault
from bus.trust import certificates
from bus.trust.certificates import Certificate, Profile
from bus.trust.revocations import Reason

BROKER_SUITE: Final[Suite] = IDENTITY_SUITES["ecc256/sha256"]


@asynccontextmanager
async def open_broker_engine(state: State, *, clock: Clock) -> AsyncIterator[Engine]:
    """What signs the broker's sessions, in this process. Raises VaultError."""
    vault = await to_thread.run_sync(FolderVault, state.broker)
    software = SoftwareTpm(await to_thread.run_sync(vault.secret))
    async with Engine(None, vault, software=software, clock=clock) as engine:
        yield engine


async def enroll_broker(authority: Authority, engine: TpmEngine, *, name: str = BROKER, clock: Clock) -> Holder:
    """With a certificate that is good for a while, and its name among those that are pinned here. Raises VaultError."""
    key = await engine.create(name, BROKER_SUITE, origin=SOFTWARE)
    if await to_thread.run_sync(was_revoked, authority, name, key.spki):
        key = await engine.rotate(name, keep_until_ms=clock.now_ms())
    return holder_of(await to_thread.run_sync(_certified, authority, key, clock.now_ms()), key)


async def gateway_holder(state: State, engine: TpmEngine, anchor: Anchor) -> Holder:
    """Of a gateway, whose one key and its name were made by `tpmbus host gateway`. Raises VaultError("missing")."""
    key = await gateway_key(engine)
    public = state.trust / "public"
    found: Certificate | None = None
    if key is not None:
        name = key.name
        found = await to_thread.run_sync(lambda: read_broker(public, name, root=anchor.root, domain=anchor.domain))
    if key is None or found is None or found.spki != key.spki:
        text = "this state folder has no papers of a gateway: `tpmbus host gateway NAME --over COMMAND` brings them"
        raise VaultError("missing", text, path=str(public / "certificates"))
    return holder_of(found, key)


async def gateway_key(engine: TpmEngine) -> KeyInfo | None:
    """The key that this broker's vault has; None before it has one."""
    keys = [one for one in await engine.keys() if one.ends_ms is None]
    return keys[-1] if keys else None


def holder_of(certificate: Certificate, key: KeyInfo) -> Holder:
    """Nothing is sealed to a broker, so the smaller KEM does."""
    return Holder(certificate, key.id, MAX_SESSION_MS, kem.X25519)


def _certified(authority: Authority, key: KeyInfo, now_ms: int) -> Certificate:
    _pin(authority, key.name)
    held = authority.holder(key.name, profile=Profile.BROKER)
    if held is not None and fits(found := _read(authority, held.der), key, now_ms=now_ms):
        return found
    # Whoever owns the folder may have lost the key or thrown it away: the older certificates end with that, at once.
    made = authority.issue_identity(key.name, key.spki, BROKER_SUITE, SOFTWARE, 0, b"", profile=Profile.BROKER, successor=True)
    return _read(authority, made)


def was_revoked(authority: Authority, name: str, spki: bytes) -> bool:
    """Whether somebody took back what was said of this very key of a broker. Blocks."""
    return any(
        revoked is not None and revoked.reason is not Reason.ROTATED and _read(authority, one.der).spki == spki
        for one, revoked in authority.issued()
        if one.profile is Profile.BROKER and one.name == name
    )


def revoked_gateways(trust: Path) -> frozenset[str]:
    """Their names, where the authority is: pinned, and without a certificate that counts. Empty elsewhere. Blocks."""
    public = trust / "public"
    if not (trust / "private").is_dir():
        return frozenset()
    names = read_brokers(public) - {BROKER}
    return frozenset(name for name in names if not (public / "certificates" / f"broker.{name}.pem").exists())


def pin_gateway(authority: Authority, name: str) -> None:
    """Beside the names that agents take for brokers already, written down or not. Blocks."""
    names = read_brokers(authority.public)
    if name not in names:
        authority.publish(BROKERS, encode_brokers({name, *names}))


def _pin(authority: Authority, name: str) -> None:
    names = read_brokers(authority.public)
    if name not in names:
        authority.publish(BROKERS, encode_brokers({name, *_others(authority.public, names)}))


def _others(public: Path, names: frozenset[str]) -> frozenset[str]:
    """Those that were pinned; the one that counts without a list was not, if nobody wrote a list."""
    return names if (public / BROKERS).exists() else frozenset()


def _read(authority: Authority, der: bytes) -> Certificate:
    return certificates.read(der, root=authority.root, domain=authority.domain, profile=Profile.BROKER)
