"""OpenSSL, with and without its TPM provider: it signs with our keys and verifies what they signed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from bus.identity.export import export
from bus.protocol import signatures
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import FolderVault, MemoryVault

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
PROVIDER = next(Path("/usr/lib").glob("*/ossl-modules/tpm2.so"), None)


@pytest.fixture
def openssl(tmp_path):
    def run(*arguments, check=True, **environment):
        done = subprocess.run(
            ["openssl", *arguments], cwd=tmp_path, env=os.environ | environment, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0 or not check, done.stderr.decode()
        return done

    return run


@pytest.fixture
def vault(tmp_path):
    return FolderVault(tmp_path / "vault")


def batch_of_three(engine, suite):
    async def sign():
        async with engine:
            info = await engine.create("ALPHA", suite)
            contents = [suite.digest(b"content %d" % number) for number in range(3)]
            proofs = await engine.sign_many("ALPHA", Purpose.ENVELOPE, contents)
            return info, [
                (proof.tbs(Purpose.ENVELOPE, content), proof.signature) for proof, content in zip(proofs, contents, strict=True)
            ]

    return anyio.run(sign)


def check_with_openssl(openssl, tmp_path, suite, info, signed):
    """By `pkeyutl` over the digest, which every version can, and where the digest has a name there, by `dgst` too."""
    (tmp_path / "public.pem").write_text(export(info, "pem"))
    for tbs, fixed in signed:
        halves = fixed[: len(fixed) // 2], fixed[len(fixed) // 2 :]
        ecdsa = encode_dss_signature(*(int.from_bytes(half, "big") for half in halves))
        signature = fixed if suite.kind == "rsa3072" else ecdsa
        options = ["-pkeyopt", f"digest:{suite.hash}"]
        if suite.kind == "rsa3072":
            options += [
                "-pkeyopt",
                "rsa_padding_mode:pss",
                "-pkeyopt",
                "rsa_pss_saltlen:digest",
                "-pkeyopt",
                f"rsa_mgf1_md:{suite.hash}",
            ]
        (tmp_path / "digest").write_bytes(suite.digest(tbs))
        (tmp_path / "signature").write_bytes(signature)
        verify = ["pkeyutl", "-verify", "-pubin", "-inkey", "public.pem", "-in", "digest", "-sigfile", "signature", *options]
        openssl(*verify)
        (tmp_path / "digest").write_bytes(suite.digest(tbs + b"?"))
        assert openssl(*verify, check=False).returncode != 0
        (tmp_path / "tbs").write_bytes(tbs)
        sigopts = ["-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:digest"] if suite.kind == "rsa3072" else []
        openssl("dgst", f"-{suite.hash}", *sigopts, "-verify", "public.pem", "-signature", "signature", "tbs")


@pytest.mark.parametrize("name", IDENTITY_SUITES)
def test_openssl_verifies_a_batch_signature_of_each_suite_made_in_software(openssl, tmp_path, name):
    suite = IDENTITY_SUITES[name]
    info, signed = batch_of_three(Engine(None, MemoryVault(), software=SoftwareTpm(bytes(32))), suite)
    check_with_openssl(openssl, tmp_path, suite, info, signed)


@pytest.mark.parametrize("name", IDENTITY_SUITES)
def test_openssl_verifies_a_batch_signature_of_each_suite_made_in_a_tpm(openssl, tmp_path, swtpm, name):
    from bus.tpm.esapi import EsapiTpm

    suite = IDENTITY_SUITES[name]
    info, signed = batch_of_three(Engine(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), MemoryVault()), suite)
    check_with_openssl(openssl, tmp_path, suite, info, signed)


@pytest.mark.parametrize("name", ["ecc256/sha256", "ecc384/sha384", "rsa3072/sha256"])
def test_a_key_file_of_the_software_keystore_opens_with_its_auth_value(openssl, tmp_path, vault, name):
    info, _ = batch_of_three(Engine(None, vault, software=SoftwareTpm(bytes(32))), IDENTITY_SUITES[name])
    assert info.origin == SOFTWARE
    key = ["pkey", "-in", str(vault.folder / "ALPHA.1.pem"), "-pubout"]
    assert openssl(*key, "-passin", f"pass:{vault.auth(info).decode()}").stdout.decode() == export(info, "pem")
    assert openssl(*key, "-passin", "pass:wrong", check=False).returncode != 0


@pytest.mark.parametrize("name", ["ecc256/sha256", "ecc384/sha384", "rsa3072/sha256"])
def test_an_exported_key_is_what_openssl_writes_itself(openssl, tmp_path, name):
    info, _ = batch_of_three(Engine(None, MemoryVault(), software=SoftwareTpm(bytes(32))), IDENTITY_SUITES[name])
    (tmp_path / "public.pem").write_text(export(info, "pem"))
    assert openssl("pkey", "-pubin", "-in", "public.pem").stdout.decode() == export(info, "pem")
    assert openssl("pkey", "-pubin", "-in", "public.pem", "-outform", "der").stdout == info.spki


@pytest.mark.skipif(PROVIDER is None, reason="tpm2-openssl is not installed")
@pytest.mark.parametrize("name", ["ecc256/sha256", "ecc384/sha384", "rsa3072/sha256"])
def test_the_tpm_provider_signs_with_a_vault_key_as_it_is(openssl, tmp_path, swtpm, vault, name):
    from bus.tpm.esapi import EsapiTpm

    suite = IDENTITY_SUITES[name]
    info, _ = batch_of_three(Engine(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), vault), suite)
    (tmp_path / "message").write_bytes(b"signed by OpenSSL's provider")
    providers = ["-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2"]
    pss = ["-sigopt", "rsa_padding_mode:pss"] if suite.kind == "rsa3072" else []
    sign = ["dgst", f"-{suite.hash}", *providers, *pss, "-sign", str(vault.folder / "ALPHA.1.pem"), "-out", "signature"]
    environment = {"TPM2OPENSSL_TCTI": swtpm.tcti}
    openssl(*sign, "-passin", f"pass:{vault.auth(info).decode()}", "message", **environment)
    (tmp_path / "public.pem").write_text(export(info, "pem"))
    openssl("dgst", f"-{suite.hash}", *pss, "-verify", "public.pem", "-signature", "signature", "message")
    assert openssl(*sign, "-passin", "pass:wrong", "message", check=False, **environment).returncode != 0
    public = openssl(
        "pkey", *providers, "-in", str(vault.folder / "ALPHA.1.pem"), "-passin", f"pass:{vault.auth(info).decode()}", "-pubout",
        **environment,
    )  # fmt: skip
    assert signatures.load_public(info.spki).public_numbers() == _numbers(public.stdout)


def _numbers(pem):
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    return load_pem_public_key(pem).public_numbers()
