"""What a TPM is to the rest of tpmbus.

`Tpm` is the narrow waist: seven verbs, blocking, called from one thread. It knows wrapped keys and digests and keeps no names.
`TpmEngine` is what everybody else uses: async, named keys, many callers. It takes contents, never a digest to sign, a finished
leaf or a padded block: whoever may ask it for one thing must not be able to make it sign another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, Protocol

from bus.protocol.contexts import Purpose
from bus.protocol.proof import BatchProof
from bus.protocol.suites import Suite

HARDWARE: Final = "hardware"
SOFTWARE_TPM: Final = "software-tpm"
SOFTWARE: Final = "software"
ORIGINS: Final = (SOFTWARE, SOFTWARE_TPM, HARDWARE)
"""Where a key lives, from the least to the most protected."""

MAX_SEAL_BYTES: Final = 128
"""libtpms' MAX_SYM_DATA; chips are the same. Seal a key, never a model."""


class Priority(IntEnum):
    """Who goes first when several wait. Nobody waits for ever: see `schedule`."""

    CRITICAL = 0
    NORMAL = 1
    RENEWAL = 2
    BACKGROUND = 3


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A key as it lies in the vault: opaque private half, public half in the chip's own form and in everybody else's."""

    pem: bytes = field(repr=False)
    public: bytes
    spki: bytes
    origin: str


@dataclass(frozen=True, slots=True)
class Attested:
    """What an attestation key said about something: the TPM's own structure, and the signature over it."""

    attest: bytes
    signature: bytes
    """A marshalled TPMT_SIGNATURE."""


@dataclass(frozen=True, slots=True)
class Endorsement:
    """The endorsement key: who made this chip, and what to encrypt a credential to."""

    spki: bytes
    public: bytes
    certificate: bytes
    """DER; empty where the chip has none."""


@dataclass(frozen=True, slots=True)
class Lockout:
    """Dictionary-attack state. Our keys are exempt from it (NODA), but other users of the same chip are not."""

    failed_tries: int
    max_tries: int
    locked: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """What a TPM says of itself."""

    description: str
    origin: str
    firmware: str
    kinds: frozenset[str]
    hashes: frozenset[str]
    """Hashes that the chip computes itself. The others are computed here, and the chip signs the digest."""
    transient_slots: int
    primary_handle: int
    primary_name: bytes
    lockout: Lockout | None = None


def name_of(public: bytes) -> bytes:
    """The TPM Name of a marshalled public area: the number of SHA-256, and the hash of what follows its length."""
    return b"\x00\x0b" + hashlib.sha256(public[2:]).digest()


def signing_path(suite: Suite, facts: Facts) -> str:
    """How a chip signs with a suite: with its own hash, or, where it has none, by one of two ways around that."""
    if suite.hash in facts.hashes:
        return "native"
    return "software padding, bare RSA" if suite.kind == "rsa3072" else "software digest"


class Tpm(Protocol):
    """One chip, one thread. Every method blocks; every failure is a TpmError."""

    def facts(self) -> Facts: ...

    def create(self, suite: Suite | None, *, auth: bytes) -> WrappedKey:
        """A new key for this suite; None makes an attestation key (restricted: it signs only what the chip itself made)."""

    def sign(self, key: WrappedKey, suite: Suite, digest: bytes, *, auth: bytes) -> bytes:
        """The suite's signature, in the wire form, over H(tbs)."""

    def seal(self, secret: bytes, *, pcrs: Sequence[int]) -> bytes: ...

    def unseal(self, blob: bytes) -> bytes: ...

    def certify(
        self, key: WrappedKey, attester: WrappedKey, *, qualifying: bytes, auth: bytes, attester_auth: bytes
    ) -> Attested: ...

    def quote(self, pcrs: Sequence[int], attester: WrappedKey, *, qualifying: bytes, attester_auth: bytes) -> Attested: ...

    def activate(self, attester: WrappedKey, *, credential: bytes, secret: bytes, attester_auth: bytes) -> bytes: ...

    def endorsement(self) -> Endorsement: ...

    def statistics(self) -> Mapping[str, int]: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key of the vault, without its private half."""

    name: str
    generation: int
    suite: str
    origin: str
    spki: bytes
    public: bytes
    created_ms: int
    ends_ms: int | None
    """None while it is the current one; after a rotation, when it stops signing."""

    @property
    def id(self) -> str:
        return f"{self.name}.{self.generation}"


@dataclass(frozen=True, slots=True)
class AttestationKey:
    spki: bytes
    public: bytes
    name: bytes
    """The TPM Name: the hash algorithm and the hash of the public area."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a suite takes on this chip, each signature verified; seconds."""

    suite: str
    path: str
    create: float
    sign: float
    """The median of a few."""


