"""Keys without a TPM, for machines that have none: the same verbs, and none of the protection.

Never chosen silently: policy must allow `software` for the role, and the keys' origin says what they are. A key file is a
standard ENCRYPTED PRIVATE KEY under the key's auth value. There is nobody to attest anything, and attestation says so.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final, NoReturn

from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from bus.errors import TpmRefusedError
from bus.protocol import contexts
from bus.protocol.signatures import CRYPTOGRAPHY_HASHES, kind_of
from bus.protocol.suites import HASHES, KINDS, Suite
from bus.tpm.interface import MAX_SEAL_BYTES, SOFTWARE, Attested, Endorsement, Facts, WrappedKey

_CURVES: Final = {"ecc256": ec.SECP256R1, "ecc384": ec.SECP384R1}
_CACHED_KEYS: Final = 1_000


class SoftwareTpm:
    """`secret` seals; it is the vault's, so whoever reads the vault reads everything. That is what software means."""

    def __init__(self, secret: bytes) -> None:
        self._sealing = AESGCM(HKDFExpand(hashes.SHA256(), 32, contexts.SOFTWARE_SEAL).derive(secret))
        self._open: OrderedDict[bytes, PrivateKeyTypes] = OrderedDict()
        self._hits = self._loads = 0

    def facts(self) -> Facts:
        return Facts(
            description="software keystore (no TPM)",
            origin=SOFTWARE,
            firmware="",
            kinds=frozenset(KINDS),
            hashes=frozenset(HASHES),
            transient_slots=_CACHED_KEYS,
            primary_handle=0,
            primary_name=b"",
        )

    def create(self, suite: Suite | None, *, auth: bytes) -> WrappedKey:
        if suite is None:
            _no_tpm("make an attestation key")
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
        if suite.kind == "rsa3072":
            key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
        else:
            key = ec.generate_private_key(_CURVES[suite.kind]())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(auth))
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return WrappedKey(pem, spki, spki, SOFTWARE)

    def sign(self, key: WrappedKey, suite: Suite, digest: bytes, *, auth: bytes) -> bytes:
        private = self._private(key, auth)
        if not isinstance(private, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) or kind_of(private.public_key()) != suite.kind:
            raise TpmRefusedError("refused", f"a {suite.kind} key was asked for, the file holds another kind")
        algorithm = CRYPTOGRAPHY_HASHES[suite.hash]
        if isinstance(private, rsa.RSAPrivateKey):
            return private.sign(digest, padding.PSS(padding.MGF1(algorithm), algorithm.digest_size), Prehashed(algorithm))
        half = suite.signature_bytes // 2
        r, s = decode_dss_signature(private.sign(digest, ec.ECDSA(Prehashed(algorithm))))
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")

    def seal(self, secret: bytes, *, pcrs: Sequence[int]) -> bytes:
        if pcrs:
            _no_tpm("bind a secret to platform registers")
        if not 0 < len(secret) <= MAX_SEAL_BYTES:
            raise ValueError(f"1 to {MAX_SEAL_BYTES} bytes are sealed, not {len(secret)}: seal a key and encrypt the rest under it")
        nonce = os.urandom(12)
        return nonce + self._sealing.encrypt(nonce, secret, contexts.SOFTWARE_SEAL)

    def unseal(self, blob: bytes) -> bytes:
        try:
            return self._sealing.decrypt(blob[:12], blob[12:], contexts.SOFTWARE_SEAL)
        except (InvalidTag, ValueError) as error:
            raise TpmRefusedError("malformed_blob", "this is nothing that was sealed with this vault's secret") from error

    def certify(self, key: WrappedKey, attester: WrappedKey, *, qualifying: bytes, auth: bytes, attester_auth: bytes) -> Attested:
        _no_tpm("certify a key")

    def quote(self, pcrs: Sequence[int], attester: WrappedKey, *, qualifying: bytes, attester_auth: bytes) -> Attested:
        _no_tpm("quote platform registers")

    def activate(self, attester: WrappedKey, *, credential: bytes, secret: bytes, attester_auth: bytes) -> bytes:
        _no_tpm("activate a credential")

    def endorsement(self) -> Endorsement:
        _no_tpm("show an endorsement key")

    def statistics(self) -> Mapping[str, int]:
        return {"places": _CACHED_KEYS, "loaded": len(self._open), "hits": self._hits, "loads": self._loads}

    def close(self) -> None:
        self._open.clear()

    def _private(self, key: WrappedKey, auth: bytes) -> PrivateKeyTypes:
        slot = key.public + auth
        private = self._open.get(slot)
        if private is not None:
            self._hits += 1
            self._open.move_to_end(slot)
            return private
        try:
            private = load_pem_private_key(key.pem, auth)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise TpmRefusedError("auth_fail", "the key file does not open with this vault's secret") from error
        self._loads += 1
        self._open[slot] = private
        if len(self._open) > _CACHED_KEYS:
            self._open.popitem(last=False)
        return private


def _no_tpm(what: str) -> NoReturn:
    raise TpmRefusedError("not_a_tpm", f"the software keystore cannot {what}: that takes a TPM")
