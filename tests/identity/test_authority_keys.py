"""The authority's keys at rest: who opens them, who does not, and what each kind of damage is called."""

from __future__ import annotations

import json
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from authorities import DOMAIN, PASSPHRASE, copied, enroll, opened

from bus.errors import ClosedError, StateInUseError, VaultError
from bus.identity.authority import Passphrase, TpmSeal, change_protection, open_authority
from bus.testing import FakeTpm, ManualClock
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE_TPM
from bus.tpm.vault import MemoryVault

pytestmark = pytest.mark.anyio

OTHER = Passphrase("battery staple", log_n=10)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority") / "trust"
    with opened(folder) as authority:
        enroll(authority)
        authority.sign_statement(b"")
    return folder


@pytest.fixture
def folder(made, tmp_path):
    return copied(made, tmp_path / "trust")


async def root_of(folder, *, protection=PASSPHRASE, domain=DOMAIN):
    async with open_authority(folder, domain=domain, protection=protection, clock=ManualClock()) as authority:
        return authority.root


async def refused(code, folder, **how):
    with pytest.raises(VaultError) as caught:
        await root_of(folder, **how)
    assert caught.value.code == code
    assert Path(caught.value.path).is_relative_to(folder)


async def in_a_thread(call, *arguments):
    return await anyio.to_thread.run_sync(call, *arguments)


def edit(path, **changes):
    document = json.loads(path.read_bytes())
    path.write_text(json.dumps(document | changes))


# ---- who opens them --------------------------------------------------------------------------------------------------------------


async def test_the_passphrase_opens_them_and_no_other_does(folder):
    root = await root_of(folder)
    assert await root_of(folder) == root
    await refused("wrong_passphrase", folder, protection=OTHER)


async def test_the_same_letters_typed_on_another_keyboard_open_them(tmp_path):
    root = await root_of(tmp_path / "trust", protection=Passphrase("Schlüssel", log_n=10))
    assert await root_of(tmp_path / "trust", protection=Passphrase("Schlu\u0308ssel", log_n=10)) == root


async def test_a_tpm_opens_what_it_sealed(tmp_path):
    async with Engine(FakeTpm, MemoryVault()) as engine:
        root = await root_of(tmp_path / "trust", protection=TpmSeal(engine))
        assert await root_of(tmp_path / "trust", protection=TpmSeal(engine)) == root
        await refused("wrong_protection", tmp_path / "trust")


async def test_a_passphrase_is_asked_for_where_there_was_one(folder):
    async with Engine(FakeTpm, MemoryVault()) as engine:
        await refused("wrong_protection", folder, protection=TpmSeal(engine))


async def test_another_tpm_does_not_open_them(tmp_path, swtpm, runtime):
    from bus.tpm.esapi import EsapiTpm
    from bus.tpm.swtpm import Swtpm, manufacture

    async with Engine(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), MemoryVault()) as engine:
        root = await root_of(tmp_path / "trust", protection=TpmSeal(engine))
        assert await root_of(tmp_path / "trust", protection=TpmSeal(engine)) == root
    await in_a_thread(manufacture, tmp_path / "another")
    another = Swtpm(tmp_path / "another", socket_path=runtime / "other.sock")
    await in_a_thread(another.start)
    try:
        async with Engine(lambda: EsapiTpm(another.tcti, origin=SOFTWARE_TPM), MemoryVault()) as engine:
            await refused("wrong_tpm", tmp_path / "trust", protection=TpmSeal(engine))
    finally:
        await in_a_thread(another.stop)


async def test_what_the_tpm_sealed_cannot_be_swapped_for_something_else(tmp_path):
    folder = tmp_path / "trust"
    async with Engine(FakeTpm, MemoryVault()) as engine:
        await root_of(folder, protection=TpmSeal(engine))
        path, sealed = folder / "private" / "protection.json", await engine.seal(b"k" * 32)
        for blob, code in ((sealed, "damaged"), (await engine.seal(b"k" * 31), "damaged"), (b"no blob at all", "wrong_tpm")):
            edit(path, sealed=b64encode(blob).decode())
            await refused(code, folder, protection=TpmSeal(engine))


# ---- changing the protection -----------------------------------------------------------------------------------------------------


