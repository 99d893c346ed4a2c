"""What a reader's key opens and nobody else: HPKE (RFC 9180) in base mode, for grants.

    sealed = enc ‖ ciphertext        KEM 0x0020 or 0x647a, KDF 0x0001 (HKDF-SHA256), AEAD 0x0002 (AES-256-GCM), aad empty
    key id = SHA-256("tpmbus/1 kem key" ‖ u8(kem) ‖ key)[:16]

Base mode says nothing about who sealed; the proof inside the plaintext does. `info` binds what is sealed to its header, so a
sealed grant cannot be moved under another one.

A key has one encoding, so it has one id: an X25519 key is a number below 2^255 - 19, and the coefficients of an ML-KEM key are
below q. A key of small order is refused at once: whatever is sealed to it, everybody could open.

The library draws the randomness of a seal itself. That is the one thing in this room that gives another answer each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hpke
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from bus.errors import VerificationError
from bus.protocol import codec, contexts

X25519: Final = 1
HYBRID: Final = 2
"""MLKEM768-X25519: what is sealed stays secret while either half holds. A larger number is a stronger KEM."""

BY_WORD: Final[Mapping[str, int]] = {"x25519": X25519, "hybrid": HYBRID}
"""The words of policy."""

KEY_BYTES: Final[Mapping[int, int]] = {X25519: 32, HYBRID: 1_216}
ENC_BYTES: Final[Mapping[int, int]] = {X25519: 32, HYBRID: 1_120}
"""How long what a seal puts before its ciphertext is."""

PRIVATE_BYTES: Final[Mapping[int, int]] = {X25519: 32, HYBRID: 96}
"""Short enough for a TPM, which seals at most 128 bytes. Hybrid: the seed of ML-KEM (d ‖ z), then the X25519 key."""

TAG_BYTES: Final = 16
KEY_ID_BYTES: Final = 16

_ML_KEM_KEY_BYTES: Final = 1_184
_ML_KEM_SEED_BYTES: Final = 64
_P: Final = (1 << 255) - 19

_SMALL_ORDER: Final = frozenset(
    bytes.fromhex(u)
    for u in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
"""All u-coordinates below p with which X25519 gives zero, on the curve and on its twist."""

_SUITES: Final[Mapping[int, hpke.Suite]] = {
    kem: hpke.Suite(library, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
    for kem, library in ((X25519, hpke.KEM.X25519), (HYBRID, hpke.KEM.MLKEM768_X25519))
}


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A reader's key, checked and parsed once, so that it can be sealed to many times."""

    kem: int
    data: bytes
    id: bytes = field(init=False, compare=False)
    _parsed: Any = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Raises RemoteProtocolError("malformed") unless these bytes are a key of this KEM."""
        if self.kem not in KEY_BYTES:
            raise codec.malformed("there is no such KEM")
        codec.sized(self.data, KEY_BYTES[self.kem])
        object.__setattr__(self, "_parsed", _x25519(self.data) if self.kem == X25519 else _hybrid(self.data))
        object.__setattr__(self, "id", key_id(self.kem, self.data))

    def seal(self, plaintext: bytes, info: bytes) -> bytes:
        """enc ‖ ciphertext, which only the private key opens, and only with the same info."""
        return _SUITES[self.kem].encrypt(plaintext, self._parsed, info)


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class PrivateKey:
    """What opens. It shows nothing of itself, and is neither copied nor pickled."""

    kem: int
    public: bytes
    id: bytes
    _parsed: Any
    _raw: bytes

    @classmethod
    def from_bytes(cls, kem: int, data: bytes) -> PrivateKey:
        """From what `to_bytes` gave. Raises ValueError if it is none of that."""
        if len(data) != PRIVATE_BYTES[kem]:
            raise ValueError(f"a private key of this kind has {PRIVATE_BYTES[kem]} bytes, not {len(data)}")
        x25519 = X25519PrivateKey.from_private_bytes(data[-32:])
        public = x25519.public_key().public_bytes_raw()
        if kem == X25519:
            return cls(kem, public, key_id(kem, public), x25519, data)
        ml_kem = MLKEM768PrivateKey.from_seed_bytes(data[:_ML_KEM_SEED_BYTES])
        public = ml_kem.public_key().public_bytes_raw() + public
        return cls(kem, public, key_id(kem, public), hpke.MLKEM768X25519PrivateKey(ml_kem, x25519), data)

    def to_bytes(self) -> bytes:
        """The secret itself: to be sealed before it goes anywhere."""
        return self._raw

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """What was sealed to this key with this info. Raises VerificationError("bad_seal")."""
        try:
            return _SUITES[self.kem].decrypt(sealed, self._parsed, info)
        except (InvalidTag, ValueError) as error:
            raise VerificationError("bad_seal", detail="this was not sealed to this key for this purpose") from error

    def __repr__(self) -> str:
        return f"PrivateKey(kem={self.kem}, id={self.id.hex()})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a private key is not copied or pickled; seal what to_bytes() gives")


def key_id(kem: int, key: bytes) -> bytes:
    """What a grant calls the key that opens it."""
    return hashlib.sha256(contexts.KEM_KEY + bytes([kem]) + key).digest()[:KEY_ID_BYTES]


def check_key(kem: int, key: bytes) -> None:
    """Return if these bytes are a key that can be sealed to; else raise RemoteProtocolError("malformed")."""
    PublicKey(kem, key)


def seal(kem: int, key: bytes, plaintext: bytes, info: bytes) -> bytes:
    """enc ‖ ciphertext, for one seal to a key; who seals to it again keeps a `PublicKey`."""
    return PublicKey(kem, key).seal(plaintext, info)


def _x25519(data: bytes) -> X25519PublicKey:
    if int.from_bytes(data, "little") >= _P:
        raise codec.malformed("an X25519 key in another than its one encoding")
    if data in _SMALL_ORDER:
        raise codec.malformed("an X25519 key of small order")
    return X25519PublicKey.from_public_bytes(data)


def _hybrid(data: bytes) -> hpke.MLKEM768X25519PublicKey:
    try:
        ml_kem = MLKEM768PublicKey.from_public_bytes(data[:_ML_KEM_KEY_BYTES])
    except ValueError as error:
        raise codec.malformed("an ML-KEM key that is not in its one encoding") from error
    return hpke.MLKEM768X25519PublicKey(ml_kem, _x25519(data[_ML_KEM_KEY_BYTES:]))
