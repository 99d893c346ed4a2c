"""An agent's inbox keys: made, certified, sealed by the TPM, opened, and destroyed when nobody can need them any more.

    STATE/inbox/NAME.json       every key of this agent, its private half sealed

What was sent to a durable subscription is sealed to the inbox key, so losing one loses messages. That is the order of things here:
a new key and its certificate are written in one step, before anybody can hear of them; a counter that was written is never given
out again; an old key goes only when nothing that was sealed to it can be waiting. A process can be killed at any instant.

A destroyed key is one that is no longer in the file. What the disk keeps of an earlier file is sealed; who also has the TPM and
that disk has the key. No program can do more on a disk that moves its blocks.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

from bus.clock import Clock
from bus.errors import NotPermittedError, OverloadedError, TpmRefusedError, VaultError, VerificationError
from bus.identity import durable, kem_keys
from bus.identity.inbox_record import (
    MAX_KEYS,
    InboxKey,
    Place,
    Record,
    Wanted,
    Why,
    decode,
    encode,
    kept,
    needed_until,
    next_counter,
    times,
    why,
)
from bus.protocol.contexts import Purpose
from bus.protocol.kem import PrivateKey
from bus.protocol.names import is_agent_name
from bus.protocol.papers import InboxBody, InboxCertificate, content
from bus.protocol.proof import BLIND_BYTES, Proof
from bus.tpm.interface import SOFTWARE, Priority, TpmEngine
from bus.trust.certificates import Certificate

MAX_FILE_BYTES: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class Signer:
    """Who certifies an inbox key: an identity certificate, and what the engine calls its key."""

    certificate: Certificate
    key: str


@dataclass(frozen=True, slots=True)
class Kept:
    """What was done for one agent."""

    record: Record
    made: Why | None
    """Why a new key was made; None if none was."""
    destroyed: tuple[int, ...]
    """The counters of the keys that are gone."""


class InboxFolder:
    """STATE/inbox. Any number of processes may read it; of each agent's file there is one writer at a time. Every method blocks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """The agents that have a file here."""
        return sorted(path.stem for path in self.folder.glob("*.json") if is_agent_name(path.stem))

    def read(self, name: str) -> Record:
        """Empty for an agent that has none yet. Raises VaultError: damaged, disk."""
        path = self.path(name)
        data = durable.read(path, longest=MAX_FILE_BYTES)
        if data is None:
            return Record(name)
        try:
            return decode(data, name=name)
        except ValueError as error:
            text = (
                f"{path} is not what was written ({error}): restore it from a backup; or `tpmbus keys inbox {name} --renew` "
                f"sets it aside and makes a new key; what was sealed to the old ones stays closed until senders grant it again"
            )
            raise VaultError("damaged", text, path=str(path)) from error

    def existing(self, name: str) -> Record:
        """The same. Raises VaultError("missing") for an agent that has none."""
        record = self.read(name)
        if not record.counter:
            path = self.path(name)
            raise VaultError("missing", f"{name} has no inbox key yet: `tpmbus provision {name}` makes it", path=str(path))
        return record

    @contextmanager
    def writing(self, name: str) -> Iterator[None]:
        """Nobody else writes this agent's file."""
        durable.make_folder(self.folder)
        with durable.locked(self.path(name)):
            yield

    def write(self, record: Record) -> None:
        durable.replace(self.path(record.name), encode(record))

    def set_aside(self, name: str) -> None:
        """Out of the way, and not destroyed: somebody may be able to mend it."""
        path = self.path(name)
        os.rename(path, path.with_name(f"{path.name}.{secrets.token_hex(4)}.aside"))  # noqa: PTH104  Path.rename is the same

    def path(self, name: str) -> Path:
        if not is_agent_name(name):  # it may be what somebody typed
            raise NotPermittedError(name[:64], "have an inbox key", "a name is 1 to 32 of A-Z 0-9, a letter first")
        return self.folder / f"{name}.json"


async def place_of(engine: TpmEngine, origin: str, *, beside: str | None = None) -> Place:
    """Where the keys of an agent are sealed whose identity key has this origin: beside it, so that both open or neither.

    `beside`: that key, where the engine has several TPMs.
    """
    return Place(origin, b"" if origin == SOFTWARE else (await engine.facts(beside=beside)).primary_name)


async def keep_inbox(
    folder: InboxFolder,
    engine: TpmEngine,
    signer: Signer,
    wanted: Wanted,
    *,
    clock: Clock,
    pcrs: Sequence[int] = (),
    anew: bool = False,
    prepared: PrivateKey | None = None,
) -> Kept:
    """Make a new key if one is due (or `anew`), destroy those whose time is known to be over. Call it as often as you like.

    `prepared` is the key to use if one is due: enrolment names an inbox key before there is a certificate to sign for it.
    Raises VaultError: damaged (unless `anew`, which sets the file aside), disk, disk_full; VerificationError: "untrusted" if the
    identity certificate has ended, "inbox_rollback" if somebody else certified keys of this name; TpmError.
    """
    name, now = signer.certificate.name, clock.now_ms()
    if not anew:
        record = await to_thread.run_sync(folder.read, name)
        if why(record, wanted, now_ms=now) is None and kept(record, wanted, now_ms=now) == record:
            return Kept(record, None, ())
    with ExitStack() as held:
        await to_thread.run_sync(held.enter_context, folder.writing(name))
        before = await to_thread.run_sync(_read_or_set_aside if anew else InboxFolder.read, folder, name)
        reason = Why.ASKED if anew else why(before, wanted, now_ms=now)
        after = kept(before, wanted, now_ms=now)
        if reason is not None:
            if len(after.keys) >= MAX_KEYS:
                raise OverloadedError(f"the list of {name}'s inbox keys", pending=len(after.keys), limit=MAX_KEYS)
            private = prepared or kem_keys.generate(wanted.kem)
            counter = next_counter(before, wanted)
            after = after.with_key(await _make(engine, signer, wanted, private, counter=counter, now_ms=now, pcrs=pcrs))
        if after != before:
            await to_thread.run_sync(folder.write, after)
    gone = {key.counter for key in before.keys} - {key.counter for key in after.keys}
    return Kept(after, reason, tuple(sorted(gone)))


