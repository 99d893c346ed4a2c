"""The key in a public area: the one it is, with the Name that a TPM gives it; and nothing that is not quite one."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st
from made_chip import AK_ATTRIBUTES, EK_ATTRIBUTES, IDENTITY_ATTRIBUTES, name_of, public_area, rsa_key, spki_of, tpm2b

from bus.errors import RemoteProtocolError
from bus.trust.tpm_keys import IN_THIS_CHIP, Attributes, TpmKey

P256, P384 = ec.derive_private_key(7, ec.SECP256R1()), ec.derive_private_key(7, ec.SECP384R1())
EK = public_area(rsa_key(0), EK_ATTRIBUTES, symmetric=128, policy=bytes(32))
AK = public_area(P256, AK_ATTRIBUTES, scheme=(0x18, "sha256"))


def edited(public: bytes, at: int, new: bytes) -> bytes:
    return public[:at] + new + public[at + len(new) :]


@pytest.mark.parametrize(
    ("key", "options"),
    [
        (rsa_key(0), {"symmetric": 128, "policy": bytes(32)}),
        (rsa_key(0), {"scheme": (0x16, "sha384")}),
        (P256, {"scheme": (0x18, "sha256")}),
        (P384, {"symmetric": 256, "name_hash": "sha384", "policy": bytes(48)}),
        (P384, {}),
    ],
)
def test_it_is_the_key_that_was_marshalled(key, options):
    public = public_area(key, EK_ATTRIBUTES, **options)
    read = TpmKey.parse(public)
    assert read.spki == spki_of(key)
    assert read.name == name_of(public, options.get("name_hash", "sha256"))
    assert (read.symmetric_bits, read.name_hash) == (options.get("symmetric", 0), options.get("name_hash", "sha256"))
    assert (read.scheme, read.scheme_hash) == options.get("scheme", (0x10, ""))
    assert read.has(IN_THIS_CHIP | Attributes.DECRYPT | Attributes.RESTRICTED)
    assert not read.has(IN_THIS_CHIP | Attributes.SIGN)


def test_coordinates_that_begin_with_zeros_are_those_of_the_same_key():
    key = next(
        key
        for number in range(2, 2000)
        if (key := ec.derive_private_key(number, ec.SECP256R1())).public_key().public_numbers().x < 1 << 248
    )
    point = key.public_key().public_numbers()
    whole = public_area(key, IDENTITY_ATTRIBUTES)
    short = tpm2b(whole[2:-68] + tpm2b(point.x.to_bytes(31, "big")) + tpm2b(point.y.to_bytes(32, "big")))
    assert TpmKey.parse(whole).spki == TpmKey.parse(short).spki == spki_of(key)
    assert TpmKey.parse(whole).name != TpmKey.parse(short).name


MODULUS = rsa_key(0).public_key().public_numbers().n.to_bytes(256, "big")
RSA_START = 2 + 8 + 34 + 6 + 2
BAD = {
    "nothing": b"",
    "a tail": EK + b"x",
    "a key for HMACs": edited(EK, 2, struct.pack(">H", 8)),
    "Names of SHA-1": edited(EK, 4, struct.pack(">H", 4)),
    "a policy of another hash": tpm2b(EK[2:10] + tpm2b(bytes(20)) + EK[44:]),
    "another cipher": edited(EK, 44, struct.pack(">H", 0x25)),
    "another mode": edited(EK, 48, struct.pack(">H", 0x44)),
    "a key of 192 bits": edited(EK, 46, struct.pack(">H", 192)),
    "RSA in the words of ECDSA": tpm2b(EK[2:50] + struct.pack(">HH", 0x18, 0x0B) + EK[52:]),
    "a scheme with SHA-1": public_area(P256, AK_ATTRIBUTES, scheme=(0x18, "sha256")).replace(b"\0\x18\0\x0b", b"\0\x18\0\x04"),
    "RSA of 1,024 bits": tpm2b(EK[2:RSA_START] + struct.pack(">HI", 1024, 0) + tpm2b(MODULUS[:128])),
    "a modulus shorter than it says": tpm2b(EK[2:RSA_START] + struct.pack(">HI", 2048, 0) + tpm2b(MODULUS[:255])),
    "a modulus that begins with zeros": tpm2b(EK[2:RSA_START] + struct.pack(">HI", 2048, 0) + tpm2b(bytes(8) + MODULUS[8:])),
    "an even modulus": tpm2b(EK[2:RSA_START] + struct.pack(">HI", 2048, 0) + tpm2b(MODULUS[:-1] + b"\0")),
    "the exponent three": tpm2b(EK[2:RSA_START] + struct.pack(">HI", 2048, 3) + tpm2b(MODULUS)),
    "an unknown curve": AK.replace(struct.pack(">HH", 3, 0x10), struct.pack(">HH", 5, 0x10)),
    "a key derivation": AK.replace(struct.pack(">HH", 3, 0x10), struct.pack(">HH", 3, 0x20)),
    "a point beside its curve": AK[:-1] + bytes([AK[-1] ^ 1]),
    "an empty coordinate": tpm2b(AK[2:-68] + tpm2b(b"") + AK[-34:]),
    "a coordinate that is too long": tpm2b(AK[2:-68] + tpm2b(b"\0" + AK[-66:-34]) + AK[-34:]),
    "an empty second coordinate": tpm2b(AK[2:-34] + tpm2b(b"")),
}


@pytest.mark.parametrize("public", BAD.values(), ids=BAD)
def test_what_is_not_quite_a_key_is_none(public):
    with pytest.raises(RemoteProtocolError) as caught:
        TpmKey.parse(public)
    assert caught.value.reason == "malformed"


@pytest.mark.parametrize("public", [EK, AK])
def test_every_shorter_one_is_malformed(public):
    for length in range(len(public)):
        with pytest.raises(RemoteProtocolError):
            TpmKey.parse(public[:length])


@given(st.binary(max_size=500) | st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=4)).map(lambda c: edited(EK, *c)))
@example(EK)
def test_any_bytes_are_a_key_or_malformed(data):
    with suppress(RemoteProtocolError):
        assert TpmKey.parse(data).spki
