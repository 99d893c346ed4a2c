"""Credentials: opened by whom they are for, and by nobody else; the same bytes from the same randomness."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from made_chip import AK_ATTRIBUTES, MadeChip, Maker, name_of, public_area, rsa_key

from bus.protocol.tpm_structures import EncryptedSecret, IdObject
from bus.trust import credential
from bus.trust.tpm_keys import TpmKey

MAKER = Maker()
CHIPS = {
    "rsa2048": MadeChip(MAKER),
    "rsa3072, sha384, aes256": MadeChip(MAKER, rsa_key(0, 3072), ek_hash_name="sha384", ek_bits=256),
    "p256": MadeChip(MAKER, ec.derive_private_key(5, ec.SECP256R1())),
    "p384": MadeChip(MAKER, ec.derive_private_key(6, ec.SECP384R1()), ek_hash_name="sha384", ek_bits=256),
}


@pytest.mark.parametrize("chip", CHIPS.values(), ids=CHIPS)
@settings(max_examples=25)
@given(secret=st.binary(min_size=1, max_size=32), randomness=st.binary(min_size=96, max_size=96))
def test_the_chip_that_it_is_for_opens_it(chip, secret, randomness):
    name = name_of(chip.ak_public)
    made = credential.make(TpmKey.parse(chip.ek_public), name, secret, randomness=randomness)
    assert chip.activate(*made) == secret
    assert chip.activate(*made, name=name[:-1] + bytes([name[-1] ^ 1])) is None
    assert IdObject.parse(made.id_object).encode() == made.id_object
    assert EncryptedSecret.parse(made.encrypted_secret).encode() == made.encrypted_secret


def test_no_bit_of_its_integrity_or_identity_can_change():
    chip = CHIPS["rsa2048"]
    made = credential.make(TpmKey.parse(chip.ek_public), name_of(chip.ak_public), b"s" * 32, randomness=bytes(range(96)))
    for place in range(4, len(made.id_object)):
        changed = made.id_object[:place] + bytes([made.id_object[place] ^ 1]) + made.id_object[place + 1 :]
        assert chip.activate(changed, made.encrypted_secret) is None


def test_it_is_made_of_what_is_given_alone():
    """The same each time, and never again with other randomness; a vector, so that nobody changes it unseen."""
    key = TpmKey.parse(public_area(ec.derive_private_key(5, ec.SECP256R1()), 0x300F2, symmetric=128, policy=bytes(32)))
    name = b"\x00\x0b" + bytes(range(32))
    first = credential.make(key, name, b"secret", randomness=bytes(range(96)))
    assert first == credential.make(key, name, b"secret", randomness=bytes(range(96)))
    assert first != credential.make(key, name, b"secret", randomness=bytes(range(1, 97)))
    assert hashlib.sha256(first.id_object + first.encrypted_secret).hexdigest() == (
        "2ee309b8bf2c594e89b21eca2ad45d8ae95703c0b3a1f0c04d65ec30d8b50988"
    )


def test_what_no_credential_can_be_made_of_is_misuse():
    chip = CHIPS["rsa2048"]
    key, name = TpmKey.parse(chip.ek_public), name_of(chip.ak_public)
    for secret, randomness in ((b"", bytes(96)), (bytes(33), bytes(96)), (b"s", bytes(95))):
        with pytest.raises(ValueError, match="bytes"):
            credential.make(key, name, secret, randomness=randomness)
    signer = TpmKey.parse(public_area(ec.derive_private_key(9, ec.SECP256R1()), AK_ATTRIBUTES, scheme=(0x18, "sha256")))
    with pytest.raises(ValueError, match="wraps nothing"):
        credential.make(signer, name, b"s", randomness=bytes(96))
