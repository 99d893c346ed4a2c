"""The tools that every TPM user has take our keys, our quotes and our endorsement key as they are."""

from __future__ import annotations

import os
import shutil
import subprocess
from hashlib import sha256

import anyio
import pytest

from bus.errors import TpmRefusedError
from bus.protocol import signatures
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE_TPM
from bus.tpm.vault import FolderVault

pytestmark = pytest.mark.skipif(shutil.which("tpm2_load") is None, reason="tpm2-tools are not installed")


@pytest.fixture
def tools(swtpm, tmp_path):
    def run(*command, check=True):
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | {"TPM2TOOLS_TCTI": swtpm.tcti}, capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 0 or not check, done.stderr.decode()
        return done

    return run


@pytest.fixture
def vault(tmp_path):
    return FolderVault(tmp_path / "vault")


def with_engine(swtpm, vault, use):
    """Do something with an engine, and close it: the tools need the chip's few places too."""
    from bus.tpm.esapi import EsapiTpm

    async def run():
        async with Engine(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), vault) as engine:
            return await use(engine)

    return anyio.run(run)


def split_pem(path, tmp_path):
    """The private half of a TSS2 PRIVATE KEY, as the tools want it."""
    from tpm2_pytss.tsskey import TSSPrivKey

    (tmp_path / "key.priv").write_bytes(TSSPrivKey.from_pem(path.read_bytes()).private.marshal())
    return "key.priv"


TOOL_HASHES = {"sha256": "sha256", "sha384": "sha384", "sha3-256": "sha256", "sha3-384": "sha384"}
"""The label that a chip without SHA-3 wants beside a digest as long."""


@pytest.mark.parametrize("name", ["ecc256/sha256", "ecc384/sha3-256", "ecc256/sha384", "ecc384/sha3-384"])
def test_tpm2_load_and_tpm2_sign_take_a_vault_key_as_it_is(swtpm, vault, tools, tmp_path, name):
    suite = IDENTITY_SUITES[name]
    info = with_engine(swtpm, vault, lambda engine: engine.create("ALPHA", suite))
    auth = vault.auth(info).decode()
    private = split_pem(vault.folder / "ALPHA.1.pem", tmp_path)
    tools("tpm2_load", "-C", "0x81000001", "-u", vault.folder / "ALPHA.1.pub", "-r", private, "-c", "key.ctx", "-n", "key.name")
    tools("tpm2_flushcontext", "-t")
    assert (tmp_path / "key.name").read_bytes() == b"\x00\x0b" + sha256(info.public[2:]).digest()
    (tmp_path / "digest").write_bytes(suite.digest(b"signed with other tools"))
    sign = ["tpm2_sign", "-c", "key.ctx", "-d", "-g", TOOL_HASHES[suite.hash], "-s", "ecdsa", "digest"]
    assert tools(*sign, "-p", "wrong", "-o", "signature", check=False).returncode != 0
    tools("tpm2_flushcontext", "-t")
    tools(*sign, "-p", auth, "-f", "plain", "-o", "signature")
    tools("tpm2_flushcontext", "-t")
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    half = suite.signature_bytes // 2
    fixed = b"".join(part.to_bytes(half, "big") for part in decode_dss_signature((tmp_path / "signature").read_bytes()))
    signatures.verify(suite, signatures.load_public(info.spki), b"signed with other tools", fixed)
    tools(*sign, "-p", auth, "-o", "signature.tss")
    tools("tpm2_flushcontext", "-t")
    tools("tpm2_verifysignature", "-c", "key.ctx", "-d", "digest", "-s", "signature.tss")
    (tmp_path / "digest").write_bytes(suite.digest(b"something else"))
    assert tools("tpm2_verifysignature", "-c", "key.ctx", "-d", "digest", "-s", "signature.tss", check=False).returncode != 0


def test_tpm2_load_takes_the_pem_alone(swtpm, vault, tools, tmp_path):
    info = with_engine(swtpm, vault, lambda engine: engine.create("ALPHA", IDENTITY_SUITES["ecc256/sha256"]))
    tools("tpm2_load", "-r", vault.folder / "ALPHA.1.pem", "-c", "key.ctx", "-n", "key.name")  # it names its parent itself
    assert (tmp_path / "key.name").read_bytes() == b"\x00\x0b" + sha256(info.public[2:]).digest()


