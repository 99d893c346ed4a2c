"""The law of the vault's parsers: whatever lies there, it is a vault or a typed error, and never another exception."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.errors import BusError, TpmError, TpmRefusedError, VaultError
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM, WrappedKey
from bus.tpm.keyring import Keyring
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import FolderVault

QUICK = IDENTITY_SUITES["ecc256/sha256"]
shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("ALPHA"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=12,
)


def keyring_of(folder) -> Keyring:
    chip = FakeTpm()
    chips = {SOFTWARE_TPM: chip, SOFTWARE: SoftwareTpm(bytes(32))}
    return Keyring(FolderVault(folder), ManualClock(), chips, {SOFTWARE_TPM: chip.facts().primary_name})


def use_everything(folder) -> bool:
    """Open the vault, and use each of its keys. Whether it opened. Raises nothing but what is typed, and that is caught here."""
    try:
        keyring = keyring_of(folder)
        infos = keyring.infos()
    except VaultError as error:
        if error.code not in {"damaged", "version", "missing"}:
            raise
        return False
    for info in infos:
        try:
            loaded = keyring.open(info.id)
            keyring.sign(loaded, loaded.signer, [(Purpose.ENVELOPE, bytes(loaded.suite.digest_bytes))])
        except BusError:
            continue
    return True


@pytest.fixture
def vault(tmp_path) -> Path:
    keyring = keyring_of(tmp_path / "vault")
    keyring.create("ALPHA", QUICK, SOFTWARE_TPM)
    keyring.create("BETA", QUICK, SOFTWARE)
    return tmp_path / "vault"


@pytest.fixture
def original(vault, tmp_path) -> Path:
    return shutil.copytree(vault, tmp_path / "original")


def restore(vault, original):
    for path in original.iterdir():
        (vault / path.name).write_bytes(path.read_bytes())


def test_the_vault_that_is_damaged_here_is_whole_before(vault):
    assert use_everything(vault)


@shared_folder
@given(document=anything)
def test_any_json_as_an_index(vault, original, document):
    (vault / "index.json").write_text(json.dumps(document))
    use_everything(vault)
    restore(vault, original)


@shared_folder
@given(text=st.binary(max_size=200))
def test_any_bytes_as_an_index(vault, original, text):
    (vault / "index.json").write_bytes(text)
    assert not use_everything(vault)
    restore(vault, original)


@shared_folder
@given(data=st.data())
def test_an_index_with_anything_in_one_place(vault, original, data):
    document = json.loads((vault / "index.json").read_bytes())
    place = data.draw(st.sampled_from(["version", "keys", "line", "field", "field", "field", "field", "more", "less"]))
    line = document["keys"][data.draw(st.integers(0, 1))]
    match place:
        case "version" | "keys":
            document[place] = data.draw(anything)
        case "line":
            document["keys"][0] = data.draw(anything)
        case "field":
            name = data.draw(st.sampled_from(sorted(line)))
            line[name] = data.draw(
                anything | st.just(line[name] if isinstance(line[name], int) else line[name][:-4] if line[name] else 0)
            )
        case "more":
            line[data.draw(st.text(max_size=10))] = data.draw(anything)
        case "less":
            del line[data.draw(st.sampled_from(sorted(line)))]
    (vault / "index.json").write_text(json.dumps(document))
    use_everything(vault)
    restore(vault, original)


@shared_folder
@given(data=st.data())
def test_an_index_with_one_byte_changed_or_cut_short(vault, original, data):
    text = bytearray((vault / "index.json").read_bytes())
    place = data.draw(st.integers(0, len(text) - 1))
    if data.draw(st.booleans()):
        text[place] ^= data.draw(st.integers(1, 255))
    else:
        del text[place:]
    (vault / "index.json").write_bytes(text)
    use_everything(vault)
    restore(vault, original)


# ---- key files, as a chip gets them when nobody checked their digests ----------------------------------------------------------


@pytest.fixture(scope="module")
def software_key() -> WrappedKey:
    return SoftwareTpm(bytes(32)).create(QUICK, auth=b"auth")


def damaged(data, whole: bytes) -> bytes:
    """The bytes with something done to them; sometimes quite others."""
    kind = data.draw(st.sampled_from(["any", "flip", "cut", "insert"]))
    place = data.draw(st.integers(0, len(whole) - 1))
    match kind:
        case "any":
            return data.draw(st.binary(max_size=300))
        case "flip":
            return whole[:place] + bytes([whole[place] ^ data.draw(st.integers(1, 255))]) + whole[place + 1 :]
        case "cut":
            return whole[:place]
        case _:
            return whole[:place] + data.draw(st.binary(min_size=1, max_size=8)) + whole[place:]


@given(data=st.data())
def test_the_software_keystore_takes_any_bytes_for_a_key_file(software_key, data):
    pem = damaged(data, software_key.pem)
    key = WrappedKey(pem, software_key.public, software_key.spki, SOFTWARE)
    try:
        signature = SoftwareTpm(bytes(32)).sign(key, QUICK, bytes(32), auth=b"auth")
    except TpmRefusedError:
        return
    assert len(signature) == 64


@given(pem=st.binary(max_size=100).map(lambda body: b"-----BEGIN PRIVATE KEY-----\n" + body + b"\n-----END PRIVATE KEY-----\n"))
def test_the_software_keystore_takes_any_pem_for_a_key_file(software_key, pem):
    with pytest.raises(TpmRefusedError):
        SoftwareTpm(bytes(32)).sign(WrappedKey(pem, b"p", b"s", SOFTWARE), QUICK, bytes(32), auth=b"auth")


@pytest.fixture
def tpm(swtpm):
    from bus.tpm.esapi import EsapiTpm

    chip = EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM)
    yield chip
    chip.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_tpm_takes_any_bytes_for_a_key_file(tpm, data):
    if not hasattr(tpm, "whole"):
        tpm.whole = tpm.create(QUICK, auth=b"auth")
    pem, public = tpm.whole.pem, tpm.whole.public
    if data.draw(st.booleans()):
        pem = damaged(data, pem)
    else:
        public = damaged(data, public)
    try:
        signature = tpm.sign(WrappedKey(pem, public, tpm.whole.spki, SOFTWARE_TPM), QUICK, bytes(32), auth=b"auth")
    except TpmError:
        return
    assert len(signature) == 64


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_a_tpm_takes_any_bytes_for_what_was_sealed(tpm, data):
    blob = damaged(data, tpm.seal(b"secret", pcrs=[]))
    try:
        assert tpm.unseal(blob) == b"secret"
    except TpmError:
        return


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(credential=st.binary(max_size=100), secret=st.binary(max_size=300), sized=st.booleans())
def test_a_tpm_takes_any_bytes_for_a_credential(tpm, credential, secret, sized):
    if not hasattr(tpm, "attester"):
        tpm.attester = tpm.create(None, auth=b"auth")
    if sized:
        credential, secret = (len(data).to_bytes(2, "big") + data for data in (credential, secret))
    with pytest.raises(TpmRefusedError):
        tpm.activate(tpm.attester, credential=credential, secret=secret, attester_auth=b"auth")
