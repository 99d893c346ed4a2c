r"""TPM2_MakeCredential without a TPM (TPM 2.0 part 1, annexes B.10 and C.6, and section 24): a secret for one key of one chip.

    seed       random, to the endorsement key by OAEP with label "IDENTITY\0"; for an ECC one derived from a one-time point
    key        KDFa(seed, "STORAGE", Name)      encrypted identity = AES-CFB(key, u16 size | secret)
    integrity  KDFa(seed, "INTEGRITY")          HMAC over encrypted identity | Name

Only the chip with that endorsement key can open it, and it does so only if a key of that Name is loaded in it. All randomness is
an argument. OAEP is written out here because the library draws its own; raising a number to a public exponent keeps no secret
that anybody could time, since each seed is used once.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final, NamedTuple

from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from bus.protocol.pss import mgf1
from bus.protocol.tpm_structures import EncryptedSecret, IdObject
from bus.trust.tpm_keys import TpmKey

RANDOMNESS_BYTES: Final = 96
"""Two digests of SHA-384: the seed, and what OAEP wants; of an ECC key's scalar far more than its bits, so that it is even."""

_IDENTITY, _STORAGE, _INTEGRITY = b"IDENTITY\0", b"STORAGE\0", b"INTEGRITY\0"


class Credential(NamedTuple):
    """Both marshalled, as TPM2_ActivateCredential takes them."""

    id_object: bytes
    encrypted_secret: bytes


def make(endorsement: TpmKey, name: bytes, secret: bytes, *, randomness: bytes) -> Credential:
    """A credential that gives `secret` to the chip of this endorsement key if it holds the key of this Name."""
    hash_name = endorsement.name_hash
    size = hashlib.new(hash_name).digest_size
    if len(randomness) != RANDOMNESS_BYTES:
        raise ValueError(f"a credential takes {RANDOMNESS_BYTES} random bytes, not {len(randomness)}")
    if not 0 < len(secret) <= size:
        raise ValueError(f"the secret of a credential has 1 to {size} bytes, not {len(secret)}")
    if not endorsement.symmetric_bits:
        raise ValueError("this key wraps nothing, so no credential can be made for it")
    if isinstance(endorsement.key, rsa.RSAPublicKey):
        seed = randomness[:size]
        encrypted = _oaep(endorsement.key, seed, hash_name=hash_name, padding_seed=randomness[size : 2 * size])
    else:
        seed, encrypted = _one_time_point(endorsement.key, hash_name=hash_name, randomness=randomness)
    key = _kdfa(hash_name, seed, _STORAGE, name, bits=endorsement.symmetric_bits)
    encryptor = Cipher(AES(key), CFB(bytes(16))).encryptor()
    identity = encryptor.update(struct.pack(">H", len(secret)) + secret) + encryptor.finalize()
    integrity = hmac.digest(_kdfa(hash_name, seed, _INTEGRITY, b"", bits=size * 8), identity + name, hash_name)
    return Credential(IdObject(integrity, identity).encode(), EncryptedSecret(encrypted).encode())


def _oaep(key: rsa.RSAPublicKey, message: bytes, *, hash_name: str, padding_seed: bytes) -> bytes:
    """RSAES-OAEP of RFC 8017, section 7.1.1."""
    numbers, length = key.public_numbers(), key.key_size // 8
    label = hashlib.new(hash_name, _IDENTITY).digest()
    block = label + bytes(length - len(message) - 2 * len(label) - 2) + b"\x01" + message
    masked_block = _xor(block, mgf1(padding_seed, len(block), hash_name=hash_name))
    masked_seed = _xor(padding_seed, mgf1(masked_block, len(padding_seed), hash_name=hash_name))
    padded = int.from_bytes(masked_seed + masked_block, "big")
    return pow(padded, numbers.e, numbers.n).to_bytes(length, "big")


def _one_time_point(key: ec.EllipticCurvePublicKey, *, hash_name: str, randomness: bytes) -> tuple[bytes, bytes]:
    """The seed, and the point (TPMS_ECC_POINT) from which the chip derives it too."""
    size = key.key_size // 8
    private = ec.derive_private_key(int.from_bytes(randomness, "big") % (key.curve.group_order - 1) + 1, key.curve)
    point, theirs = private.public_key().public_numbers(), key.public_numbers()
    x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
    shared = private.exchange(ec.ECDH(), key)
    seed = _kdfe(hash_name, shared, _IDENTITY, x, theirs.x.to_bytes(size, "big"))
    sized = struct.Struct(f">H{size}s").pack
    return seed, sized(size, x) + sized(size, y)


def _kdfa(hash_name: str, key: bytes, label: bytes, context: bytes, *, bits: int) -> bytes:
    """SP 800-108 in counter mode with HMAC; never more than one block here, but written for any."""
    blocks = -(-bits // (8 * hashlib.new(hash_name).digest_size))
    end = label + context + struct.pack(">I", bits)
    return b"".join(hmac.digest(key, struct.pack(">I", i + 1) + end, hash_name) for i in range(blocks))[: bits // 8]


def _kdfe(hash_name: str, shared: bytes, label: bytes, one_time_x: bytes, static_x: bytes) -> bytes:
    """SP 800-56A's concatenation, one block: a seed is as long as the hash."""
    return hashlib.new(hash_name, struct.pack(">I", 1) + shared + label + one_time_x + static_x).digest()


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))
