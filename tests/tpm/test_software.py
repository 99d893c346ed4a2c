"""The software keystore: what it makes, what it refuses, and that it never passes for a TPM."""

from __future__ import annotations

from base64 import b64decode, b64encode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from bus.errors import TpmRefusedError
from bus.protocol import signatures
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.interface import SOFTWARE, WrappedKey
from bus.tpm.software import SoftwareTpm

QUICK = IDENTITY_SUITES["ecc256/sha256"]
AUTH = b"an auth value"


@pytest.fixture
def keystore() -> SoftwareTpm:
    return SoftwareTpm(bytes(32))


@pytest.mark.parametrize("name", IDENTITY_SUITES)
def test_each_suite_signs_and_verifies(keystore, name):
    suite = IDENTITY_SUITES[name]
    key = keystore.create(suite, auth=AUTH)
    signature = keystore.sign(key, suite, suite.digest(b"signed"), auth=AUTH)
    signatures.verify(suite, signatures.load_public(key.spki), b"signed", signature)
    assert key.origin == SOFTWARE
    assert key.public == key.spki


def test_a_key_file_is_an_encrypted_pkcs8_that_opens_with_the_auth_value_alone(keystore):
    key = keystore.create(QUICK, auth=AUTH)
    assert key.pem.startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert load_pem_private_key(key.pem, AUTH).key_size == 256
    with pytest.raises(TpmRefusedError) as caught:
        keystore.sign(key, QUICK, bytes(32), auth=b"another")
    assert caught.value.code == "auth_fail"
    keystore.sign(key, QUICK, bytes(32), auth=AUTH)
    with pytest.raises(TpmRefusedError):
        keystore.sign(key, QUICK, bytes(32), auth=b"another")  # though the key is open by now


def pem_of(private, auth=AUTH):
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(auth) if auth else NoEncryption())


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"no PEM",
        pem_of(ec.generate_private_key(ec.SECP256R1()), auth=None),
        pem_of(ec.generate_private_key(ec.SECP521R1())),
        pem_of(ec.generate_private_key(ec.SECP384R1())),
        pem_of(ed25519.Ed25519PrivateKey.generate()),
        pem_of(rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: FOO-CBC,00\n\nAAAA\n-----END RSA PRIVATE KEY-----\n",
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
    ],
    ids=["empty", "no pem", "not encrypted", "p521", "p384", "ed25519", "rsa", "unknown cipher", "openssh"],
)
def test_a_key_file_of_another_kind_is_refused(keystore, pem):
    with pytest.raises(TpmRefusedError):
        keystore.sign(WrappedKey(pem, b"public", b"spki", SOFTWARE), QUICK, bytes(32), auth=AUTH)


def test_a_key_file_with_any_one_bit_turned_is_refused(keystore):
    key = keystore.create(QUICK, auth=AUTH)
    begin, body, end = key.pem.strip().split(b"\n", 1)[0], b64decode(b"".join(key.pem.split(b"\n")[1:-2])), key.pem.split(b"\n")[-2]
    for place in range(90):  # the algorithms and their parameters; what follows is ciphertext
        turned = bytearray(body)
        turned[place] ^= 1 << place % 8
        pem = begin + b"\n" + b64encode(turned) + b"\n" + end + b"\n"
        with pytest.raises(TpmRefusedError):
            SoftwareTpm(bytes(32)).sign(WrappedKey(pem, key.public, key.spki, SOFTWARE), QUICK, bytes(32), auth=AUTH)


def test_what_is_sealed_opens_in_the_same_vault_only(keystore):
    blob = keystore.seal(b"secret", pcrs=[])
    assert keystore.seal(b"secret", pcrs=[]) != blob
    assert SoftwareTpm(bytes(32)).unseal(blob) == b"secret"
    for other, found in ((SoftwareTpm(b"x" * 32), blob), (keystore, blob[:-1]), (keystore, b""), (keystore, b"short")):
        with pytest.raises(TpmRefusedError) as caught:
            other.unseal(found)
        assert caught.value.code == "malformed_blob"


def test_it_attests_nothing_and_binds_to_no_registers(keystore):
    key = keystore.create(QUICK, auth=AUTH)
    for attest in (
        lambda: keystore.create(None, auth=AUTH),
        lambda: keystore.certify(key, key, qualifying=b"", auth=AUTH, attester_auth=AUTH),
        lambda: keystore.quote([0], key, qualifying=b"", attester_auth=AUTH),
        lambda: keystore.activate(key, credential=b"", secret=b"", attester_auth=AUTH),
        keystore.endorsement,
        lambda: keystore.seal(b"secret", pcrs=[7]),
    ):
        with pytest.raises(TpmRefusedError) as caught:
            attest()
        assert caught.value.code == "not_a_tpm"


def test_open_keys_are_counted_bounded_and_dropped_at_the_end(keystore, monkeypatch):
    monkeypatch.setattr("bus.tpm.software._CACHED_KEYS", 2)
    keys = [keystore.create(QUICK, auth=AUTH) for _ in range(3)]
    for key in (keys[0], keys[0], keys[1], keys[2], keys[0]):
        keystore.sign(key, QUICK, bytes(32), auth=AUTH)
    statistics = keystore.statistics()
    assert (statistics["loads"], statistics["hits"], statistics["loaded"]) == (4, 1, 2)
    keystore.close()
    assert keystore.statistics()["loaded"] == 0