async def test_the_passphrase_changes_and_nothing_else(folder):
    root = await root_of(folder)
    files = {path: path.read_bytes() for path in folder.rglob("*.key")}
    await change_protection(folder, before=PASSPHRASE, after=OTHER)
    assert await root_of(folder, protection=OTHER) == root
    await refused("wrong_passphrase", folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.key")} == files


async def test_it_moves_from_a_passphrase_to_a_tpm_and_back(folder):
    root = await root_of(folder)
    async with Engine(FakeTpm, MemoryVault()) as engine:
        await change_protection(folder, before=PASSPHRASE, after=TpmSeal(engine))
        assert await root_of(folder, protection=TpmSeal(engine)) == root
        await change_protection(folder, before=TpmSeal(engine), after=OTHER)
    assert await root_of(folder, protection=OTHER) == root


async def test_who_cannot_open_them_changes_nothing(folder, tmp_path):
    for place, code in ((folder, "wrong_passphrase"), (tmp_path / "empty", "missing")):
        with pytest.raises(VaultError) as caught:
            await change_protection(place, before=OTHER, after=OTHER)
        assert caught.value.code == code
    await root_of(folder)


# ---- what lies there -------------------------------------------------------------------------------------------------------------


async def test_no_private_key_lies_there_in_clear(folder):
    for path in (folder / "private").iterdir():
        data = path.read_bytes()
        assert b"PRIVATE" not in data
        assert b"0\x82" not in data, "DER of some length"
    assert {path.name for path in (folder / "private").glob("*.key")} > {"root.key", "ml-dsa.key"}


async def test_two_files_of_the_same_key_have_nothing_in_common(folder):
    async with open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=ManualClock()) as authority:
        first = json.loads((folder / "private" / "root.key").read_bytes())
        private = await in_a_thread(authority._files.load, "root")
        await in_a_thread(authority._files.save, "root", private)
        second = json.loads((folder / "private" / "root.key").read_bytes())
        assert await in_a_thread(authority._files.load, "root") == private
    assert first["nonce"] != second["nonce"]
    assert first["ciphertext"] != second["ciphertext"]


async def test_nothing_secret_shows(folder):
    async with open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=ManualClock()) as authority:
        shown = [repr(one) for one in (PASSPHRASE, authority, authority._keys, authority._files, TpmSeal(None))]
    assert "correct" not in "".join(shown)
    assert max(map(len, shown)) < 200


@pytest.mark.parametrize("wrong", [{"text": ""}, {"text": "x", "log_n": 9}, {"text": "x", "log_n": 21}])
def test_a_passphrase_that_protects_nothing_is_a_mistake(wrong):
    with pytest.raises(ValueError, match=r"protects nothing|cost"):
        Passphrase(**wrong)


# ---- damage ----------------------------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def empty(path):
    path.write_bytes(b"")


def no_object(path):
    path.write_bytes(b"[1]")


def newer(path):
    edit(path, version=2)


def remove(path):
    path.unlink()


def make_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", ["protection.json", "root.key", "ml-dsa.key"])
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (cut, "damaged"),
        (empty, "damaged"),
        (no_object, "damaged"),
        (newer, "version"),
        (remove, "missing"),
        (make_a_folder, "disk"),
    ],
)
async def test_damage_has_a_name_of_its_own_and_nothing_is_made_anew(folder, name, damage, code):
    path = folder / "private" / name
    whole = path.read_bytes()
    damage(path)
    await refused(code, folder)
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)
    await root_of(folder)


async def test_another_keys_file_is_damage(folder):
    """Each key is encrypted under its own, which its name is part of."""
    private = folder / "private"
    (private / "ml-dsa.key").write_bytes((private / "root.key").read_bytes())
    await refused("damaged", folder)


async def test_another_authoritys_whole_keys_are_damage(folder, tmp_path):
    await root_of(tmp_path / "other")
    for name in ("protection.json", "root.key", "ml-dsa.key"):
        (folder / "private" / name).write_bytes((tmp_path / "other" / "private" / name).read_bytes())
    await refused("missing", folder)


@pytest.mark.parametrize("change", [{"log_n": 40}, {"log_n": 9}, {"r": 2**20}, {"p": 0}, {"log_n": "17"}, {"salt": "?"}])
async def test_parameters_that_would_take_all_memory_are_damage(folder, change):
    path = folder / "private" / "protection.json"
    edit(path, scrypt=json.loads(path.read_bytes())["scrypt"] | change)
    await refused("damaged", folder)


async def test_a_lost_trust_signer_is_replaced(folder):
    for path in (folder / "private").glob("trust-*.key"):
        path.unlink()
    async with open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=ManualClock()) as authority:
        assert len(authority.issued()) == 2
        with_a_new_key = await in_a_thread(authority.sign_statement, b"")
        assert len(authority.issued()) == 3
        assert authority.issued()[-1][0].der == with_a_new_key.signer


# ---- whose folder it is ----------------------------------------------------------------------------------------------------------


async def test_it_is_of_one_domain(folder):
    await refused("wrong_domain", folder, domain="other.test")


def test_one_process_has_it_and_says_who(folder):
    program = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[2]); from authorities import opened\n"
        "with opened(Path(sys.argv[1])):\n    print('open', flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", program, str(folder), str(Path(__file__).parent)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"open\n"
            with pytest.raises(StateInUseError) as caught, opened(folder):
                pass
            assert caught.value.pid == process.pid
            assert caught.value.step, "it listens nowhere: nobody can be sent there"
        finally:
            process.kill()
    with opened(folder):
        pass


async def test_it_is_free_again_after_an_opening_that_failed(folder):
    await refused("wrong_passphrase", folder, protection=OTHER)
    await root_of(folder)
    async with open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=ManualClock()) as authority:
        pass
    with pytest.raises(ClosedError):
        await in_a_thread(authority.next_statement_number)
