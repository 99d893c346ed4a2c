"""The authority itself: what it certifies, revokes and signs (skeleton: the signatures stand, the bodies follow)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from bus.clock import Clock
from bus.identity.authority.keys import Protection
from bus.protocol.suites import Suite
from bus.trust.certificates import Profile, Root
from bus.trust.revocations import Reason, RevocationList


class Holder(NamedTuple):
    """Who has a name: the newest certificate that is not revoked, even if it has ended."""

    ek_hash: bytes
    der: bytes


class PolicySignature(NamedTuple):
    """By the root key (RSA-PSS SHA3-384, salt 48) and by the ML-DSA root key, over the context of policies and the body."""

    signature: bytes
    cosignature: bytes


class StatementSignature(NamedTuple):
    """By the trust signer (r | s, 96 bytes) and by the ML-DSA root key, over the context of trust statements and the body."""

    signer: bytes
    """The trust signer's certificate, DER."""
    signature: bytes
    cosignature: bytes


class Authority:
    """Made by `open_authority`. Every method blocks (disk, RSA): call it in a worker thread. Several threads may."""

    domain: str
    root: Root
    ml_dsa_root: bytes
    """The public ML-DSA-65 key (1,952 bytes) that is pinned beside the root."""
    public: Path
    """STATE/trust/public: what everybody may read."""
    private: Path
    """STATE/trust/private: 0700."""

    # ---- certificates ------------------------------------------------------------------------------------------------------

    def issue_identity(
        self,
        name: str,
        spki: bytes,
        suite: Suite,
        origin: str,
        level: int,
        ek_hash: bytes,
        dns: Sequence[str] = (),
        ips: Sequence[IPv4Address | IPv6Address] = (),
        *,
        profile: Profile = Profile.AGENT,
        overlap_ms: int = 0,
        successor: bool = False,
    ) -> bytes:
        """A certificate (DER) for a year, of profile AGENT or BROKER.

        The key that the name has already: renewal, the old certificate runs out by itself. Another key: rotation, the old
        certificates are revoked with reason `rotated` from `overlap_ms` from now on. Raises AttestationError("name_taken") if
        the name is held from another EK (or, where `ek_hash` is empty, by another key), unless `successor` says that the old
        identity key signed for the new one.
        """
        raise NotImplementedError

    def issue_tls(self, name: str, spki: bytes, dns: Sequence[str] = (), ips: Sequence[IPv4Address | IPv6Address] = ()) -> bytes:
        """A TLS certificate (DER) for 24 hours, for the P-256 key of an agent or broker that has an identity certificate.

        Raises AttestationError("not_enrolled").
        """
        raise NotImplementedError

    def holder(self, name: str, *, profile: Profile = Profile.AGENT) -> Holder | None:
        """Who has this name; None if nobody has, or all certificates of the name are revoked."""
        raise NotImplementedError

    def revoke(self, name: str, reason: Reason, *, profile: Profile = Profile.AGENT) -> RevocationList:
        """Revoke all that this name has (TLS certificates too), now, raise its generation, and publish a new CRL."""
        raise NotImplementedError

    def revocations(self) -> RevocationList:
        """The CRL in force, made anew when half of its life has passed."""
        raise NotImplementedError

    # ---- what trust statements say -----------------------------------------------------------------------------------------

    def standings(self) -> Mapping[str, tuple[int, int]]:
        """(generation, sessions_not_before_ms) of each agent for which they are not both 0."""
        raise NotImplementedError

    def end_sessions(self, name: str) -> int:
        """No session certificate of this agent from before now counts any more. Gives that instant."""
        raise NotImplementedError

    def register_ml_dsa(self, name: str, digest: bytes) -> None:
        """This agent co-signs with the ML-DSA-65 key of this SHA-256."""
        raise NotImplementedError

    def ml_dsa_hashes(self) -> Mapping[str, bytes]:
        raise NotImplementedError

    def next_statement_number(self) -> int:
        """On disk before it is given out, so never given twice."""
        raise NotImplementedError

    def next_policy_version(self) -> int:
        """The same for policy bundles."""
        raise NotImplementedError

    # ---- signatures --------------------------------------------------------------------------------------------------------

    def sign_statement(self, body: bytes) -> StatementSignature:
        """The context is put in front here, so that these keys sign nothing else."""
        raise NotImplementedError

    def sign_policy(self, body: bytes) -> PolicySignature:
        """The same for policy bundles, by the root key."""
        raise NotImplementedError

    # ---- small files beside ------------------------------------------------------------------------------------------------

    def publish(self, path: str, data: bytes) -> None:
        """Replace trust/public/PATH (`statement.bin`, `inbox/NAME.bin`) atomically; synced when this returns."""
        raise NotImplementedError

    def keep(self, path: str, data: bytes) -> None:
        """Replace trust/private/PATH atomically, 0600; synced when this returns."""
        raise NotImplementedError


@asynccontextmanager
async def open_authority(
    folder: Path,
    *,
    domain: str,
    protection: Protection,
    clock: Clock,
) -> AsyncIterator[Authority]:
    """The authority of this folder (STATE/trust); made if there is none. Raises VaultError, StateInUseError, TpmError.

    VaultError's codes: wrong_passphrase, wrong_tpm, wrong_protection (made with the other kind), wrong_domain, damaged,
    missing, version, disk_full, disk.
    """
    raise NotImplementedError
    yield
