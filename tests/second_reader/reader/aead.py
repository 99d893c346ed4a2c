"""Part 3: what is sealed with an epoch's content key."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt, crypto_aead_xchacha20poly1305_ietf_encrypt
from nacl.exceptions import CryptoError

from .digests import u64be
from .refusal import Refused, demand

GUARD_BYTES = {1: 4, 2: 16}


def opened(aead: int, key: bytes, seq: int, header: bytes, sealed: bytes) -> bytes:
    size = GUARD_BYTES[aead]
    demand(len(sealed) >= size + 16, "bad_seal", "too short")
    guard, ciphertext = sealed[:size], sealed[size:]
    try:
        if aead == 1:
            return AESGCM(key).decrypt(guard + u64be(seq), ciphertext, header)
        return crypto_aead_xchacha20poly1305_ietf_decrypt(ciphertext, header, guard + u64be(seq), key)
    except (InvalidTag, CryptoError) as error:
        raise Refused("bad_seal") from error


def sealed(aead: int, key: bytes, seq: int, header: bytes, *, guard: bytes, plaintext: bytes) -> bytes:
    nonce = guard + u64be(seq)
    if aead == 1:
        return guard + AESGCM(key).encrypt(nonce, plaintext, header)
    return guard + crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, header, nonce, key)
