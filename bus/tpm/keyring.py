"""Named keys over a vault and the chips that can use them: make, find, rotate, sign. Blocking; the engine's thread owns it.

A name has generations. One is current; those before it sign until their end date. Making is idempotent: a generation of the
wanted suite and origin that has not ended is used again rather than made anew, so a rollout can go forth and back.
"""

from __future__ import annotations

import secrets
import statistics
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from bus.clock import Clock
from bus.errors import TpmRefusedError, VaultError, VerificationError
from bus.protocol import proof, signatures
from bus.protocol.contexts import Purpose
from bus.protocol.names import is_agent_name
from bus.protocol.proof import BatchProof
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.tpm import vault as vaults
from bus.tpm.interface import SOFTWARE, KeyInfo, Timing, Tpm, WrappedKey, signing_path
from bus.tpm.vault import Entry, Vault

ATTESTATION = "attestation"
ATTESTATION_SUITE = IDENTITY_SUITES["ecc256/sha256"]
KEEP_RETIRED_MS = 7 * 24 * 3600 * 1000
"""How long a key that was replaced signs on, where nobody says otherwise: as long as durable messages live by default."""
_CACHED_KEYS = 1_024
_MEASURED_SIGNATURES = 5


@dataclass(frozen=True, slots=True)
class LoadedKey:
    """A key of the vault, read and checked, ready to sign."""

    info: KeyInfo
    suite: Suite
    wrapped: WrappedKey = field(repr=False)
    auth: bytes = field(repr=False)
    public: PublicKeyTypes
    signer: bytes


def anywhere(name: str, origin: str) -> None:
    """Let every key live where it wants: for tests, and for programs without a policy."""


