"""An authority of a few lines, which signs whatever a test wants signed; a real one would refuse to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA3_384
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

# Our neighbour: pytest's importlib mode has no packages of tests.
from ready_rsa import rsa_key

from bus.identity import ml_dsa
from bus.protocol.suites import IDENTITY_SUITES
from bus.trust import bundle as bundles
from bus.trust import certificates, revocations, root
from bus.trust import statement as statements
from bus.trust.certificates import Pinned, Profile
from bus.trust.revocations import Revocation, RevocationList
from bus.trust.root_signature import HASH, PSS
from bus.trust.statement import Statement

DOMAIN = "tpmbus.test"
_root_keys = count(1)
"""Each authority has another one; the key of number 0 is nobody's here."""
NOW = 1_800_000_000_000
DAY = 86_400_000
HOUR = 3_600_000
SUITE = IDENTITY_SUITES["ecc384/sha3-384"]
POLICY_DIGEST = bytes(range(32))


def spki(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


@dataclass(eq=False)
class SmallAuthority:
    domain: str = DOMAIN
    root_key: rsa.RSAPrivateKey = field(default_factory=lambda: rsa_key(4096, next(_root_keys)))
    trust_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP384R1()))
    ml_dsa: Any = field(default_factory=ml_dsa.generate)
    signed: dict[tuple[Any, ...], bytes] = field(default_factory=dict, init=False, repr=False)
    """Certificates, by their facts: thousands of tests have the same agents, and the root's signature takes five milliseconds."""

    def __post_init__(self) -> None:
        made = root.builder(
            domain=self.domain, spki=spki(self.root_key), serial=1, not_before_ms=NOW - DAY, not_after_ms=NOW + 3000 * DAY
        )
        self.root = root.Root.of(made.sign(self.root_key, HASH, rsa_padding=PSS).public_bytes(Encoding.DER))
        self.signer = self.certificate()
        self.crl = self.revocations()

    def certificate(self, profile: Profile = Profile.TRUST, *, serial: int = 7, days: int = 365, **changes: Any) -> bytes:
        """Of the trust signer, unless told otherwise."""
        facts = {
            "root": self.root,
            "domain": self.domain,
            "name": "SIGNER",
            "spki": spki(self.trust_key),
            "pinned": Pinned(SUITE, "software", 0),
            "serial": serial,
            "not_before_ms": NOW - HOUR,
            "not_after_ms": NOW - HOUR + days * DAY,
        }
        facts |= changes
        asked = (profile, *sorted(facts.items()))
        try:
            found = self.signed.get(asked)
        except TypeError:  # facts of another kind than they should be, on purpose
            asked, found = (), None
        if found is None:
            made = certificates.builder(profile, **facts)
            found = bytes(made.sign(self.root_key, HASH, rsa_padding=PSS).public_bytes(Encoding.DER))
            if asked:
                self.signed[asked] = found
        return found

    def revocations(self, number: int = 3, revoked: Mapping[int, Revocation] | None = None) -> RevocationList:
        made = revocations.builder(
            root=self.root, number=number, this_update_ms=NOW, next_update_ms=NOW + 7 * DAY, revoked=revoked or {}
        )
        der = made.sign(self.root_key, HASH, rsa_padding=PSS).public_bytes(Encoding.DER)
        return revocations.read(der, root=self.root)

    # ---- statements --------------------------------------------------------------------------------------------------------

    def body(self, **changes: Any) -> bytes:
        facts = {
            "domain": self.domain,
            "number": 5,
            "issued_ms": NOW,
            "next_update_ms": NOW + HOUR,
            "policy": (2, POLICY_DIGEST),
            "crl": (self.crl.number, self.crl.digest),
            "agents": {"DIRECTOR": (1, NOW - 5)},
            "ml_dsa": {"DIRECTOR": bytes(32)},
        }
        return statements.body_bytes(**(facts | changes))

    def sign_trust(self, tbs: bytes) -> bytes:
        r, s = decode_dss_signature(self.trust_key.sign(SUITE.digest(tbs), ec.ECDSA(Prehashed(SHA3_384()))))
        return r.to_bytes(48, "big") + s.to_bytes(48, "big")

    def sealed_statement(self, body: bytes, **changes: bytes) -> bytes:
        """The body, signed; signer, signature and cosignature may be others than they should."""
        tbs = statements.tbs(body)
        parts = {"signer": self.signer, "signature": self.sign_trust(tbs), "cosignature": self.ml_dsa.sign(tbs)}
        return statements.encode(body, **(parts | changes))

    def statement_bytes(self, **changes: Any) -> bytes:
        return self.sealed_statement(self.body(**changes))

    def statement(self, **changes: Any) -> Statement:
        return self.read(self.statement_bytes(**changes))

    def read(self, data: bytes, **changes: Any) -> Statement:
        return statements.read(data, **({"root": self.root, "domain": self.domain, "ml_dsa_root": self.ml_dsa.public} | changes))

    # ---- bundles -----------------------------------------------------------------------------------------------------------

    def sign_root(self, tbs: bytes) -> bytes:
        return self.root_key.sign(tbs, PSS, HASH)

    def sealed_bundle(self, body: bytes, **changes: bytes) -> bytes:
        tbs = bundles.tbs(body)
        return bundles.encode(body, **({"signature": self.sign_root(tbs), "cosignature": self.ml_dsa.sign(tbs)} | changes))

    def bundle(self, *, version: int = 2, made_ms: int = NOW, files: Mapping[str, bytes] | None = None) -> bundles.Bundle:
        files = files or {"policy.yaml": f"version: 1\ndomain: {self.domain}\n".encode()}
        body = bundles.body_bytes(domain=self.domain, version=version, made_ms=made_ms, files=files)
        return self.read_bundle(self.sealed_bundle(body))

    def read_bundle(self, data: bytes, **changes: Any) -> bundles.Bundle:
        return bundles.read(data, **({"root": self.root, "domain": self.domain, "ml_dsa_root": self.ml_dsa.public} | changes))
