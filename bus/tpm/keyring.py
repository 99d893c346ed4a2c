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


def wrong_tpm(tpm: str, made_under: bytes, found: bytes) -> VaultError:
    """A vault whose keys belong to another TPM than the one that answers."""
    called = f"TPM {tpm}: " if tpm else ""
    return VaultError(
        "wrong_tpm",
        f"{called}the keys of this vault were made under another TPM's primary key "
        f"({made_under.hex()[:16]}.., this one has {found.hex()[:16]}..): put that TPM back, "
        "or move the vault away and give the agents new keys with `tpmbus provision`",
        path="index.json",
        tpm=tpm,
    )


def elsewhere(entry: Entry) -> VaultError:
    """A key that lives in a TPM which is not here."""
    called = f"TPM {entry.tpm}" if entry.tpm else "another TPM"
    return VaultError(
        "wrong_tpm",
        f"{entry.info.id} was made under another TPM's primary key ({called}, {entry.parent.hex()[:16]}..): put that TPM back, "
        f"or name it too; or make a new key with `tpmbus keys rotate {entry.info.name}`",
        path=f"{entry.info.id}.pem",
        tpm=entry.tpm,
    )


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
    tpm: str = ""
    """What the TPM is called: it stands beside the keys that are made there."""
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
            raise wrong_tpm(self.tpm, min(parents), primary_name)

    # -- making ----------------------------------------------------------------------------------------------------------------

    def create(self, name: str, suite: Suite, origin: str) -> KeyInfo:
        if not is_agent_name(name):
            raise ValueError(f"{name!r} is no agent name: a capital letter, then capital letters and digits, 32 at most")
        self.permit(name, origin)
        while True:
            with self.vault.writing():
                mine = self._generations(name)
                found = self._usable(mine, suite, origin)
            made = found or self._make(name, suite, origin, mine, ends_ms=self.clock.now_ms() + KEEP_RETIRED_MS)
            if made is not None:
                return made

    def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None) -> KeyInfo:
        if not is_agent_name(name):  # neither one generation of a key, nor the attestation key, which must stay restricted
            raise TpmRefusedError("unknown_key", f"no agent is called {name!r}: only agents' keys are rotated")
        while True:
            with self.vault.writing():
                old = self.vault.find(name).info
                mine = self._generations(name)
            self.permit(name, old.origin)
            made = self._make(name, suite or IDENTITY_SUITES[old.suite], old.origin, mine, ends_ms=keep_until_ms)
            if made is not None:
                return made

    def attester(self) -> LoadedKey:
        """The restricted key that vouches for others: it signs only what the chip itself has made."""
        origin = next((origin for origin in self.chips if origin != SOFTWARE), SOFTWARE)
        while True:
            with self.vault.writing():
                mine = self._generations(ATTESTATION)
            for entry in mine:
                if entry.info.ends_ms is None and entry.parent in self.parents.values():
                    return self._open(entry)
            made = self._make(ATTESTATION, None, origin, mine, ends_ms=self.clock.now_ms())
            if made is not None:
                return self._open(self.vault.find(made.id))

    def _generations(self, name: str) -> list[Entry]:
        return [entry for entry in self.vault.entries() if entry.info.name == name]

    def _usable(self, mine: Sequence[Entry], suite: Suite, origin: str) -> KeyInfo | None:
        """The current key, or an earlier one that is current from now on; None if a new one is due."""
        usable = [entry for entry in mine if self._fits(entry, suite, origin)]
        current = [entry for entry in mine if entry.info.ends_ms is None]
        for entry in current:
            if entry in usable:
                return entry.info
            if entry.info.origin == origin and not self._is_here(entry):
                raise elsewhere(entry)  # a new one would end the other unasked
        if not usable:
            return None
        until = self.clock.now_ms() + KEEP_RETIRED_MS
        again = vaults.make_current(max(usable, key=lambda entry: entry.info.generation))
        self.vault.update([*(vaults.retire(entry, ends_ms=until) for entry in current), again])
        return again.info

    def _make(self, name: str, suite: Suite | None, origin: str, mine: Sequence[Entry], *, ends_ms: int) -> KeyInfo | None:
        """The next generation after these; None if somebody else has made it meanwhile.

        The chip works while nobody holds the vault: other TPMs make keys for it at the same time.
        """
        generation = max((entry.info.generation for entry in mine), default=0) + 1
        now = self.clock.now_ms()
        label = (suite or ATTESTATION_SUITE).name
        draft = KeyInfo(name, generation, label, origin, b"", b"", now, None)
        wrapped = self.chip(origin).create(suite, auth=self.vault.auth(draft))
        info = KeyInfo(name, generation, label, origin, wrapped.spki, wrapped.public, now, None)
        entry = vaults.new_entry(
            info, wrapped, parent=self.parents.get(origin, b""), tpm=self.tpm if origin in self.parents else ""
        )
        with self.vault.writing():
            now_there = self._generations(name)
            if len(now_there) != len(mine):
                return None
            self.vault.add(entry, wrapped, retired=[vaults.retire(old, ends_ms=ends_ms) for old in _replaced(now_there, entry)])
        return info

    def _fits(self, entry: Entry, suite: Suite, origin: str) -> bool:
        info = entry.info
        alive = info.ends_ms is None or info.ends_ms > self.clock.now_ms()
        return alive and info.suite == suite.name and info.origin == origin and self._is_here(entry)

    def _is_here(self, entry: Entry) -> bool:
        return entry.parent == self.parents.get(entry.info.origin, b"")

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
        if info.origin in self.chips and not self._is_here(entry):
            raise elsewhere(entry)
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


def _replaced(mine: Sequence[Entry], new: Entry) -> list[Entry]:
    """What ends with a new key: the current one of the name. Each TPM has an attestation key of its own."""
    current = [entry for entry in mine if entry.info.ends_ms is None]
    return [entry for entry in current if entry.info.name != ATTESTATION or entry.parent == new.parent]