@dataclass(slots=True)
class Keyring:
    vault: Vault
    clock: Clock
    chips: Mapping[str, Tpm] = field(default_factory=dict)
    """By origin: which chip serves keys that live there."""
    parents: Mapping[str, bytes] = field(default_factory=dict)
    """By origin: the Name of the primary key under which that chip wraps."""
    permit: Callable[[str, str], None] = anywhere
    """Raises NotPermittedError where policy does not let the key of a name live there: before it is made, and before it signs."""
    _loaded: OrderedDict[str, LoadedKey] = field(default_factory=OrderedDict)

    def infos(self) -> list[KeyInfo]:
        """The agents' keys."""
        return [entry.info for entry in self.vault.entries() if entry.info.name != ATTESTATION]

    def chip(self, origin: str) -> Tpm:
        try:
            return self.chips[origin]
        except KeyError:
            here = ", ".join(sorted(self.chips)) or "none"
            raise TpmRefusedError(
                "wrong_origin", f"no {origin} TPM is open here ({here}): this key cannot be made or used"
            ) from None

    def check_same_tpm(self, origin: str, primary_name: bytes) -> None:
        """Raises VaultError("wrong_tpm") unless the vault's keys of this origin, if it has any, belong to this TPM.

        Asked before anything secret goes to the chip: else what sits in between could give us a primary key of its own.
        """
        parents = {entry.parent for entry in self.vault.entries() if entry.info.origin == origin}
        if parents and primary_name not in parents:
            raise VaultError(
                "wrong_tpm",
                "the keys of this vault were made under another TPM's primary key "
                f"({min(parents).hex()[:16]}.., this one has {primary_name.hex()[:16]}..): put that TPM back, "
                "or move the vault away and give the agents new keys with `tpmbus provision`",
                path="index.json",
            )

    # -- making ----------------------------------------------------------------------------------------------------------------

    def create(self, name: str, suite: Suite, origin: str) -> KeyInfo:
        if not is_agent_name(name):
            raise ValueError(f"{name!r} is no agent name: a capital letter, then capital letters and digits, 32 at most")
        self.permit(name, origin)
        with self.vault.writing():
            mine = [entry for entry in self.vault.entries() if entry.info.name == name]
            usable = [entry for entry in mine if self._fits(entry, suite, origin)]
            current = [entry for entry in mine if entry.info.ends_ms is None]
            for entry in usable:
                if entry.info.ends_ms is None:
                    return entry.info
            until = self.clock.now_ms() + KEEP_RETIRED_MS
            if usable:
                again = vaults.make_current(max(usable, key=lambda entry: entry.info.generation))
                self.vault.update([*(vaults.retire(entry, ends_ms=until) for entry in current), again])
                return again.info
            return self._make(name, suite, origin, mine, ends_ms=until)

    def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None) -> KeyInfo:
        if not is_agent_name(name):  # neither one generation of a key, nor the attestation key, which must stay restricted
            raise TpmRefusedError("unknown_key", f"no agent is called {name!r}: only agents' keys are rotated")
        with self.vault.writing():
            entries = self.vault.entries()
            old = self.vault.find(name).info
            self.permit(name, old.origin)
            mine = [entry for entry in entries if entry.info.name == name]
            return self._make(name, suite or IDENTITY_SUITES[old.suite], old.origin, mine, ends_ms=keep_until_ms)

    def attester(self) -> LoadedKey:
        """The restricted key that vouches for others: it signs only what the chip itself has made."""
        with self.vault.writing():
            for entry in self.vault.entries():
                if (
                    entry.info.name == ATTESTATION
                    and entry.info.ends_ms is None
                    and entry.parent == self.parents.get(entry.info.origin)
                ):
                    return self._open(entry)
            origin = next((origin for origin in self.chips if origin != SOFTWARE), SOFTWARE)
            mine = [entry for entry in self.vault.entries() if entry.info.name == ATTESTATION]
            self._make(ATTESTATION, None, origin, mine, ends_ms=self.clock.now_ms())
            return self._open(self.vault.find(ATTESTATION))

    def _make(self, name: str, suite: Suite | None, origin: str, mine: Sequence[Entry], *, ends_ms: int) -> KeyInfo:
        generation = max((entry.info.generation for entry in mine), default=0) + 1
        now = self.clock.now_ms()
        label = (suite or ATTESTATION_SUITE).name
        draft = KeyInfo(name, generation, label, origin, b"", b"", now, None)
        wrapped = self.chip(origin).create(suite, auth=self.vault.auth(draft))
        info = KeyInfo(name, generation, label, origin, wrapped.spki, wrapped.public, now, None)
        retired = [vaults.retire(entry, ends_ms=ends_ms) for entry in mine if entry.info.ends_ms is None]
        self.vault.add(vaults.new_entry(info, wrapped, parent=self.parents.get(origin, b"")), wrapped, retired=retired)
        return info

    def _fits(self, entry: Entry, suite: Suite, origin: str) -> bool:
        info = entry.info
        alive = info.ends_ms is None or info.ends_ms > self.clock.now_ms()
        return alive and info.suite == suite.name and info.origin == origin and entry.parent == self.parents.get(origin, b"")

    def measure(self, suite: Suite, chip: Tpm) -> Timing:
        """A key that never reaches the vault: how long it takes to make, and to sign with."""
        auth = secrets.token_urlsafe(24).encode()
        begun = self.clock.monotonic()
        wrapped = chip.create(suite, auth=auth)
        created = self.clock.monotonic() - begun
        info = KeyInfo("MEASURED", 1, suite.name, wrapped.origin, wrapped.spki, wrapped.public, self.clock.now_ms(), None)
        key = LoadedKey(info, suite, wrapped, auth, signatures.load_public(wrapped.spki), proof.key_signer(wrapped.spki))
        times = []
        for _ in range(_MEASURED_SIGNATURES):
            begun = self.clock.monotonic()
            self.sign(key, key.signer, [(Purpose.ENVELOPE, bytes(suite.digest_bytes))])
            times.append(self.clock.monotonic() - begun)
        return Timing(suite.name, signing_path(suite, chip.facts()), created, statistics.median(times))

    # -- using -----------------------------------------------------------------------------------------------------------------

    def open(self, key: str) -> LoadedKey:
        """Find a key, current or by generation. Raises TpmRefusedError: unknown_key, key_ended; VaultError: damaged, wrong_tpm."""
        loaded = self._open(self.vault.find(key))
        self.permit(loaded.info.name, loaded.info.origin)
        ends_ms = loaded.info.ends_ms
        if ends_ms is not None and ends_ms <= self.clock.now_ms():
            raise TpmRefusedError(
                "key_ended", f"{loaded.info.id} was rotated away, and its time is over: sign with {loaded.info.name}"
            )
        return loaded

    def sign(self, key: LoadedKey, signer: bytes, contents: Sequence[tuple[Purpose, bytes]]) -> list[BatchProof]:
        """One signature over all contents, checked before anybody gets it: a faulty chip must not leak a faulty signature."""
        batch = proof.batch(key.suite, signer, contents)
        tbs = batch.tbs
        digest = key.suite.digest(tbs)
        chip = self.chip(key.info.origin)
        signature = chip.sign(key.wrapped, key.suite, digest, auth=key.auth)
        try:
            signatures.verify(key.suite, key.public, tbs, signature)
        except VerificationError as error:
            raise TpmRefusedError("bad_signature", f"the TPM gave a signature for {key.info.id} that does not verify") from error
        return batch.proofs(signature)

    def _open(self, entry: Entry) -> LoadedKey:
        info = entry.info
        cached = self._loaded.get(info.id)
        if cached is not None and cached.info.spki == info.spki:
            self._loaded.move_to_end(info.id)
            return cached if cached.info is info else self._remember(_with_info(cached, info))
        if info.origin in self.chips and entry.parent != self.parents.get(info.origin, b""):
            raise VaultError(
                "wrong_tpm",
                f"{info.id} was made under another TPM's primary key ({entry.parent.hex()[:16]}..): "
                f"put that TPM back, or make a new key with `tpmbus keys rotate {info.name}`",
                path=f"{info.id}.pem",
            )
        wrapped = self.vault.read(entry)
        try:
            public = signatures.load_public(info.spki)
        except VerificationError as error:
            what = f"the vault's index gives {info.id} a public key that is none: restore it from a backup"
            raise VaultError("damaged", what, path="index.json") from error
        suite = IDENTITY_SUITES[info.suite]
        return self._remember(LoadedKey(info, suite, wrapped, self.vault.auth(info), public, proof.key_signer(info.spki)))

    def _remember(self, key: LoadedKey) -> LoadedKey:
        self._loaded[key.info.id] = key
        if len(self._loaded) > _CACHED_KEYS:
            self._loaded.popitem(last=False)
        return key


def _with_info(key: LoadedKey, info: KeyInfo) -> LoadedKey:
    return LoadedKey(info, key.suite, key.wrapped, key.auth, key.public, key.signer)