def test_other_readers_of_key_files_read_the_parent_and_the_auth_flag_of_a_pem(swtpm, vault):
    """The parent as the unsigned number that it is, and that an auth value is asked for."""
    from tpm2_pytss.tsskey import TSSPrivKey

    info = with_engine(swtpm, vault, lambda engine: engine.create("ALPHA", IDENTITY_SUITES["ecc256/sha256"]))
    key = TSSPrivKey.from_pem((vault.folder / "ALPHA.1.pem").read_bytes())
    assert (key.parent, key.empty_auth) == (0x81000001, False)
    assert key.public.marshal() == (vault.folder / "ALPHA.1.pub").read_bytes() == info.public
    import base64

    der = base64.b64decode(b"".join((vault.folder / "ALPHA.1.pem").read_bytes().split(b"\n")[1:-2]))
    assert bytes.fromhex("0205 0081000001".replace(" ", "")) in der, "a negative number is refused by some tools"


def test_tpm2_makecredential_makes_what_the_engine_activates(swtpm, vault, tools, tmp_path):
    async def tell(engine):
        return await engine.endorsement(), await engine.attestation_key()

    endorsement, attester = with_engine(swtpm, vault, tell)
    (tmp_path / "ek.pub").write_bytes(endorsement.public)
    secret = b"a secret of thirty-two bytes...."
    (tmp_path / "secret").write_bytes(secret)
    tools("tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s", "secret", "-n", attester.name.hex(), "-o", "credential")
    blob = (tmp_path / "credential").read_bytes()
    assert blob[:8] == bytes.fromhex("badcc0de00000001")
    size = 2 + int.from_bytes(blob[8:10], "big")
    credential, encrypted = blob[8 : 8 + size], blob[8 + size :]
    assert with_engine(swtpm, vault, lambda engine: engine.activate(credential, encrypted)) == secret
    for broken in (
        (credential[:-1], encrypted),
        (credential + b"x", encrypted),
        (credential, encrypted + b"x"),
        (encrypted, credential),
    ):
        with pytest.raises(TpmRefusedError):
            with_engine(swtpm, vault, lambda engine, broken=broken: engine.activate(*broken))


def test_a_credential_for_another_attestation_key_is_not_activated(swtpm, vault, tools, tmp_path):
    endorsement = with_engine(swtpm, vault, lambda engine: engine.endorsement())
    (tmp_path / "ek.pub").write_bytes(endorsement.public)
    (tmp_path / "secret").write_bytes(bytes(32))
    tools("tpm2_makecredential", "-T", "none", "-u", "ek.pub", "-s", "secret", "-n", "000b" + "ab" * 32, "-o", "credential")
    blob = (tmp_path / "credential").read_bytes()
    size = 2 + int.from_bytes(blob[8:10], "big")
    with pytest.raises(TpmRefusedError) as refused:
        with_engine(swtpm, vault, lambda engine: engine.activate(blob[8 : 8 + size], blob[8 + size :]))
    assert refused.value.code == "wrong_credential"


def test_tpm2_checkquote_accepts_our_quote(swtpm, vault, tools, tmp_path):
    """It takes the attestation key as PEM, and computes the digest of the registers from what tpm2_pcrread wrote."""
    qualifying = b"a nonce of the verifier"

    async def quote(engine):
        return await engine.quote([0, 7, 16], qualifying=qualifying), await engine.attestation_key()

    attested, attester = with_engine(swtpm, vault, quote)
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pem = signatures.load_public(attester.spki).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "ak.pem").write_bytes(pem)
    (tmp_path / "quote").write_bytes(attested.attest)
    (tmp_path / "signature").write_bytes(attested.signature)
    tools("tpm2_pcrread", "sha256:0,7,16", "-o", "pcrs")
    check = ["tpm2_checkquote", "-u", "ak.pem", "-m", "quote", "-s", "signature", "-g", "sha256"]
    registers = ["-f", "pcrs", "-l", "sha256:0,7,16"]
    assert tools(*check, *registers, "-q", qualifying.hex()).returncode == 0
    assert tools(*check, *registers, "-q", b"another".hex(), check=False).returncode != 0
    (tmp_path / "quote").write_bytes(attested.attest[:-1] + bytes([attested.attest[-1] ^ 1]))
    assert tools(*check, *registers, "-q", qualifying.hex(), check=False).returncode != 0


def test_the_name_and_attributes_that_tools_read_from_the_chip_are_ours(swtpm, vault, tools, tmp_path):
    from bus.tpm.esapi import EsapiTpm

    chip = EsapiTpm(swtpm.tcti)
    name = chip.facts().primary_name
    chip.close()
    tools("tpm2_readpublic", "-c", "0x81000001", "-n", "name")
    assert (tmp_path / "name").read_bytes() == name
