"""The TPM's structures: written and read by one table, fed whole, cut at every byte and with a tail, and held against the TSS."""

from __future__ import annotations

import hashlib
import struct

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

NAME = b"\x00\x0b" + bytes(range(32))
CLOCK = ClockInfo(clock=2**63, reset_count=2**32 - 1, restart_count=0, safe=True)
QUOTE = QuoteInfo((PcrSelection(0x000B, b"\x81\x00\x01"), PcrSelection(0x000C, b"")), bytes(32))


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


VALUES = [
    IdObject(bytes(32), b"x" * 34),
    IdObject(bytes(48), b"x" * 3),
    IdObject(bytes(64), b"x" * 66),
    EncryptedSecret(bytes(256)),
    EncryptedSecret(b"\x00"),
    EncryptedSecret(bytes(512)),
    PublicArea(0x0023, 0x000B, 0x00050072, bytes(70)),
    PublicArea(0x0001, 0x000C, 0, b""),
    Attest(NAME, b"nonce", CLOCK, 2**64 - 1, CertifyInfo(NAME, NAME)),
    Attest(b"", b"", ClockInfo(0, 0, 0, safe=False), 0, CertifyInfo(b"", b"\x81\x00\x00\x01")),
    Attest(NAME, bytes(64), CLOCK, 1, QUOTE),
    Attest(NAME, b"", CLOCK, 1, QuoteInfo((), b"")),
    Attest(NAME, b"", CLOCK, 1, CreationInfo(NAME, bytes(48))),
    Signature(SignatureScheme.ECDSA, 0x000B, (b"\x01", bytes(66))),
    Signature(SignatureScheme.RSAPSS, 0x000C, (bytes(384),)),
    Signature(SignatureScheme.RSASSA, 0x000B, (bytes(512),)),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_what_is_written_is_read_and_nothing_near_it(value):
    data = value.encode()
    assert type(value).parse(data) == value
    for cut in range(len(data)):
        refuses(type(value), data[:cut])
    for tail in (b"\x00", b"\xff", data):
        refuses(type(value), data + tail)


def refuses(kind, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        kind.parse(data)
    assert caught.value.reason == "malformed"


ATTEST = VALUES[8].encode()
QUOTED = VALUES[10].encode()
REFUSED = {
    "id object: the size says more than there is": (IdObject, sized(sized(bytes(32)) + b"xxx")[:-1] + b""),
    "id object: without its own size": (IdObject, sized(bytes(32)) + b"x" * 34),
    "id object: the HMAC says more than there is": (IdObject, sized(b"\x00\x40" + bytes(32) + b"xxx")),
    "id object: an HMAC of no hash": (IdObject, sized(sized(bytes(33)) + b"x" * 34)),
    "id object: no HMAC": (IdObject, sized(sized(b"") + b"x" * 34)),
    "id object: no credential": (IdObject, sized(sized(bytes(32)))),
    "id object: a credential too short for its size": (IdObject, sized(sized(bytes(32)) + b"xx")),
    "id object: a credential too long": (IdObject, sized(sized(bytes(32)) + b"x" * 67)),
    "secret: empty": (EncryptedSecret, b"\x00\x00"),
    "secret: longer than any key": (EncryptedSecret, sized(bytes(513))),
    "public: too long": (PublicArea, sized(struct.pack(">HHI", 0x23, 0x0B, 0) + bytes(2_048))),
    "public: a hash that makes no names": (PublicArea, sized(struct.pack(">HHI", 0x23, 0x10, 0))),
    "public: cut within its head": (PublicArea, sized(struct.pack(">HH", 0x23, 0x0B))),
    "attest: another magic": (Attest, b"\xffTCH" + ATTEST[4:]),
    "attest: another type": (Attest, ATTEST[:4] + b"\x80\x14" + ATTEST[6:]),
    "attest: a Name of an odd length": (Attest, ATTEST[:6] + sized(bytes(33)) + ATTEST[6 + 36 :]),
    "attest: safe is neither yes nor no": (Attest, ATTEST.replace(b"\0\0\0\0\x01" + b"\xff" * 8, b"\0\0\0\0\x02" + b"\xff" * 8)),
    "quote: more banks than there are": (Attest, QUOTED.replace(b"\x00\x00\x00\x02\x00\x0b\x03", b"\x00\x00\x00\x03\x00\x0b\x03")),
    "quote: a bank of banks": (Attest, QUOTED.replace(b"\x00\x00\x00\x02\x00\x0b\x03", b"\xff\xff\xff\xff\x00\x0b\x03")),
    "quote: a bitmap of five bytes": (Attest, QUOTED.replace(b"\x00\x0b\x03\x81\x00\x01", b"\x00\x0b\x05\x81\x00\x01\x00\x00")),
    "signature: a scheme that we do not know": (Signature, b"\x00\x1a\x00\x0b" + sized(b"r") + sized(b"s")),
    "signature: the null scheme": (Signature, b"\x00\x10"),
    "signature: r without s": (Signature, b"\x00\x18\x00\x0b" + sized(b"r")),
    "signature: an empty s": (Signature, b"\x00\x18\x00\x0b" + sized(b"r") + sized(b"")),
    "signature: r longer than any curve": (Signature, b"\x00\x18\x00\x0b" + sized(bytes(67)) + sized(b"s")),
    "signature: RSA longer than any key": (Signature, b"\x00\x16\x00\x0b" + sized(bytes(513))),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    refuses(*REFUSED[name])


@given(st.sampled_from([IdObject, EncryptedSecret, PublicArea, Attest, Signature]), st.binary(max_size=700))
def test_any_bytes_parse_or_are_malformed_and_what_parses_re_encodes(kind, data):
    obeys_the_laws(kind, data)


@given(st.sampled_from(VALUES), st.data())
def test_the_same_with_bytes_that_are_nearly_right(value, data):
    raw = bytearray(value.encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw) - 1))
        if data.draw(st.booleans()):
            raw[place] = data.draw(st.integers(0, 255))
        else:
            del raw[place]
            raw[place:place] = data.draw(st.binary(max_size=2))
        if not raw:
            break
    for kind in (IdObject, EncryptedSecret, PublicArea, Attest, Signature):
        obeys_the_laws(kind, bytes(raw))


def obeys_the_laws(kind, data: bytes) -> None:
    try:
        value = kind.parse(data)
    except RemoteProtocolError as error:
        if error.reason != "malformed":
            raise
    else:
        assert value.encode() == data


# ---- credential files ------------------------------------------------------------------------------------------------------------

CREDENTIAL = IdObject(bytes(32), b"x" * 34).encode()
SECRET = EncryptedSecret(bytes(256)).encode()
HEAD = bytes.fromhex("badcc0de00000001")


def test_a_credential_file_holds_both_halves():
    assert split_credential_file(HEAD + CREDENTIAL + SECRET) == (CREDENTIAL, SECRET)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HEAD,
        HEAD + CREDENTIAL,
        HEAD + CREDENTIAL + SECRET + b"\0",
        CREDENTIAL + SECRET,
        HEAD[:7] + b"\x02" + CREDENTIAL + SECRET,
        b"\xde\xc0\xdc\xba" + HEAD[4:] + CREDENTIAL + SECRET,
        HEAD + SECRET + CREDENTIAL,
    ],
)
def test_anything_else_is_no_credential_file(data):
    with pytest.raises(RemoteProtocolError):
        split_credential_file(data)


