"""How an authority comes to be, and is opened again: the folder is owned, its secret unlocked, its keys and journal read.

The order in which a new one is written makes it safe to be killed anywhere: secret, keys, and last the journal's first line, with
the root's certificate. Before that line there is no authority, and what lies there is used; after it nothing is ever made anew.
"""

from __future__ import annotations

import os
import re
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bus.clock import Clock
from bus.errors import VaultError, VerificationError
from bus.identity.authority import journal, keys, published
from bus.identity.authority.dates import Dates, check_first
from bus.identity.authority.issue import Authority
from bus.identity.authority.keys import KeyFiles, Protection
from bus.identity.authority.records import Records
from bus.identity.authority.signers import RootKeys
from bus.identity.authority.store import Store
from bus.policy.kinds import DOMAIN_PATTERN
from bus.protocol.skew import SKEW_MS
from bus.trust import root as roots
from bus.trust import testing_domain
from bus.trust.profiles import ROOT_LIFETIME_MS
from bus.trust.root import Root


@asynccontextmanager
async def open_authority(
    folder: Path,
    *,
    domain: str,
    protection: Protection,
    clock: Clock,
    clock_is_right: bool = False,
    prepared: RSAPrivateKey | None = None,
) -> AsyncIterator[Authority]:
    """The authority of this folder (STATE/trust); made if there is none, with the key that is `prepared` or one that is made now.

    Raises VaultError, StateInUseError, TpmError.

    VaultError's codes: wrong_passphrase, wrong_tpm, wrong_protection (made with the other kind), wrong_domain, damaged,
    missing, version, disk_full, disk; clock (too far past what was done last, unless somebody says that the `clock_is_right`),
    root_ended. What the authority does later raises the last two as well. VerificationError("untrusted") for the domain of tests.
    """
    if re.fullmatch(DOMAIN_PATTERN, domain) is None:
        raise ValueError(f"{domain!r} is no trust domain: small letters, digits, dots and hyphens")
    testing_domain.check_domain(domain)
    async with _owned(folder) as (store, stack):
        secret = await keys.unlock(store, protection)
        if secret is None:
            await anyio.to_thread.run_sync(_demand_no_journal, store)
            secret = os.urandom(keys.SECRET_BYTES)
            await keys.protect(store, secret, protection)
        files = KeyFiles(store, secret)
        root, held, records = await anyio.to_thread.run_sync(
            lambda: _load(store, files, domain=domain, now_ms=clock.now_ms(), stack=stack, prepared=prepared)
        )
        dates = Dates(clock, records, root, folder)
        if clock_is_right:
            dates.confirm()
        yield await anyio.to_thread.run_sync(lambda: Authority(store, files, records, held, dates, root=root, domain=domain))


async def change_protection(folder: Path, *, before: Protection, after: Protection) -> None:
    """Another passphrase, or another TPM: one small file is replaced, the keys stay. Raises as `open_authority` does."""
    async with _owned(folder) as (store, _):
        secret = await keys.unlock(store, before)
        if secret is None:
            raise VaultError("missing", f"there is no authority in {folder}: open it once to make it", path=str(folder))
        await keys.protect(store, secret, after)


def is_there(folder: Path) -> bool:
    """Whether an authority was made in this folder. Blocks."""
    return (folder / journal.NAME).exists()


@asynccontextmanager
async def _owned(folder: Path) -> AsyncIterator[tuple[Store, ExitStack]]:
    store, stack = Store(folder), ExitStack()
    try:
        await anyio.to_thread.run_sync(stack.enter_context, store.owned())
        yield store, stack
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(stack.close)


def _load(
    store: Store, files: KeyFiles, *, domain: str, now_ms: int, stack: ExitStack, prepared: RSAPrivateKey | None
) -> tuple[Root, RootKeys, Records]:
    """What is on disk; made if there is none."""
    records = Records(store)
    stack.callback(records.close)
    records.load()
    held = RootKeys.load(files)
    if records.header is None:
        if store.read(published.ROOT) is not None:
            raise _missing(store, journal.NAME)
        check_first(now_ms, store.folder)
        held = held or RootKeys.make(files, prepared=prepared)
        der = _make_root(held, domain=domain, now_ms=now_ms)
        records.begin({"domain": domain, "root": b64encode(der).decode()})
    root = _root(store, records, domain=domain)
    if held is None or root.public_key != held.rsa.public_key():
        raise _missing(store, "private/root.key")
    return root, held, records


def _root(store: Store, records: Records, *, domain: str) -> Root:
    header = records.header or {}
    if header.get("domain") != domain:
        text = f"{store.folder} is the authority of {header.get('domain')}, not of {domain}: choose another state folder"
        raise VaultError("wrong_domain", text, path=str(store.folder))
    try:
        return Root.of(b64decode(str(header.get("root")), validate=True))
    except (VerificationError, ValueError) as error:
        path = str(store.path(journal.NAME))
        raise VaultError("damaged", f"{path} holds no root: restore the folder from a backup", path=path) from error


def _make_root(held: RootKeys, *, domain: str, now_ms: int) -> bytes:
    begins = now_ms - SKEW_MS
    builder = roots.builder(
        domain=domain,
        spki=held.spki,
        serial=x509.random_serial_number(),
        not_before_ms=begins,
        not_after_ms=begins + ROOT_LIFETIME_MS,
    )
    return Root.of(held.certify(builder)).der


def _demand_no_journal(store: Store) -> None:
    """Keys that no secret opens any more are not replaced in silence."""
    if store.read(journal.NAME) is not None:
        raise _missing(store, keys.PROTECTION)


def _missing(store: Store, name: str) -> VaultError:
    path = str(store.path(name))
    return VaultError("missing", f"{path} is gone: restore it from a backup, without it the authority cannot go on", path=path)
