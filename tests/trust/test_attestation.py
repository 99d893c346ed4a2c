"""What an attestation key says is believed for what it proves, and for nothing that only looks like it."""

from __future__ import annotations

import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from made_chip import (
    AK_ATTRIBUTES,
    DECRYPT,
    EK_ATTRIBUTES,
    IDENTITY_ATTRIBUTES,
    RESTRICTED,
    SIGN,
    MadeChip,
    Maker,
    public_area,
    rsa_key,
    spki_of,
)

from bus.errors import AttestationError, RemoteProtocolError
from bus.protocol.suites import IDENTITY_SUITES
from bus.trust import attestation
from bus.trust.tpm_keys import TpmKey

CHIP = MadeChip(Maker())
SUITE = IDENTITY_SUITES["ecc256/sha256"]
KEY = ec.derive_private_key(11, ec.SECP256R1())
PUBLIC = public_area(KEY, IDENTITY_ATTRIBUTES)
AK = attestation.attestation_key(CHIP.ak_public)
SUBJECT = attestation.identity_key(PUBLIC, spki=spki_of(KEY), suite=SUITE)
NONCE = bytes(range(32))
REGISTERS = {0: bytes(32), 7: b"\x07" * 32, 16: b"\x16" * 32}


def reason(call, *arguments, **options) -> str:
    with pytest.raises(AttestationError) as caught:
        call(*arguments, **options)
    return caught.value.reason


def certify(attest, signature, *, attester=AK, subject=SUBJECT, qualifying=NONCE):
    attestation.check_certify(attester, attest, signature, subject=subject, qualifying=qualifying)


def quoted(attest, signature, *, registers=REGISTERS, qualifying=NONCE):
    attestation.check_quote(AK, attest, signature, registers=registers, qualifying=qualifying)


# ---- keys ----------------------------------------------------------------------------------------------------------------------

BAD_ATTESTERS = {
    "not restricted": public_area(CHIP.ak, AK_ATTRIBUTES & ~RESTRICTED, scheme=(0x18, "sha256")),
    "may leave its chip": public_area(CHIP.ak, AK_ATTRIBUTES & ~0x02, scheme=(0x18, "sha256")),
    "was not made there": public_area(CHIP.ak, AK_ATTRIBUTES & ~0x20, scheme=(0x18, "sha256")),
    "may move to another parent": public_area(CHIP.ak, AK_ATTRIBUTES & ~0x10, scheme=(0x18, "sha256")),
    "does not sign": public_area(CHIP.ak, AK_ATTRIBUTES & ~SIGN, scheme=(0x18, "sha256")),
    "decrypts too": public_area(CHIP.ak, AK_ATTRIBUTES | DECRYPT, scheme=(0x18, "sha256")),
    "names no scheme": public_area(CHIP.ak, AK_ATTRIBUTES),
    "is RSA": public_area(rsa_key(0), AK_ATTRIBUTES, scheme=(0x16, "sha256")),
}


@pytest.mark.parametrize("public", BAD_ATTESTERS.values(), ids=BAD_ATTESTERS)
def test_an_attestation_key_is_refused_that(public):
    assert reason(attestation.attestation_key, public) == "ak_unrestricted"


BAD_IDENTITIES = {
    "another key": (PUBLIC, spki_of(ec.derive_private_key(12, ec.SECP256R1())), "ecc256/sha256"),
    "another kind": (PUBLIC, spki_of(KEY), "ecc384/sha384"),
    "may leave": (public_area(KEY, IDENTITY_ATTRIBUTES & ~0x02), spki_of(KEY), "ecc256/sha256"),
    "was brought there": (public_area(KEY, IDENTITY_ATTRIBUTES & ~0x20), spki_of(KEY), "ecc256/sha256"),
    "may move": (public_area(KEY, IDENTITY_ATTRIBUTES & ~0x10), spki_of(KEY), "ecc256/sha256"),
    "does not sign": (public_area(KEY, IDENTITY_ATTRIBUTES & ~SIGN), spki_of(KEY), "ecc256/sha256"),
    "restricted": (public_area(KEY, IDENTITY_ATTRIBUTES | RESTRICTED, scheme=(0x18, "sha256")), spki_of(KEY), "ecc256/sha256"),
    "decrypts": (public_area(KEY, IDENTITY_ATTRIBUTES | DECRYPT), spki_of(KEY), "ecc256/sha256"),
    "RSA that is too short": (public_area(rsa_key(0), IDENTITY_ATTRIBUTES), spki_of(rsa_key(0)), "rsa3072/sha256"),
    "an endorsement key": (CHIP.ek_public, spki_of(CHIP.ek), "rsa3072/sha256"),
}


@pytest.mark.parametrize(("public", "spki", "suite"), BAD_IDENTITIES.values(), ids=BAD_IDENTITIES)
def test_an_identity_key_is_refused_that_is(public, spki, suite):
    assert reason(attestation.identity_key, public, spki=spki, suite=IDENTITY_SUITES[suite]) == "wrong_identity_key"