def _read_or_set_aside(folder: InboxFolder, name: str) -> Record:
    try:
        return folder.read(name)
    except VaultError as error:
        if error.code != "damaged":
            raise
        folder.set_aside(name)
        return Record(name)


async def _make(
    engine: TpmEngine,
    signer: Signer,
    wanted: Wanted,
    private: PrivateKey,
    *,
    counter: int,
    now_ms: int,
    pcrs: Sequence[int],
) -> InboxKey:
    identity = signer.certificate
    begins, ends = times(now_ms=now_ms, identity_not_before_ms=identity.not_before_ms, identity_not_after_ms=identity.not_after_ms)
    if private.kem != wanted.kem:
        raise ValueError("the key that was prepared is of another kind than policy wants")
    if ends <= max(begins, now_ms):
        raise VerificationError(
            "untrusted", agent=identity.name, detail="its identity certificate has ended: renew that first, `tpmbus provision` does"
        )
    body = InboxBody(identity.domain, identity.name, identity.signer, counter, private.kem, private.public, begins, ends)
    sealed = await engine.seal(private.to_bytes(), pcrs=pcrs, origin=wanted.place.origin, beside=signer.key)
    certificate = await _certify(engine, signer, body)
    return InboxKey(certificate.encode(), sealed, wanted.place, needed_until(body, wanted))


async def _certify(engine: TpmEngine, signer: Signer, body: InboxBody) -> InboxCertificate:
    identity, encoded, blind = signer.certificate, body.encode(), os.urandom(BLIND_BYTES)
    digest = content(Purpose.INBOX, encoded, blind=blind, suite=identity.suite)
    (proof,) = await engine.sign_many(signer.key, Purpose.INBOX, [digest], signer=identity.signer, priority=Priority.RENEWAL)
    certificate = InboxCertificate(encoded, Proof.of(proof, blind=blind))
    # The engine is another process, and a signature is cheap to check.
    certificate.check(identity.public_key, identity.suite, identity.signer)
    return certificate


@dataclass(slots=True, eq=False)
class Inbox:
    """One agent's private keys while it is open: each is unsealed when it is first needed, once, and forgotten at the end.

    Keys that another process made meanwhile are found: whoever asks for an id that is not known here has the file read again.
    """

    folder: InboxFolder
    engine: TpmEngine
    clock: Clock
    record: Record
    _open: dict[bytes, PrivateKey] = field(default_factory=dict, repr=False)
    _lock: anyio.Lock = field(default_factory=anyio.Lock, repr=False)

    @classmethod
    async def open(cls, folder: InboxFolder, engine: TpmEngine, name: str, *, clock: Clock) -> Inbox:
        return cls(folder, engine, clock, await to_thread.run_sync(folder.read, name))

    @property
    def certificate(self) -> bytes:
        """The newest key's; empty if there is none."""
        newest = self.record.newest
        return b"" if newest is None else newest.certificate

    async def refresh(self) -> None:
        """Read the file again, and forget what is no longer in it."""
        self.record = await to_thread.run_sync(self.folder.read, self.record.name)
        ids = {key.id for key in self.record.keys}
        self._open = {key_id: private for key_id, private in self._open.items() if key_id in ids}

    async def private(self, key_id: bytes) -> PrivateKey | None:
        """The key of this id; None if it is none of mine, or none any more. Raises VaultError if it is, and does not open."""
        async with self._lock:  # so that many who ask at once have it unsealed once
            key = self._find(key_id)
            if key is None:
                await self.refresh()
                key = self._find(key_id)
            if key is None or self.clock.now_ms() > key.needed_until_ms:
                self._open.pop(key_id, None)
                return None
            if key_id not in self._open:
                self._open[key_id] = await self._unseal(key)
            return self._open[key_id]

    async def aclose(self) -> None:
        self._open.clear()

    def _find(self, key_id: bytes) -> InboxKey | None:
        return next((key for key in self.record.keys if key.id == key_id), None)

    async def _unseal(self, key: InboxKey) -> PrivateKey:
        path = str(self.folder.path(self.record.name))
        try:
            private = PrivateKey.from_bytes(key.body.kem, await self.engine.unseal(key.sealed, origin=key.place.origin))
        except TpmRefusedError as error:
            raise VaultError(error.code, self._lost(key, str(error)), path=path) from error
        except ValueError as error:
            raise VaultError("damaged", self._lost(key, "what was sealed is no key of its kind"), path=path) from error
        if private.public != key.body.kem_key:
            raise VaultError("damaged", self._lost(key, "another key is sealed in its place"), path=path)
        return private

    def _lost(self, key: InboxKey, reason: str) -> str:
        """What does not open, what that costs, and what to do."""
        until = datetime.fromtimestamp(key.body.not_after_ms / 1000, UTC).strftime("%Y-%m-%d")
        name = self.record.name
        return (
            f"inbox key {key.counter} of {name} does not open: {reason}. Messages of durable subscriptions that were sealed to it "
            f"(until {until}) cannot be read. Put back the TPM that sealed it, with its registers as they were; or go on without "
            f"them: `tpmbus keys inbox {name} --renew` makes a new key, and senders grant it what they still may"
        )
