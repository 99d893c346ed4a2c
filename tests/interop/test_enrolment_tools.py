"""tpm2-tools on one side of an enrolment and ours on the other: credentials, certified keys and quotes mean the same to both."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess

import pytest

from bus.errors import AttestationError
from bus.protocol.suites import IDENTITY_SUITES
from bus.protocol.tpm_structures import CREDENTIAL_FILE_MAGIC, Attest
from bus.trust import attestation, credential
from bus.trust.endorsement import key_hash
from bus.trust.tpm_keys import TpmKey

pytestmark = pytest.mark.skipif(shutil.which("tpm2_createak") is None, reason="tpm2-tools are not installed")

SECRET = bytes(range(100, 132))
NONCE = bytes(range(32))
P384_EK = "0x81010016"
"""Where swtpm_setup leaves the second endorsement key that it makes."""


@pytest.fixture
def tools(swtpm, tmp_path):
    def run(*command, check=True):
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"TPM2TOOLS_TCTI": swtpm.tcti}, capture_output=True, timeout=30, check=False
        )
        subprocess.run(
            ["tpm2_flushcontext", "-t"], cwd=tmp_path, env=os.environ | {"TPM2TOOLS_TCTI": swtpm.tcti}, check=True, timeout=30
        )
        assert done.returncode == 0 or not check, done.stderr.decode()
        return done

    return run


@pytest.fixture
def attester(tools, tmp_path):
    """An attestation key as tpm2-tools make one."""
    tools("tpm2_createek", "-c", "ek.ctx", "-G", "rsa", "-u", "ek.pub")
    tools(
        "tpm2_createak", "-C", "ek.ctx", "-c", "ak.ctx", "-G", "ecc", "-g", "sha256", "-s", "ecdsa", "-u", "ak.pub", "-n", "ak.name"
    )
    key = attestation.attestation_key((tmp_path / "ak.pub").read_bytes())
    assert key.name == (tmp_path / "ak.name").read_bytes()
    return key


def as_file(made: credential.Credential) -> bytes:
    return struct.pack(">II", CREDENTIAL_FILE_MAGIC, 1) + made.id_object + made.encrypted_secret


def activate(tools, *, endorsement: str, session: str):
    return tools(
        *("tpm2_activatecredential", "-c", "ak.ctx", "-C", endorsement, "-i", "credential", "-o", "opened", *session.split()),
        check=False,
    )


@pytest.mark.parametrize("changed", [False, True])
def test_tpm2_activatecredential_opens_our_credential_for_an_rsa_endorsement_key(tools, attester, tmp_path, changed):
    endorsement = TpmKey.parse((tmp_path / "ek.pub").read_bytes())
    name = attester.name[:-1] + bytes([attester.name[-1] ^ changed])
    (tmp_path / "credential").write_bytes(as_file(credential.make(endorsement, name, SECRET, randomness=os.urandom(96))))
    tools("tpm2_startauthsession", "--policy-session", "-S", "session.ctx")
    tools("tpm2_policysecret", "-S", "session.ctx", "-c", "e")
    done = activate(tools, endorsement="ek.ctx", session="-P session:session.ctx")
    if changed:
        assert done.returncode != 0
    else:
        assert (done.returncode, (tmp_path / "opened").read_bytes()) == (0, SECRET)


def test_tpm2_activatecredential_opens_our_credential_for_an_endorsement_key_on_p_384(tools, attester, tmp_path):
    """Another way to the seed (a one-time point), another hash, a longer storage key."""
    tools("tpm2_readpublic", "-c", P384_EK, "-o", "ek384.pub")
    endorsement = TpmKey.parse((tmp_path / "ek384.pub").read_bytes())
    assert (endorsement.name_hash, endorsement.symmetric_bits) == ("sha384", 256)
    (tmp_path / "credential").write_bytes(as_file(credential.make(endorsement, attester.name, SECRET, randomness=os.urandom(96))))
    done = activate(tools, endorsement=P384_EK, session="")
    assert (done.returncode, (tmp_path / "opened").read_bytes()) == (0, SECRET), done.stderr.decode()


def test_the_hash_of_an_endorsement_key_is_what_openssl_makes_of_it(tools, attester, tmp_path):
    """So an operator can list a chip with two commands and no tool of ours."""
    tools("tpm2_createek", "-c", "again.ctx", "-G", "rsa", "-u", "ek.pem", "-f", "pem")
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", tmp_path / "ek.pem", "-outform", "DER"], capture_output=True, check=True
    )
    digest = subprocess.run(["openssl", "dgst", "-sha256", "-binary"], input=der.stdout, capture_output=True, check=True).stdout
    assert digest == key_hash(TpmKey.parse((tmp_path / "ek.pub").read_bytes()).spki)


def test_our_check_takes_what_tpm2_certify_says(tools, attester, tmp_path):
    tools("tpm2_createprimary", "-C", "o", "-G", "ecc", "-c", "primary.ctx")
    attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|sign"
    tools("tpm2_create", "-C", "primary.ctx", "-G", "ecc256", "-a", attributes, "-u", "key.pub", "-r", "key.priv", "-c", "key.ctx")
    public = (tmp_path / "key.pub").read_bytes()
    subject = attestation.identity_key(public, spki=TpmKey.parse(public).spki, suite=IDENTITY_SUITES["ecc256/sha256"])
    tools("tpm2_certify", "-c", "key.ctx", "-C", "ak.ctx", "-g", "sha256", "-o", "attest", "-s", "signature")
    said = (tmp_path / "attest").read_bytes(), (tmp_path / "signature").read_bytes()
    qualifying = Attest.parse(said[0]).extra_data  # the tool takes none, and puts a constant there
    attestation.check_certify(attester, *said, subject=subject, qualifying=qualifying)
    for expected, wrong in (("wrong_qualifying", {"qualifying": NONCE}), ("wrong_identity_key", {"subject": attester})):
        with pytest.raises(AttestationError) as caught:
            attestation.check_certify(attester, *said, **({"subject": subject, "qualifying": qualifying} | wrong))
        assert caught.value.reason == expected


def test_our_check_takes_what_tpm2_quote_says_and_knows_when_a_register_moved(tools, attester, tmp_path):
    registers = {0: bytes(32), 7: bytes(32), 16: bytes(32)}

    def quote():
        tools(
            *(
                "tpm2_quote",
                "-c",
                "ak.ctx",
                "-l",
                "sha256:0,7,16",
                "-q",
                NONCE.hex(),
                "-m",
                "attest",
                "-s",
                "signature",
                "-g",
                "sha256",
            )
        )
        return (tmp_path / "attest").read_bytes(), (tmp_path / "signature").read_bytes()

    attestation.check_quote(attester, *quote(), registers=registers, qualifying=NONCE)
    tools("tpm2_pcrextend", f"16:sha256={'ab' * 32}")
    with pytest.raises(AttestationError) as caught:
        attestation.check_quote(attester, *quote(), registers=registers, qualifying=NONCE)
    assert caught.value.reason == "wrong_registers"
