"""HPKE in base mode (RFC 9180), written from the RFC and from the drafts of the hybrid KEM; nothing is taken from `bus`.

    0x0020  DHKEM(X25519, HKDF-SHA256)
    0x647a  MLKEM768-X25519: key = ek | pkX, enc = ctM | ctX, secret = SHA3-256(ssM | ssX | ctX | pkX | label)

KDF 0x0001 alone; AEAD 0x0002 AES-256-GCM, and the two others of the RFC because most published vectors are for those. What is
random is an argument, so that published vectors can be made again.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from itertools import count

import ml_kem
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base

X25519, HYBRID = 0x0020, 0x647A
AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305 = 1, 2, 3
LABEL = rb"\.//^" + b"\\"
SIZES = {X25519: (32, 32), HYBRID: (ml_kem.C_BYTES + 32, ml_kem.EK_BYTES + 32)}
"""Of enc and of a public key."""

_AEADS = {AES_128_GCM: (AESGCM, 16), AES_256_GCM: (AESGCM, 32), CHACHA20_POLY1305: (ChaCha20Poly1305, 32)}


def extract(salt: bytes, ikm: bytes) -> bytes:
    return hmac.digest(salt or bytes(32), ikm, "sha256")


def expand(prk: bytes, info: bytes, length: int) -> bytes:
    out, block = b"", b""
    for number in count(1):
        if len(out) >= length:
            break
        block = hmac.digest(prk, block + info + bytes([number]), "sha256")
        out += block
    return out[:length]


def labeled_extract(suite: bytes, salt: bytes, label: bytes, ikm: bytes) -> bytes:
    return extract(salt, b"HPKE-v1" + suite + label + ikm)


def labeled_expand(suite: bytes, prk: bytes, label: bytes, info: bytes, length: int) -> bytes:
    return expand(prk, length.to_bytes(2, "big") + b"HPKE-v1" + suite + label + info, length)


def dh(secret: bytes, public: bytes) -> bytes:
    """Raises RuntimeError for zero, as libsodium does."""
    return crypto_scalarmult(secret, public)


# ---- KEM -------------------------------------------------------------------------------------------------------------------------


def derive_private(kem: int, ikm: bytes) -> bytes:
    """DeriveKeyPair: an X25519 key, or the 32-byte seed of the hybrid."""
    if kem == HYBRID:
        if len(ikm) == 32:
            return ikm
        raise ValueError("the seed of the hybrid has 32 bytes")
    suite = b"KEM" + kem.to_bytes(2, "big")
    return labeled_expand(suite, labeled_extract(suite, b"", b"dkp_prk", ikm), b"sk", b"", 32)


def expanded(seed: bytes) -> bytes:
    """What the seed of a hybrid key stands for: the seed of ML-KEM (64), then the X25519 key."""
    return hashlib.shake_256(seed).digest(96)


def public_of(kem: int, private: bytes) -> bytes:
    """`private` is an X25519 key, or 96 bytes as `expanded` gives them."""
    if kem == X25519:
        return crypto_scalarmult_base(private)
    return ml_kem.key_pair(private[:64])[0] + crypto_scalarmult_base(private[64:])


def dhkem_secret(shared: bytes, enc: bytes, public: bytes) -> bytes:
    """ExtractAndExpand of the RFC."""
    suite = b"KEM" + X25519.to_bytes(2, "big")
    return labeled_expand(suite, labeled_extract(suite, b"", b"eae_prk", shared), b"shared_secret", enc + public, 32)


def hybrid_secret(ml_kem_shared: bytes, x25519_shared: bytes, enc: bytes, public: bytes) -> bytes:
    return hashlib.sha3_256(ml_kem_shared + x25519_shared + enc[-32:] + public[-32:] + LABEL).digest()


def encapsulate(kem: int, public: bytes, randomness: bytes) -> tuple[bytes, bytes]:
    """(secret, enc). Randomness: the ephemeral X25519 key; for the hybrid m (32) before it."""
    ephemeral = randomness[-32:]
    enc = crypto_scalarmult_base(ephemeral)
    shared = dh(ephemeral, public[-32:])
    if kem == X25519:
        return dhkem_secret(shared, enc, public), enc
    quantum, ciphertext = ml_kem.encapsulate(public[:-32], randomness[:32])
    enc = ciphertext + enc
    return hybrid_secret(quantum, shared, enc, public), enc


def decapsulate(kem: int, private: bytes, enc: bytes) -> bytes:
    public = public_of(kem, private)
    shared = dh(private[-32:], enc[-32:])
    if kem == X25519:
        return dhkem_secret(shared, enc, public)
    _, dk = ml_kem.key_pair(private[:64])
    return hybrid_secret(ml_kem.decapsulate(dk, enc[:-32]), shared, enc, public)


# ---- the schedule, and one message ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Schedule:
    """KeySchedule of mode 0."""

    key: bytes
    base_nonce: bytes
    aead: int

    @classmethod
    def of(cls, kem: int, secret: bytes, info: bytes, *, aead: int = AES_256_GCM) -> Schedule:
        suite = b"HPKE" + b"".join(number.to_bytes(2, "big") for number in (kem, 1, aead))
        context = b"\x00" + labeled_extract(suite, b"", b"psk_id_hash", b"") + labeled_extract(suite, b"", b"info_hash", info)
        root = labeled_extract(suite, secret, b"secret", b"")
        return cls(
            labeled_expand(suite, root, b"key", context, _AEADS[aead][1]),
            labeled_expand(suite, root, b"base_nonce", context, 12),
            aead,
        )

    def nonce(self, number: int = 0) -> bytes:
        return (int.from_bytes(self.base_nonce, "big") ^ number).to_bytes(12, "big")

    def encrypt(self, plaintext: bytes, aad: bytes = b"", number: int = 0) -> bytes:
        return _AEADS[self.aead][0](self.key).encrypt(self.nonce(number), plaintext, aad)

    def decrypt(self, ciphertext: bytes, aad: bytes = b"", number: int = 0) -> bytes:
        return _AEADS[self.aead][0](self.key).decrypt(self.nonce(number), ciphertext, aad)


def seal(kem: int, public: bytes, plaintext: bytes, info: bytes, randomness: bytes) -> bytes:
    secret, enc = encapsulate(kem, public, randomness)
    return enc + Schedule.of(kem, secret, info).encrypt(plaintext)


def open_sealed(kem: int, private: bytes, sealed: bytes, info: bytes) -> bytes:
    enc, ciphertext = sealed[: SIZES[kem][0]], sealed[SIZES[kem][0] :]
    return Schedule.of(kem, decapsulate(kem, private, enc), info).decrypt(ciphertext)
