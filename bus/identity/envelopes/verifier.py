"""Verifies signatures and certificate chains, each once: whoever comes next with the same bytes gets the same answer.

    signatures    10,000 entries, 30 s    key = what was signed (it contains suite, signer, count and root), value = the signature
    chains         1,000 entries, 1 h     key = SHA-256 of the certificate, value = the certificate as it was read
    statements        16 entries, 1 h     the same; all sessions of five minutes name one

A hit needs the same signed bytes *and* the same signature: a root that was verified does not vouch for another signature over
it, which nobody could show to a third party.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

from bus.identity.envelopes.remembered import Remembered
from bus.protocol import cosign, signatures
from bus.protocol.merkle import Climb
from bus.protocol.suites import Suite
from bus.trust import certificates, testing_domain
from bus.trust import statement as statements
from bus.trust.certificates import Certificate, Profile, Root
from bus.trust.statement import Statement

SIGNATURES: Final = 10_000
SIGNATURE_MS: Final = 30_000
CHAINS: Final = 1_000
CHAIN_MS: Final = 3_600_000
CLIMBS: Final = 256
"""Signers of whom the last way up a tree is known; a full table starts anew."""
STATEMENTS: Final = 16
"""Each may have a mebibyte."""


class Verifier:
    """Of one host. `forget` whenever trust changes."""

    def __init__(self, root: Root, domain: str, *, ml_dsa_root: bytes | None = None, unsafe_for_tests: bool = False) -> None:
        """Raises VerificationError("untrusted") for the domain and the root key of tests, whose private half everybody has."""
        testing_domain.check(root, domain, for_tests=unsafe_for_tests)
        self.root, self.domain, self.ml_dsa_root = root, domain, ml_dsa_root
        self.signatures: Remembered[bytes, bytes] = Remembered(entries=SIGNATURES, lifetime_ms=SIGNATURE_MS)
        self.chains: Remembered[tuple[bytes, Profile], Certificate] = Remembered(entries=CHAINS, lifetime_ms=CHAIN_MS)
        self.statements: Remembered[bytes, Statement] = Remembered(entries=STATEMENTS, lifetime_ms=CHAIN_MS)
        self._climbs: dict[bytes, Climb] = {}
        self.verifications = 0
        """Public-key operations on signatures of others."""

    def forget(self) -> None:
        self.signatures.clear()
        self.chains.clear()
        self.statements.clear()

    def climb(self, signer: bytes) -> Climb:
        """The way up its last tree. It vouches for nothing: what it leads to is what the signature has to cover."""
        found = self._climbs.get(signer)
        if found is None:
            if len(self._climbs) >= CLIMBS:
                self._climbs.clear()
            found = self._climbs[signer] = Climb()
        return found

    def check_host(self, key: bytes, tbs: bytes, signature: bytes, *, now_ms: int) -> None:
        """Return if this host key signed these bytes. Raises VerificationError("bad_proof")."""
        known = self.signatures
        if not known.holds(tbs, signature, now_ms=now_ms):
            generation = known.generation
            self.verifications += 1
            signatures.verify_host(key, tbs, signature)
            known.put(tbs, signature, now_ms=now_ms, generation=generation)

    def check_identity(self, suite: Suite, key: PublicKeyTypes, tbs: bytes, signature: bytes, *, now_ms: int) -> None:
        """Return if this identity key signed these bytes under this suite. Raises VerificationError("bad_proof")."""
        known = self.signatures
        if not known.holds(tbs, signature, now_ms=now_ms):
            generation = known.generation
            self.verifications += 1
            signatures.verify(suite, key, tbs, signature)
            known.put(tbs, signature, now_ms=now_ms, generation=generation)

    def check_cosignature(self, public: bytes, tbs: bytes, cosignature: bytes, *, now_ms: int) -> None:
        """Return if this ML-DSA key signed these bytes too. Raises VerificationError("bad_proof")."""
        known, key = self.signatures, public + tbs
        if not known.holds(key, cosignature, now_ms=now_ms):
            generation = known.generation
            self.verifications += 1
            cosign.verify(public, tbs, cosignature)
            known.put(key, cosignature, now_ms=now_ms, generation=generation)

    def certificate(self, der: bytes, *, profile: Profile, now_ms: int) -> Certificate:
        """The certificate, read and its chain verified. Raises VerificationError("untrusted")."""
        key = (hashlib.sha256(der).digest(), profile)
        found = self.chains.get(key, now_ms=now_ms)
        if found is not None:
            return found
        generation = self.chains.generation
        self.verifications += 1
        found = certificates.read(der, root=self.root, domain=self.domain, profile=profile)
        if now_ms <= found.not_after_ms:
            self.chains.put(key, found, now_ms=now_ms, generation=generation)
        return found

    def statement(self, data: bytes, *, now_ms: int) -> Statement:
        """The trust statement, read and verified. Raises RemoteProtocolError("malformed"), VerificationError("untrusted")."""
        key = hashlib.sha256(data).digest()
        found = self.statements.get(key, now_ms=now_ms)
        if found is None:
            generation = self.statements.generation
            self.verifications += 1
            found = statements.read(data, root=self.root, domain=self.domain, ml_dsa_root=self.ml_dsa_root)
            self.statements.put(key, found, now_ms=now_ms, generation=generation)
        return found

    def statistics(self) -> Mapping[str, int]:
        return {
            "signature_hits": self.signatures.hits,
            "signature_misses": self.signatures.misses,
            "signature_entries": len(self.signatures),
            "chain_hits": self.chains.hits,
            "chain_misses": self.chains.misses,
            "chain_entries": len(self.chains),
            "verifications": self.verifications,
        }
