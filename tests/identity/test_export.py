"""Public keys in the forms that others read, read by others: ssh-keygen, and a JWK parser written for this test alone."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key, load_ssh_public_key

sys.path.insert(0, str(Path(__file__).parent.parent / "trust"))

from ready_rsa import rsa_key

from bus.identity.export import FORMATS, export, fingerprint
from bus.tpm.interface import SOFTWARE, KeyInfo

PRIVATE = {
    "ecc256/sha256": ec.generate_private_key(ec.SECP256R1()),
    "ecc384/sha3-384": ec.generate_private_key(ec.SECP384R1()),
    "rsa3072/sha256": rsa_key(3072),
}


def info_of(private, suite) -> KeyInfo:
    spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return KeyInfo("ALPHA", 3, suite, SOFTWARE, spki, spki, 0, None)


@pytest.fixture(params=PRIVATE)
def info(request) -> KeyInfo:
    return info_of(PRIVATE[request.param], request.param)


def number(text: str) -> int:
    assert "=" not in text
    return int.from_bytes(urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


def key_of_jwk(jwk):
    """RFC 7517 and 7518, read here for the first time."""
    if jwk["kty"] == "RSA":
        return rsa.RSAPublicNumbers(number(jwk["e"]), number(jwk["n"])).public_key()
    curve, size = {"P-256": (ec.SECP256R1(), 43), "P-384": (ec.SECP384R1(), 64)}[jwk["crv"]]
    assert len(jwk["x"]) == len(jwk["y"]) == size, "coordinates have the curve's length, with their zeros"
    return ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), curve).public_key()


def test_a_pem_is_the_key(info):
    found = load_pem_public_key(export(info, "pem").encode())
    assert found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == info.spki


def test_a_jwk_is_the_key_and_its_thumbprint_is_its_id(info):
    jwk = json.loads(export(info, "jwk"))
    assert key_of_jwk(jwk).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == info.spki
    assert jwk["use"] == "sig"
    required = {"RSA": ["e", "kty", "n"], "EC": ["crv", "kty", "x", "y"]}[jwk["kty"]]
    text = "{" + ",".join(f'"{name}":"{jwk[name]}"' for name in required) + "}"
    assert jwk["kid"] == urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
    assert set(jwk) == {*required, "use", "kid"}


def test_the_thumbprint_is_that_of_the_rfc():
    """RFC 7638, section 3.1; its modulus has 2,048 bits, which is no suite of ours but a key all the same."""
    n = (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W"
        "-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08q"
        "NLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    )
    spki = rsa.RSAPublicNumbers(65537, number(n)).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    jwk = json.loads(export(KeyInfo("ALPHA", 1, "rsa3072/sha256", SOFTWARE, spki, spki, 0, None), "jwk"))
    assert jwk["kid"] == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


@pytest.mark.parametrize("coordinate", ["x", "y"])
def test_coordinates_with_leading_zeros_keep_them(coordinate):
    scalar = 1
    while getattr(ec.derive_private_key(scalar, ec.SECP256R1()).public_key().public_numbers(), coordinate) >> 248:
        scalar += 1
    info = info_of(ec.derive_private_key(scalar, ec.SECP256R1()), "ecc256/sha256")
    jwk = json.loads(export(info, "jwk"))
    assert key_of_jwk(jwk).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == info.spki
    assert load_ssh_public_key(export(info, "ssh").encode()).public_numbers() == key_of_jwk(jwk).public_numbers()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_ssh_keygen_reads_the_line_and_agrees_on_the_fingerprint(info, tmp_path):
    (tmp_path / "key.pub").write_text(export(info, "ssh"))
    shown = subprocess.run(
        ["ssh-keygen", "-l", "-f", "key.pub"], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=30
    ).stdout.split()
    kinds = {"ecc256": ("256", "(ECDSA)"), "ecc384": ("384", "(ECDSA)"), "rsa3072": ("3072", "(RSA)")}
    bits, kind = kinds[info.suite.split("/")[0]]
    assert shown == [bits, fingerprint(info), "ALPHA.3", kind]
    back = subprocess.run(
        ["ssh-keygen", "-e", "-m", "PKCS8", "-f", "key.pub"], cwd=tmp_path, capture_output=True, check=True, timeout=30
    ).stdout
    assert load_pem_public_key(back).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == info.spki


def test_each_form_ends_its_line(info):
    for form in FORMATS:
        assert export(info, form).endswith("\n")
        assert not export(info, form).endswith("\n\n")


def test_a_form_that_nobody_knows_is_misuse(info):
    with pytest.raises(KeyError):
        export(info, "pgp")


def test_a_key_that_is_no_identity_key_has_no_jwk():
    with pytest.raises(TypeError):
        export(info_of(ed25519.Ed25519PrivateKey.generate(), "ed25519"), "jwk")