def test_bare_rsa_may_decrypt_because_a_chip_without_the_hash_signs_that_way():
    key = rsa_key(0, 3072)
    public = public_area(key, IDENTITY_ATTRIBUTES | DECRYPT)
    assert attestation.identity_key(public, spki=spki_of(key), suite=IDENTITY_SUITES["rsa3072/sha3-384"]).name[:2] == b"\0\x0b"


# ---- certify -------------------------------------------------------------------------------------------------------------------


def test_a_certified_key_is_believed_and_none_other():
    said = CHIP.certify(PUBLIC, NONCE)
    certify(*said)
    assert reason(certify, *said, qualifying=NONCE[:-1] + b"x") == "wrong_qualifying"
    assert reason(certify, *said, qualifying=NONCE[:-1]) == "wrong_qualifying"
    assert reason(certify, *said, subject=AK) == "wrong_identity_key"
    assert reason(certify, *CHIP.certify(CHIP.ak_public, NONCE)) == "wrong_identity_key"


def test_another_chips_word_is_nothing():
    assert reason(certify, *MadeChip(Maker()).certify(PUBLIC, NONCE)) == "not_certified"


def test_an_attestation_of_another_kind_is_none():
    assert reason(certify, *CHIP.quote(REGISTERS, NONCE)) == "not_certified"
    creation = CHIP.certify(PUBLIC, NONCE, kind=0x801A)  # a creation has a Name and a digest: here the Name twice
    with pytest.raises((AttestationError, RemoteProtocolError)):
        certify(*creation)


def test_a_key_that_signs_anything_cannot_pretend():
    """An unrestricted key may sign bytes that look like an attestation; a restricted one signs none that it did not make."""
    with pytest.raises(RemoteProtocolError):
        certify(*CHIP.certify(PUBLIC, NONCE, magic=0xFF544348))
    forged = MadeChip(Maker(), ak_attributes=AK_ATTRIBUTES & ~RESTRICTED)
    assert reason(attestation.attestation_key, forged.ak_public) == "ak_unrestricted"
    assert reason(certify, *forged.certify(PUBLIC, NONCE)) == "not_certified"


def test_the_scheme_is_the_keys_and_not_the_signatures():
    attest, signature = CHIP.certify(PUBLIC, NONCE)
    for label in (0x04, 0x0C, 0x0D):
        assert reason(certify, attest, signature[:2] + struct.pack(">H", label) + signature[4:]) == "not_certified"
    rsa_signature = struct.pack(">HHH", 0x14, 0x0B, 256) + bytes(256)
    assert reason(certify, attest, rsa_signature) == "not_certified"
    with pytest.raises(RemoteProtocolError):
        certify(attest, signature, attester=TpmKey.parse(CHIP.ek_public))
    with pytest.raises(RemoteProtocolError):
        certify(attest, signature, attester=SUBJECT)


def test_no_byte_can_change_and_none_be_added():
    attest, signature = CHIP.certify(PUBLIC, NONCE)
    for place in range(len(attest)):
        changed = attest[:place] + bytes([attest[place] ^ 1]) + attest[place + 1 :]
        with pytest.raises((AttestationError, RemoteProtocolError)):
            certify(changed, signature)
    for place in range(len(signature)):
        changed = signature[:place] + bytes([signature[place] ^ 1]) + signature[place + 1 :]
        with pytest.raises((AttestationError, RemoteProtocolError)):
            certify(attest, changed)
    for data in (attest + b"x", attest[:-1], b"", bytes(2000)):
        with pytest.raises(RemoteProtocolError):
            certify(data, signature)
    for data in (signature + b"x", signature[:-1], b""):
        with pytest.raises(RemoteProtocolError):
            certify(attest, data)


@given(st.binary(max_size=300), st.binary(max_size=200))
def test_any_bytes_are_refused_as_malformed_or_not_certified(attest, signature):
    with pytest.raises((AttestationError, RemoteProtocolError)) as caught:
        certify(attest, signature)
    assert caught.value.reason in ("malformed", "not_certified")


# ---- quote ---------------------------------------------------------------------------------------------------------------------


def test_a_quote_is_of_exactly_these_registers_with_these_values():
    said = CHIP.quote(REGISTERS, NONCE)
    quoted(*said)
    assert reason(quoted, *said, registers=REGISTERS | {7: bytes(32)}) == "wrong_registers"
    assert reason(quoted, *said, registers={0: bytes(32)}) == "wrong_registers"
    assert reason(quoted, *said, registers=REGISTERS | {8: bytes(32)}) == "wrong_registers"
    assert reason(quoted, *said, qualifying=b"another") == "wrong_qualifying"
    assert reason(quoted, *CHIP.quote(REGISTERS, NONCE, bank=0x0C)) == "wrong_registers"
    assert reason(quoted, *CHIP.certify(PUBLIC, NONCE)) == "not_quoted"
    assert reason(quoted, *MadeChip(Maker()).quote(REGISTERS, NONCE)) == "not_quoted"


def test_an_attestation_key_need_not_decrypt_anything_to_be_told_from_others():
    assert reason(attestation.attestation_key, public_area(KEY, EK_ATTRIBUTES, symmetric=128)) == "ak_unrestricted"
