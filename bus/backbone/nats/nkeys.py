"""NATS's own form of a user's key: an Ed25519 key pair, written so that a person sees what it is. Functions of values.

    public   base32(0xA0 | key(32) | crc16)                 begins with U; stands in the configuration of the servers
    seed     base32(0x92 0x80 | seed(32) | crc16)           begins with SU; the secret, in a file of the broker's alone

The checksum is CRC-16 of XMODEM, the lower byte first. Base32 is written without its padding.
"""

from __future__ import annotations

from base64 import b32decode, b32encode
from binascii import Error, crc_hqx
from typing import Final

from nacl.bindings import crypto_sign_seed_keypair

SEED_BYTES: Final = 32
_USER: Final = 20 << 3
_SEED: Final = 18 << 3
_SEED_OF_USER: Final = bytes([_SEED | _USER >> 5, (_USER & 31) << 3])
_CHECK_BYTES: Final = 2


def seed_text(seed: bytes) -> str:
    """Of 32 random bytes."""
    return _written(_SEED_OF_USER + seed)


def public_text(seed: bytes) -> str:
    """Of the key that belongs to this seed."""
    public, _ = crypto_sign_seed_keypair(seed)
    return _written(bytes([_USER]) + public)


def parse_seed(text: str) -> bytes:
    """Raises ValueError, which says nothing of what was there."""
    try:
        data = b32decode(text + "=" * (-len(text) % 8))
    except (Error, ValueError):
        data = b""
    body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
    if len(body) != len(_SEED_OF_USER) + SEED_BYTES or body[: len(_SEED_OF_USER)] != _SEED_OF_USER or check != _check(body):
        raise ValueError("this is no nkey seed of a user, which begins with SU")
    return body[len(_SEED_OF_USER) :]


def _written(body: bytes) -> str:
    return b32encode(body + _check(body)).decode().rstrip("=")


def _check(body: bytes) -> bytes:
    return crc_hqx(body, 0).to_bytes(2, "little")
