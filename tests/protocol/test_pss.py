"""The padding that a TPM cannot do with SHA-3, judged by a library that was not asked when it was written."""

from __future__ import annotations

import hashlib
import secrets

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from hypothesis import given
from hypothesis import strategies as st

from bus.protocol import pss
from bus.protocol.suites import HASHES

CRYPTOGRAPHY = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha3-256": hashes.SHA3_256(), "sha3-384": hashes.SHA3_384()}


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=3072)


def raw_rsa(key: rsa.RSAPrivateKey, block: bytes) -> bytes:
    """What the chip does with a padded block: the bare operation."""
    numbers = key.private_numbers()
    return pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n).to_bytes(384, "big")


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("salt_length", [0, 1, 32, 48])
def test_another_library_verifies_the_padding(key, hash_name, salt_length):
    digest, algorithm = HASHES[hash_name](b"signed").digest(), CRYPTOGRAPHY[hash_name]
    scheme = padding.PSS(padding.MGF1(algorithm), salt_length)
    for _ in range(5):
        block = pss.encode(digest, bits=3072, hash_name=hash_name, salt=secrets.token_bytes(salt_length))
        key.public_key().verify(raw_rsa(key, block), digest, scheme, Prehashed(algorithm))


@pytest.mark.parametrize("hash_name", HASHES)
def test_another_digest_or_salt_length_does_not_verify(key, hash_name):
    digest, algorithm = HASHES[hash_name](b"signed").digest(), CRYPTOGRAPHY[hash_name]
    signature = raw_rsa(key, pss.encode(digest, bits=3072, hash_name=hash_name, salt=bytes(len(digest))))
    other = HASHES[hash_name](b"other").digest()
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, other, padding.PSS(padding.MGF1(algorithm), len(digest)), Prehashed(algorithm))
    with pytest.raises(InvalidSignature):
        key.public_key().verify(signature, digest, padding.PSS(padding.MGF1(algorithm), len(digest) - 1), Prehashed(algorithm))


@given(st.sampled_from(sorted(HASHES)), st.binary(max_size=64), st.integers(1_100, 4_200))
def test_a_block_is_as_long_as_the_modulus_and_smaller(hash_name, salt, bits):
    block = pss.encode(HASHES[hash_name](b"").digest(), bits=bits, hash_name=hash_name, salt=salt)
    assert len(block) == -(-bits // 8)
    assert int.from_bytes(block, "big") < 1 << (bits - 1)
    assert block[-1] == 0xBC


@given(st.sampled_from(sorted(HASHES)), st.binary(max_size=64), st.integers(1_100, 4_200), st.binary(max_size=40))
def test_decoding_by_the_book_finds_the_salt(hash_name, salt, bits, message):
    """RFC 8017, 9.1.2, step by step."""
    digest = HASHES[hash_name](message).digest()
    block = pss.encode(digest, bits=bits, hash_name=hash_name, salt=salt)
    length = -(-(bits - 1) // 8)
    block = block[len(block) - length :]
    masked, h = block[: length - len(digest) - 1], block[length - len(digest) - 1 : -1]
    mask = b"".join(HASHES[hash_name](h + counter.to_bytes(4, "big")).digest() for counter in range(length))[: len(masked)]
    data = bytearray(a ^ b for a, b in zip(masked, mask, strict=True))
    data[0] &= 0xFF >> (8 * length - (bits - 1))
    assert bytes(data) == bytes(len(data) - len(salt) - 1) + b"\x01" + salt
    assert h == HASHES[hash_name](bytes(8) + digest + salt).digest()


def test_a_known_block():
    """Made once with SHA-256, an empty salt and a modulus just long enough: data is 0x01 alone, under the mask."""
    digest = hashlib.sha256(b"").digest()
    h = hashlib.sha256(bytes(8) + digest).digest()
    mask = hashlib.sha256(h + bytes(4)).digest()[:1]
    bits = 8 * (32 + 2) + 1
    assert pss.encode(digest, bits=bits, hash_name="sha256", salt=b"") == b"\x00" + bytes([mask[0] ^ 1]) + h + b"\xbc"


@pytest.mark.parametrize(("bits", "salt"), [(8 * 97, 48), (512, 48), (8, 0)])
def test_a_modulus_that_is_too_short_is_misuse(bits, salt):
    with pytest.raises(ValueError, match="too short"):
        pss.encode(bytes(48), bits=bits, hash_name="sha384", salt=bytes(salt))
