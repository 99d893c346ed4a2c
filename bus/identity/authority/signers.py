"""The authority's private keys in use. Each signs one kind of thing, whose context or form is made here and not by the caller."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from bus.identity.authority.keys import KeyFiles
from bus.protocol import contexts
from bus.protocol.signatures import CRYPTOGRAPHY_HASHES
from bus.protocol.suites import IDENTITY_SUITES, Suite
from bus.trust import root_signature
from bus.trust.root import KEY_BITS

TRUST_SUITE: Final[Suite] = IDENTITY_SUITES["ecc384/sha3-384"]

_ROOT: Final = "root"
_ML_DSA: Final = "ml-dsa"
_TRUST: Final = "trust-"


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


def generate_root_key() -> rsa.RSAPrivateKey:
    """It takes up to some seconds, so whoever knows that one will be needed may begin early."""
    return rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)


@dataclass(frozen=True, slots=True)
class RootKeys:
    """What is pinned: RSA-4096, and ML-DSA-65 beside it."""

    rsa: rsa.RSAPrivateKey = field(repr=False)
    ml_dsa: MLDSA65PrivateKey = field(repr=False)

    @classmethod
    def load(cls, files: KeyFiles) -> RootKeys | None:
        """None unless both are there."""
        private, seed = files.load(_ROOT), files.load(_ML_DSA)
        if private is None or seed is None:
            return None
        # Its encryption has just proved that these are the bytes that we wrote; testing primes again takes a quarter of a second.
        key = load_der_private_key(private, None, unsafe_skip_rsa_key_validation=True)
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("the root's key file holds another kind of key")  # it was decrypted, so we wrote it
        return cls(key, MLDSA65PrivateKey.from_seed_bytes(seed))

    @classmethod
    def make(cls, files: KeyFiles, *, prepared: RSAPrivateKey | None = None) -> RootKeys:
        """New ones, on disk when this returns."""
        made = cls(prepared or generate_root_key(), MLDSA65PrivateKey.generate())
        files.save(_ML_DSA, made.ml_dsa.private_bytes_raw())
        files.save(_ROOT, made.rsa.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        return made

    @property
    def spki(self) -> bytes:
        return self.rsa.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def ml_dsa_public(self) -> bytes:
        return self.ml_dsa.public_key().public_bytes_raw()

    def certify(self, builder: x509.CertificateBuilder) -> bytes:
        return builder.sign(self.rsa, root_signature.HASH, rsa_padding=root_signature.PSS).public_bytes(Encoding.DER)

    def list_revoked(self, builder: x509.CertificateRevocationListBuilder) -> bytes:
        return builder.sign(self.rsa, root_signature.HASH, rsa_padding=root_signature.PSS).public_bytes(Encoding.DER)

    def sign_policy(self, body: bytes) -> PolicySignature:
        tbs = contexts.POLICY + body
        return PolicySignature(self.rsa.sign(tbs, root_signature.PSS, root_signature.HASH), self.ml_dsa.sign(tbs))

    def cosign_statement(self, body: bytes) -> bytes:
        return self.ml_dsa.sign(contexts.TRUST + body)


@dataclass(frozen=True, slots=True)
class TrustKey:
    """The key of the trust signer: online, and replaced with its certificate."""

    private: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def load(cls, files: KeyFiles, spki: bytes) -> TrustKey | None:
        private = files.load(_trust_file(spki))
        if private is None:
            return None
        key = load_der_private_key(private, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the trust signer's key file holds another kind of key")
        return cls(key)

    @classmethod
    def make(cls, files: KeyFiles) -> TrustKey:
        made = cls(ec.generate_private_key(ec.SECP384R1()))
        files.save(_trust_file(made.spki), made.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        return made

    @property
    def spki(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    def sign_statement(self, body: bytes) -> bytes:
        signature = self.private.sign(contexts.TRUST + body, ec.ECDSA(CRYPTOGRAPHY_HASHES[TRUST_SUITE.hash]))
        half = TRUST_SUITE.signature_bytes // 2
        return b"".join(part.to_bytes(half, "big") for part in decode_dss_signature(signature))

    def keep_alone(self, files: KeyFiles) -> None:
        """Older ones, and one of which a killed process never told, are removed."""
        files.keep_only(_trust_file(self.spki), beginning=_TRUST)


def _trust_file(spki: bytes) -> str:
    return f"{_TRUST}{hashlib.sha256(spki).hexdigest()[:16]}"
