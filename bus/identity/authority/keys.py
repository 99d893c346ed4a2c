"""The authority's private keys at rest: encrypted under 32 bytes that a TPM seals or that a passphrase wraps."""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.tpm.interface import TpmEngine


@dataclass(frozen=True, slots=True)
class TpmSeal:
    """The TPM of this engine seals what the keys are encrypted under: on another machine they do not open."""

    engine: TpmEngine = field(repr=False)


@dataclass(frozen=True, slots=True)
class Passphrase:
    """Somebody types it at each start. For an authority without a TPM, and for a copy in a safe."""

    text: str = field(repr=False)
    log_n: int = 17
    """scrypt's cost for a new one, as a power of two; 17 takes some 0.4 s and 128 MiB. An existing one has its own on file."""


Protection = TpmSeal | Passphrase