# ---- held against the TSS --------------------------------------------------------------------------------------------------------


def test_the_tss_writes_what_we_read():
    pytss = pytest.importorskip("tpm2_pytss")
    public = pytss.TPM2B_PUBLIC.parse("ecc256")
    area = PublicArea.parse(public.marshal())
    assert area.type == int(pytss.TPM2_ALG.ECC)
    assert area.attributes == int(public.publicArea.objectAttributes)
    assert area.name == bytes(public.get_name())
    signature = pytss.TPMT_SIGNATURE(sigAlg=pytss.TPM2_ALG.ECDSA)
    signature.signature.ecdsa.hash = pytss.TPM2_ALG.SHA384
    signature.signature.ecdsa.signatureR, signature.signature.ecdsa.signatureS = b"\x01" * 48, b"\x02" * 47
    assert Signature.parse(signature.marshal()) == Signature(SignatureScheme.ECDSA, 0x000C, (b"\x01" * 48, b"\x02" * 47))


def test_the_tss_reads_what_we_write():
    pytss = pytest.importorskip("tpm2_pytss")
    for value in VALUES:
        if isinstance(value, Attest):
            read, used = pytss.TPMS_ATTEST.unmarshal(value.encode())
            assert used == len(value.encode())
            assert bytes(read.extraData) == value.extra_data
            assert bytes(read.marshal()) == value.encode()


@pytest.mark.parametrize("kind", ["rsa2048", "ecc384"])
def test_a_credential_of_the_tss_is_read_exactly(kind):
    """The endorsement key may be of either kind; its name hash is SHA-256 here."""
    from cryptography.hazmat.primitives.asymmetric import ec, rsa
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pytss = pytest.importorskip("tpm2_pytss")
    private = rsa.generate_private_key(65_537, 2_048) if kind == "rsa2048" else ec.generate_private_key(ec.SECP384R1())
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    endorsement = pytss.TPM2B_PUBLIC.from_pem(pem, symmetric=pytss.TPMT_SYM_DEF_OBJECT.parse("aes128cfb"))
    from tpm2_pytss.utils import make_credential

    credential, secret = make_credential(endorsement, b"s" * 32, pytss.TPM2B_NAME(NAME))
    parsed = IdObject.parse(credential.marshal())
    assert len(parsed.hmac) == 32
    assert len(parsed.enc) == 2 + 32
    assert parsed.encode() == credential.marshal()
    assert EncryptedSecret.parse(secret.marshal()).encode() == secret.marshal()


def test_a_name_is_the_hash_of_what_follows_the_size():
    area = PublicArea(0x0023, 0x000C, 7, b"rest")
    assert area.name == b"\x00\x0c" + hashlib.sha384(area.encode()[2:]).digest()