@dataclass(frozen=True, slots=True)
class TpmReading:
    """What one of an engine's TPMs has done since the engine started; times in seconds."""

    origin: str
    primary_name: bytes
    """Which TPM it is. Empty while it was never reached."""
    is_there: bool
    """Whether it answered when it was last asked."""
    signed_contents: int
    signatures: int
    waiting: int
    longest_wait: float
    busy: float
    failures: int
    restarts: int


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counters since the engine started; times in seconds."""

    operations: Mapping[str, int]
    signed_contents: int
    signatures: int
    largest_batch: int
    batch_sizes: Mapping[int, int]
    """How many signatures covered up to this many contents (powers of two)."""
    algorithms: Mapping[str, int]
    waiting: int
    longest_wait: float
    total_wait: float
    busy: float
    slots: Mapping[str, int]
    failures: Mapping[str, int]
    restarts: int
    tpms: Mapping[str, TpmReading] = field(default_factory=dict)
    """Of each TPM, by what it is called."""


class TpmEngine(Protocol):
    """One TPM, or several, for many async callers. A key is `NAME` (its current generation) or `NAME.GENERATION`.

    `beside` names a key: what is asked is asked of the TPM in which it lives. Without it, of the first one. Where there is but
    one, it says nothing.
    """

    async def facts(self, *, beside: str | None = None) -> Facts:
        """As they are now; with `beside`, as they were when that TPM was opened."""

    async def keys(self) -> list[KeyInfo]: ...

    async def create(self, name: str, suite: Suite, *, origin: str | None = None) -> KeyInfo:
        """The current key of this name; made if there is none of this suite and origin. Never makes one twice."""

    async def rotate(self, name: str, *, keep_until_ms: int, suite: Suite | None = None) -> KeyInfo:
        """A new generation; the old one signs until its end date."""

    async def sign_many(
        self,
        key: str,
        purpose: Purpose,
        contents: Sequence[bytes],
        *,
        signer: bytes | None = None,
        priority: Priority = Priority.NORMAL,
    ) -> list[BatchProof]:
        """A proof for each content. Everything that waits for one key is covered by one TPM signature."""

    async def seal(self, secret: bytes, *, pcrs: Sequence[int] = (), origin: str | None = None, beside: str | None = None) -> bytes:
        """By the TPM; `software` by the software keystore beside it, for what must open without the TPM. Give `unseal` the same."""

    async def unseal(self, blob: bytes, *, origin: str | None = None) -> bytes: ...

    async def certify(self, key: str, *, qualifying: bytes) -> Attested: ...

    async def quote(self, pcrs: Sequence[int], *, qualifying: bytes, beside: str | None = None) -> Attested: ...

    async def activate(self, credential: bytes, secret: bytes, *, beside: str | None = None) -> bytes: ...

    async def endorsement(self, *, beside: str | None = None) -> Endorsement: ...

    async def attestation_key(self, *, beside: str | None = None) -> AttestationKey: ...

    async def measure(self, suite: Suite) -> Timing:
        """Make a key of this suite, sign with it, verify, throw it away."""

    async def statistics(self) -> EngineStatistics: ...

    async def aclose(self) -> None: ...
