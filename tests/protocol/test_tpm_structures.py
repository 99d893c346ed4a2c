"""The TPM's structures: made by the TSS's own library where it is there, spelled out in bytes here, and fed broken in every way."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import RemoteProtocolError
from bus.protocol.tpm_structures import (
    Attest,
    CertifyInfo,
    ClockInfo,
    CreationInfo,
    EncryptedSecret,
    IdObject,
    PcrSelection,
    PublicArea,
    QuoteInfo,
    Signature,
    SignatureScheme,
    split_credential_file,
)


def b2(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


NAME = b"\x00\x0b" + b"N" * 32
HEAD = bytes.fromhex("ff544347")
CLOCK = struct.pack(">QIIB", 1_000, 3, 4, 1)
SEEN = ClockInfo(1_000, 3, 4, safe=True)
FIRMWARE = (0x2019_1023_0016_3636).to_bytes(8, "big")
MIDDLE = b2(NAME) + b2(b"nonce") + CLOCK + FIRMWARE

KINDS: dict[str, tuple[Any, bytes, Any]] = {
    "credential": (IdObject, b2(b2(b"H" * 32) + b"encrypted"), IdObject(b"H" * 32, b"encrypted")),
    "longest credential": (IdObject, b2(b2(b"H" * 64) + b"e" * 66), IdObject(b"H" * 64, b"e" * 66)),
    "secret for RSA": (EncryptedSecret, b2(b"s" * 256), EncryptedSecret(b"s" * 256)),
    "secret for ECC": (EncryptedSecret, b2(b2(b"x" * 32) + b2(b"y" * 32)), EncryptedSecret(b2(b"x" * 32) + b2(b"y" * 32))),
    "public area": (PublicArea, b2(bytes.fromhex("0023000b00060472") + b"rest"), PublicArea(0x23, 0x0B, 0x0006_0472, b"rest")),
    "public area of SHA-3": (PublicArea, b2(bytes.fromhex("0001002800000000")), PublicArea(1, 0x28, 0, b"")),
    "certification": (
        Attest,
        HEAD + bytes.fromhex("8017") + MIDDLE + b2(NAME) + b2(b"\x80\x00\x00\x00"),
        Attest(NAME, b"nonce", SEEN, 0x2019_1023_0016_3636, CertifyInfo(NAME, b"\x80\x00\x00\x00")),
    ),
    "creation": (
        Attest,
        HEAD + bytes.fromhex("801a") + MIDDLE + b2(b"") + b2(b"C" * 48),
        Attest(NAME, b"nonce", SEEN, 0x2019_1023_0016_3636, CreationInfo(b"", b"C" * 48)),
    ),
    "quote": (
        Attest,
        HEAD + bytes.fromhex("8018") + MIDDLE + bytes.fromhex("00000002 000b 03 030080 000c 03 800000") + b2(b"D" * 32),
        Attest(
            NAME,
            b"nonce",
            SEEN,
            0x2019_1023_0016_3636,
            QuoteInfo((PcrSelection(0x0B, b"\x03\x00\x80"), PcrSelection(0x0C, b"\x80\x00\x00")), b"D" * 32),
        ),
    ),
    "quote of nothing": (
        Attest,
        HEAD + bytes.fromhex("8018") + b2(b"") + b2(b"") + struct.pack(">QIIB", 0, 0, 0, 0) + bytes(8) + bytes(4) + b2(b""),
        Attest(b"", b"", ClockInfo(0, 0, 0, safe=False), 0, QuoteInfo((), b"")),
    ),
    "ECDSA": (
        Signature,
        bytes.fromhex("0018000c") + b2(b"r" * 48) + b2(b"s" * 47),
        Signature(SignatureScheme.ECDSA, 0x0C, (b"r" * 48, b"s" * 47)),
    ),
    "RSA-PSS": (Signature, bytes.fromhex("0016000b") + b2(b"R" * 384), Signature(SignatureScheme.RSAPSS, 0x0B, (b"R" * 384,))),
    "RSASSA": (Signature, bytes.fromhex("0014000b") + b2(b"R" * 256), Signature(SignatureScheme.RSASSA, 0x0B, (b"R" * 256,))),
}

every_kind = pytest.mark.parametrize("name", KINDS)


def refused(parse: Callable[[bytes], object], data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        parse(data)
    assert caught.value.reason == "malformed"


# ---- whole, cut short, with a tail -----------------------------------------------------------------------------------------------


@every_kind
def test_it_parses_and_encodes_to_the_same_bytes(name):
    kind, data, value = KINDS[name]
    assert kind.parse(data) == value
    assert value.encode() == data


@every_kind
def test_every_beginning_of_it_is_malformed(name):
    kind, data, _ = KINDS[name]
    for length in range(len(data)):
        refused(kind.parse, data[:length])


@every_kind
@pytest.mark.parametrize("tail", [b"\x00", b"\xff", b"a tail"])
def test_a_tail_is_malformed(name, tail):
    kind, data, _ = KINDS[name]
    refused(kind.parse, data + tail)


@every_kind
@given(data=st.data())
def test_damage_is_malformed_or_another_value_that_encodes_to_it(name, data):
    kind, good, value = KINDS[name]
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 3))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    law(kind, bytes(bad), value if bytes(bad) == good else None)


@pytest.mark.parametrize("kind", [IdObject, EncryptedSecret, PublicArea, Attest, Signature])
@given(data=st.binary(max_size=300))
def test_any_bytes_are_malformed_or_encode_to_themselves(kind, data):
    law(kind, data)
    law(kind, HEAD + data)
    law(kind, b2(data))


def law(kind: Any, data: bytes, value: Any = None) -> None:
    try:
        parsed = kind.parse(data)
    except RemoteProtocolError as error:
        parsed = error.reason
    if value is not None:
        assert parsed == value
    assert parsed == "malformed" or parsed.encode() == data


# ---- what is wrong, each by its name ---------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[Any, bytes]] = {
    "a credential with no HMAC": (IdObject, b2(b2(b"") + b"encrypted")),
    "an HMAC of no hash": (IdObject, b2(b2(b"H" * 31) + b"encrypted")),
    "an HMAC longer than any hash": (IdObject, b2(b2(b"H" * 65) + b"encrypted")),
    "a credential too short for its size": (IdObject, b2(b2(b"H" * 32) + b"en")),
    "a credential longer than any hash": (IdObject, b2(b2(b"H" * 32) + b"e" * 67)),
    "a secret that is empty": (EncryptedSecret, b2(b"")),
    "a secret longer than any key": (EncryptedSecret, b2(b"s" * 513)),
    "a public area whose names have an unknown hash": (PublicArea, b2(bytes.fromhex("0023ffff00060472"))),
    "a public area without attributes": (PublicArea, b2(bytes.fromhex("0023000b"))),
    "a public area that is huge": (PublicArea, b2(bytes.fromhex("0023000b00060472") + bytes(2_041))),
    "no magic": (Attest, b"\xff\x54\x43\x48" + KINDS["creation"][1][4:]),
    "an attestation of time": (Attest, HEAD + bytes.fromhex("8019") + MIDDLE + bytes(60)),
    "a signer's name of a strange length": (Attest, HEAD + bytes.fromhex("801a") + b2(NAME[:-1]) + KINDS["creation"][1][42:]),
    "a certified name of a strange length": (Attest, HEAD + bytes.fromhex("8017") + MIDDLE + b2(b"N" * 33) + b2(NAME)),
    "a nonce that is too long": (
        Attest,
        HEAD + bytes.fromhex("801a") + b2(NAME) + b2(b"n" * 67) + CLOCK + FIRMWARE + b2(b"") + b2(b""),
    ),
    "a flag that is neither 0 nor 1": (
        Attest,
        HEAD + bytes.fromhex("801a") + b2(NAME) + b2(b"") + CLOCK[:-1] + b"\x02" + FIRMWARE + bytes(4),
    ),
    "seventeen banks": (
        Attest,
        HEAD + bytes.fromhex("8018") + MIDDLE + (17).to_bytes(4, "big") + bytes.fromhex("000b00") * 17 + b2(b""),
    ),
    "four billion banks": (Attest, HEAD + bytes.fromhex("8018") + MIDDLE + b"\xff\xff\xff\xff"),
    "a bank of 40 registers": (
        Attest,
        HEAD + bytes.fromhex("8018") + MIDDLE + bytes.fromhex("00000001 000b 05 0000000000") + b2(b""),
    ),
    "a signature of another scheme": (Signature, bytes.fromhex("001a000b") + b2(b"r") + b2(b"s")),
    "a signature of no scheme": (Signature, bytes.fromhex("0010")),
    "an ECDSA signature without s": (Signature, bytes.fromhex("0018000b") + b2(b"r") + b2(b"")),
    "an ECDSA signature without r": (Signature, bytes.fromhex("0018000b") + b2(b"") + b2(b"s")),
    "an RSA signature of nothing": (Signature, bytes.fromhex("0016000b") + b2(b"")),
    "an RSA signature of 4,104 bits": (Signature, bytes.fromhex("0016000b") + b2(b"R" * 513)),
    "an ECDSA number of 536 bits": (Signature, bytes.fromhex("0018000b") + b2(b"r" * 67) + b2(b"s")),
}


@pytest.mark.parametrize("name", WRONG)
def test_it_is_malformed(name):
    kind, data = WRONG[name]
    refused(kind.parse, data)


def test_registers_are_counted_from_the_lowest_bit():
    assert PcrSelection(0x0B, b"\x03\x00\x80").pcrs == (0, 1, 23)
    assert PcrSelection(0x0B, b"").pcrs == ()
    assert PcrSelection(0x0B, b"\xff").pcrs == tuple(range(8))


@pytest.mark.parametrize(
    ("number", "new"), [(0x04, hashlib.sha1), (0x0B, hashlib.sha256), (0x0C, hashlib.sha384), (0x28, hashlib.sha3_384)]
)
def test_a_name_is_its_hash_and_the_hash_of_the_area_without_its_size(number, new):
    area = struct.pack(">HHI", 0x23, number, 0x0006_0472) + b"rest"
    assert PublicArea.parse(b2(area)).name == struct.pack(">H", number) + new(area).digest()


# ---- the file of tpm2_makecredential ---------------------------------------------------------------------------------------------

FILE = bytes.fromhex("badcc0de 00000001") + KINDS["credential"][1] + KINDS["secret for RSA"][1]


def test_a_credential_file_is_split_into_its_two_structures():
    assert split_credential_file(FILE) == (KINDS["credential"][1], KINDS["secret for RSA"][1])


def test_every_beginning_of_a_credential_file_is_malformed():
    for length in range(len(FILE)):
        refused(split_credential_file, FILE[:length])


OTHER_FILES = {
    "a tail": FILE + b"\x00",
    "another magic": b"\xba\xdc\xc0\xdf" + FILE[4:],
    "another version": FILE[:7] + b"\x02" + FILE[8:],
    "a wrong credential": bytes.fromhex("badcc0de 00000001") + WRONG["an HMAC of no hash"][1] + KINDS["secret for RSA"][1],
    "an empty secret": bytes.fromhex("badcc0de 00000001") + KINDS["credential"][1] + b2(b""),
}


@pytest.mark.parametrize("name", OTHER_FILES)
def test_another_file_is_malformed(name):
    refused(split_credential_file, OTHER_FILES[name])


# ---- made by the TSS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tss() -> Any:
    return pytest.importorskip("tpm2_pytss")


def test_an_attestation_that_the_tss_marshalled(tss):
    theirs = tss.TPMS_ATTEST(
        magic=tss.TPM2_GENERATED(0xFF544347),
        type=tss.TPM2_ST.ATTEST_QUOTE,
        qualifiedSigner=tss.TPM2B_NAME(NAME),
        extraData=tss.TPM2B_DATA(b"nonce"),
        clockInfo=tss.TPMS_CLOCK_INFO(clock=5, resetCount=6, restartCount=7, safe=1),
        firmwareVersion=9,
    )
    selection = tss.TPML_PCR_SELECTION.parse("sha256:0,1,23+sha384:7")
    theirs.attested = tss.TPMU_ATTEST(quote=tss.TPMS_QUOTE_INFO(pcrSelect=selection, pcrDigest=tss.TPM2B_DIGEST(b"D" * 32)))
    ours = Attest.parse(theirs.marshal())
    assert (ours.qualified_signer, ours.extra_data, ours.clock, ours.firmware) == (NAME, b"nonce", ClockInfo(5, 6, 7, safe=True), 9)
    assert isinstance(ours.attested, QuoteInfo)
    assert [(one.hash, one.pcrs) for one in ours.attested.selections] == [(0x0B, (0, 1, 23)), (0x0C, (7,))]
    assert ours.attested.digest == b"D" * 32


def test_our_attestations_are_unmarshalled_by_the_tss(tss):
    for name in ("certification", "creation", "quote"):
        theirs, _ = tss.TPMS_ATTEST.unmarshal(KINDS[name][1])
        assert theirs.marshal() == KINDS[name][1]
        assert bytes(theirs.extraData) == b"nonce"


def test_a_public_area_of_the_tss_has_the_same_name(tss):
    for algorithm in ("ecc256:ecdsa", "ecc384:ecdsa", "rsa3072:rsapss", "rsa2048"):
        theirs = tss.TPM2B_PUBLIC.parse(algorithm, objectAttributes=tss.TPMA_OBJECT.SIGN_ENCRYPT | tss.TPMA_OBJECT.USERWITHAUTH)
        ours = PublicArea.parse(theirs.marshal())
        assert ours.name == bytes(theirs.get_name())
        assert ours.attributes == theirs.publicArea.objectAttributes


def test_signatures_and_credentials_of_the_tss(tss):
    numbers = tss.TPMS_SIGNATURE_ECC(hash=tss.TPM2_ALG.SHA256, signatureR=b"r" * 32, signatureS=b"s" * 32)
    theirs = tss.TPMT_SIGNATURE(sigAlg=tss.TPM2_ALG.ECDSA, signature=tss.TPMU_SIGNATURE(ecdsa=numbers))
    assert Signature.parse(theirs.marshal()) == Signature(SignatureScheme.ECDSA, 0x0B, (b"r" * 32, b"s" * 32))
    credential = tss.TPM2B_ID_OBJECT(credential=b2(b"H" * 32) + b"encrypted").marshal()
    assert IdObject.parse(credential) == IdObject(b"H" * 32, b"encrypted")
    assert EncryptedSecret.parse(tss.TPM2B_ENCRYPTED_SECRET(b"s" * 256).marshal()) == EncryptedSecret(b"s" * 256)


def test_a_credential_that_the_tss_made(tss):
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
    from tpm2_pytss.utils import make_credential

    pem = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    symmetric = tss.TPMT_SYM_DEF_OBJECT.parse("aes128cfb")
    attributes = tss.TPMA_OBJECT.RESTRICTED | tss.TPMA_OBJECT.DECRYPT
    endorsement = tss.TPM2B_PUBLIC.from_pem(pem, symmetric=symmetric, objectAttributes=attributes)
    credential, secret = make_credential(endorsement, b"the secret", NAME)
    ours = IdObject.parse(credential.marshal())
    assert len(ours.hmac) == 32
    assert len(ours.enc) == 2 + len(b"the secret")
    assert EncryptedSecret.parse(secret.marshal()).encode() == secret.marshal()
