"""Where keys lie: nothing half-written, nothing lost, and every kind of damage with its own name."""

from __future__ import annotations

import json
import os
import resource
import shutil
import stat
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from bus.errors import TpmRefusedError, VaultError
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock
from bus.testing.tpm_check import check_proof
from bus.tpm.interface import SOFTWARE_TPM
from bus.tpm.keyring import Keyring
from bus.tpm.vault import FolderVault, MemoryVault, derive_auth

QUICK = IDENTITY_SUITES["ecc256/sha256"]


def keyring_of(vault) -> Keyring:
    chip = FakeTpm()
    return Keyring(vault, ManualClock(), {SOFTWARE_TPM: chip}, {SOFTWARE_TPM: chip.facts().primary_name})


def sign(keyring, key="ALPHA"):
    loaded = keyring.open(key)
    (proof,) = keyring.sign(loaded, loaded.signer, [(Purpose.ENVELOPE, bytes(32))])
    check_proof(proof, loaded.info, Purpose.ENVELOPE, bytes(32))


def names_in(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A vault with two keys, ALPHA and BETA."""
    keyring = keyring_of(FolderVault(tmp_path / "vault"))
    for name in ("ALPHA", "BETA"):
        keyring.create(name, QUICK, SOFTWARE_TPM)
    return tmp_path / "vault"


# ---- what lies there -----------------------------------------------------------------------------------------------------------


def test_a_vault_is_its_index_its_secret_and_two_files_for_each_key(folder):
    assert names_in(folder) == {"lock", "secret", "index.json", "ALPHA.1.pem", "ALPHA.1.pub", "BETA.1.pem", "BETA.1.pub"}
    assert [line["name"] for line in json.loads((folder / "index.json").read_bytes())["keys"]] == ["ALPHA", "BETA"]


def test_nobody_else_can_read_it(folder, tmp_path):
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    open_to_all = tmp_path / "open"
    open_to_all.mkdir(mode=0o777)
    FolderVault(open_to_all)
    assert stat.S_IMODE(open_to_all.stat().st_mode) == 0o700


def test_what_is_written_is_read_by_another(folder):
    first, second = FolderVault(folder), FolderVault(folder)
    made = keyring_of(first).create("GAMMA", QUICK, SOFTWARE_TPM)
    assert made in [entry.info for entry in second.entries()]
    sign(keyring_of(second), "GAMMA")
    keyring_of(second).rotate("GAMMA", keep_until_ms=0, suite=None)
    assert [entry.info.id for entry in first.entries()] == ["ALPHA.1", "BETA.1", "GAMMA.1", "GAMMA.2"]


def test_auth_values_differ_by_key_generation_and_vault_and_can_be_typed(folder):
    infos = [entry.info for entry in FolderVault(folder).entries()]
    auths = {derive_auth(secret, info) for secret in (bytes(32), b"\1" * 32) for info in infos}
    assert len(auths) == 4
    for auth in auths:
        assert len(auth) == 32
        assert auth.decode().isprintable()
        assert b"\0" not in auth


def test_a_vault_in_memory_does_the_same():
    vault = MemoryVault()
    keyring = keyring_of(vault)
    keyring.create("ALPHA", QUICK, SOFTWARE_TPM)
    keyring.rotate("ALPHA", keep_until_ms=2**60, suite=None)
    sign(keyring, "ALPHA")
    sign(keyring, "ALPHA.1")
    assert [entry.info.id for entry in vault.entries()] == ["ALPHA.1", "ALPHA.2"]


# ---- damage --------------------------------------------------------------------------------------------------------------------


def cut(path):
    path.write_bytes(path.read_bytes()[:-7])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def swap(path):
    """Another key's file, whole and in order."""
    path.write_bytes(path.with_name(path.name.replace("ALPHA", "BETA")).read_bytes())


def remove(path):
    path.unlink()


def make_a_folder(path):
    path.unlink()
    path.mkdir()


def swell(path):
    """To more than there is memory, without taking room on the disk."""
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("kind", ["pem", "pub"])
@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (swell, "damaged"),
        (cut, "damaged"),
        (empty, "damaged"),
        (flip, "damaged"),
        (swap, "damaged"),
        (remove, "missing"),
        (make_a_folder, "disk"),
    ],
)
def test_a_damaged_key_file_has_its_own_error_and_the_other_keys_sign_on(folder, kind, damage, code):
    path = folder / f"ALPHA.1.{kind}"
    whole = path.read_bytes()
    damage(path)
    keyring = keyring_of(FolderVault(folder))
    with pytest.raises(VaultError) as caught:
        sign(keyring, "ALPHA")
    assert (caught.value.code, caught.value.path) == (code, str(path))
    sign(keyring, "BETA")
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)  # restored from a backup
    sign(keyring, "ALPHA")


def test_what_another_thread_read_late_undoes_no_change(tmp_path):
    """Threads read without a lock, so one may put back an older index while another adds to it."""
    vault = FolderVault(tmp_path)
    keyring_of(vault).create("ALPHA", QUICK, SOFTWARE_TPM)
    old = vault._read_last
    keyring_of(vault).create("BETA", QUICK, SOFTWARE_TPM)
    with vault.writing():
        vault._read_last = old
        vault.update([replace(old.entries["ALPHA.1"], tpm="x")])
    assert {entry.info.name: entry.tpm for entry in FolderVault(tmp_path).entries()} == {"ALPHA": "x", "BETA": ""}


def test_an_index_says_which_tpm_a_key_is_in_and_is_of_version_2_only_where_it_does(folder):
    vault = FolderVault(folder)
    assert json.loads((folder / "index.json").read_text())["version"] == 1
    entry = vault.entries()[0]
    vault.update([replace(entry, tpm="swtpm-2")])
    assert json.loads((folder / "index.json").read_text())["version"] == 2
    assert next(found.tpm for found in FolderVault(folder).entries() if found.info.id == entry.info.id) == "swtpm-2"
    document = json.loads((folder / "index.json").read_text())
    document["keys"][0]["tpm"] = ["swtpm"]
    (folder / "index.json").write_text(json.dumps(document))
    with pytest.raises(VaultError) as caught:
        FolderVault(folder)
    assert caught.value.code == "damaged"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"null", "damaged"),
        (b"[]", "damaged"),
        (b"[" * 100_000, "damaged"),
        (b'{"keys": []}', "damaged"),
        (b'{"version": 1}', "damaged"),
        (b'{"version": 1, "keys": 5}', "damaged"),
        (b'{"version": 1, "keys": [{}]}', "damaged"),
        (b'{"version": 1, "keys": [["name", "ALPHA"]]}', "damaged"),
        (b'{"version": 1, "keys": ["name"]}', "damaged"),
        (b'{"version": 2, "keys": {"ALPHA": {}}}', "damaged"),
        (b'{"version": 3, "keys": {"ALPHA": {}}}', "version"),
        (b'{"version": "1", "keys": []}', "version"),
    ],
)
def test_a_damaged_index_has_its_own_error_and_no_key_file_is_swept_away(folder, text, code):
    index, before = folder / "index.json", names_in(folder)
    open_before = FolderVault(folder)
    whole = index.read_bytes()
    index.write_bytes(text)
    for read in (lambda: FolderVault(folder), open_before.entries):
        with pytest.raises(VaultError) as caught:
            read()
        assert (caught.value.code, caught.value.path) == (code, str(index))
    with pytest.raises(VaultError):
        keyring_of(open_before).create("GAMMA", QUICK, SOFTWARE_TPM)
    assert names_in(folder) == before
    index.write_bytes(whole)
    sign(keyring_of(FolderVault(folder)))
    sign(keyring_of(open_before))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 5),
        ("name", "../../etc/passwd"),
        ("name", "alpha"),
        ("generation", "1"),
        ("generation", 0),
        ("generation", -1),
        ("generation", 1.5),
        ("generation", True),
        ("suite", "ecc512/sha512"),
        ("suite", ["ecc256/sha256"]),
        ("origin", "paper"),
        ("origin", {}),
        ("spki", 5),
        ("spki", "?"),
        ("public", None),
        ("created_ms", "yesterday"),
        ("ends_ms", "never"),
        ("ends_ms", False),
        ("parent", "xyz"),
        ("pem_sha256", 7),
        ("another", 1),
    ],
)
def test_an_index_that_says_what_nobody_writes_is_damaged(folder, field, value):
    index = folder / "index.json"
    document = json.loads(index.read_bytes())
    document["keys"][0][field] = value
    index.write_text(json.dumps(document))
    with pytest.raises(VaultError) as caught:
        FolderVault(folder)
    assert caught.value.code == "damaged"


def test_a_public_key_in_the_index_that_is_none_is_damage(folder):
    index = folder / "index.json"
    document = json.loads(index.read_bytes())
    document["keys"][0]["spki"] = document["keys"][0]["spki"][:40]
    index.write_text(json.dumps(document))
    keyring = keyring_of(FolderVault(folder))
    with pytest.raises(VaultError) as caught:
        keyring.open("ALPHA")
    assert caught.value.code == "damaged"
    sign(keyring, "BETA")


def test_an_index_that_is_gone_is_not_taken_for_an_empty_vault(folder):
    """Else the first thing that happened to all the keys would be to be swept away."""
    index, before = folder / "index.json", names_in(folder)
    whole = index.read_bytes()
    index.unlink()
    with pytest.raises(VaultError) as caught:
        FolderVault(folder)
    assert (caught.value.code, caught.value.path) == ("missing", str(index))
    assert names_in(folder) == before - {"index.json"}
    index.write_bytes(whole)
    sign(keyring_of(FolderVault(folder)))


def test_an_index_that_goes_while_it_is_open_is_missed(folder):
    vault = FolderVault(folder)
    (folder / "index.json").unlink()
    with pytest.raises(VaultError) as caught:
        vault.entries()
    assert caught.value.code == "missing"
    with pytest.raises(VaultError):
        keyring_of(vault).create("GAMMA", QUICK, SOFTWARE_TPM)


@pytest.mark.parametrize(
    ("damage", "code"), [(swell, "damaged"), (cut, "damaged"), (empty, "damaged"), (remove, "missing"), (make_a_folder, "disk")]
)
def test_a_damaged_secret_has_its_own_error_and_no_new_one_is_made(folder, damage, code):
    path, vault = folder / "secret", FolderVault(folder)
    whole = path.read_bytes()
    damage(path)
    for use in (vault.secret, lambda: vault.auth(vault.entries()[0].info), lambda: FolderVault(folder).secret()):
        with pytest.raises(VaultError) as caught:
            use()
        assert (caught.value.code, caught.value.path) == (code, str(path))
    if path.is_dir():
        path.rmdir()
    path.write_bytes(whole)
    sign(keyring_of(FolderVault(folder)))


def test_another_secret_opens_no_key(folder):
    (folder / "secret").write_bytes(b"x" * 32)
    with pytest.raises(TpmRefusedError) as caught:
        sign(keyring_of(FolderVault(folder)))
    assert caught.value.code == "auth_fail"


def test_a_place_that_is_no_folder_has_its_own_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(VaultError) as caught:
        FolderVault(tmp_path / "file")
    assert caught.value.code == "disk"


# ---- what killed writers left --------------------------------------------------------------------------------------------------


def test_what_no_index_entry_names_is_set_aside_and_nothing_is_destroyed(folder):
    for name in (".index.json.0a1b2c3d.new", ".GAMMA.1.pem.0a1b2c3d.new", ".secret.0a1b2c3d.new"):
        (folder / name).write_bytes(b"half")
    for name in ("GAMMA.1.pem", "GAMMA.1.pub", "ALPHA.2.pem", "attestation.1.pub"):
        (folder / name).write_bytes(b"half")
    for name in ("README", "ALPHA.1.pem.backup", "alpha.1.pem", "GAMMA.0.pem"):
        (folder / name).write_bytes(b"somebody's own")
    before = FolderVault(folder)
    assert names_in(folder) == {
        "lock", "secret", "index.json", "ALPHA.1.pem", "ALPHA.1.pub", "BETA.1.pem", "BETA.1.pub",
        "README", "ALPHA.1.pem.backup", "alpha.1.pem", "GAMMA.0.pem", "aside",
    }  # fmt: skip
    kept = {name.rsplit(".", 1)[0] for name in names_in(folder / "aside")}
    assert kept == {"GAMMA.1.pem", "GAMMA.1.pub", "ALPHA.2.pem", "attestation.1.pub"}
    assert all(path.read_bytes() == b"half" for path in (folder / "aside").iterdir())
    sign(keyring_of(before))


def test_what_somebody_else_is_writing_in_the_same_folder_stays(folder):
    """A broker's folder is its vault too, and a hub opens that while the broker replaces its memory beside it."""
    (folder / ".memory.json.0a1b2c3d.new").write_bytes(b"nearly whole")
    FolderVault(folder)
    assert (folder / ".memory.json.0a1b2c3d.new").read_bytes() == b"nearly whole"


def test_an_older_index_that_was_restored_costs_no_key(folder):
    older = (folder / "index.json").read_bytes()
    keyring_of(FolderVault(folder)).create("GAMMA", QUICK, SOFTWARE_TPM)
    newer = (folder / "index.json").read_bytes()
    files = {name: (folder / name).read_bytes() for name in ("GAMMA.1.pem", "GAMMA.1.pub")}
    (folder / "index.json").write_bytes(older)
    FolderVault(folder)
    for path in (folder / "aside").iterdir():
        path.rename(folder / path.name.rsplit(".", 1)[0])
    (folder / "index.json").write_bytes(newer)
    assert {name: (folder / name).read_bytes() for name in files} == files
    sign(keyring_of(FolderVault(folder)), "GAMMA")


def test_two_writers_in_one_process_make_no_key_twice(folder):
    made, failed = [], []

    def write(number):
        try:
            keyring = keyring_of(FolderVault(folder))
            made.extend(keyring.create(f"AGENT{n}", QUICK, SOFTWARE_TPM).spki for n in range(15))
        except Exception as error:  # noqa: BLE001  a thread's error would be lost
            failed.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert len(made) == 45
    assert len(set(made)) == 15
    assert len(FolderVault(folder).entries()) == 17


# ---- a full disk ---------------------------------------------------------------------------------------------------------------


@contextmanager
def files_no_larger_than(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_finds_no_room_leaves_all_as_it_was(folder):
    """Wherever it stops: in the first file of a key, in the second one, in the index."""
    vault = FolderVault(folder)
    keyring, before, stopped = keyring_of(vault), names_in(folder), 0
    infos = keyring.infos()
    for room in range(0, 1_600, 100):
        with files_no_larger_than(room), pytest.raises(VaultError) as caught:
            keyring.create("GAMMA", QUICK, SOFTWARE_TPM)
        assert caught.value.code == "disk_full"
        stopped += 1
        assert keyring.infos() == infos == [entry.info for entry in FolderVault(folder).entries()]
        assert names_in(folder) == before
        with files_no_larger_than(room), pytest.raises(VaultError) as caught:
            keyring.rotate("ALPHA", keep_until_ms=0, suite=None)
        assert caught.value.code == "disk_full"
        sign(keyring)
    assert stopped == 16
    assert keyring.create("GAMMA", QUICK, SOFTWARE_TPM).id == "GAMMA.1"
    sign(keyring, "GAMMA")
    sign(keyring_of(FolderVault(folder)), "GAMMA")


def test_a_new_vault_that_finds_no_room_can_be_made_later(tmp_path):
    for room in (0, 8, 31):
        with files_no_larger_than(room), pytest.raises(VaultError) as caught:
            FolderVault(tmp_path / "vault")
        assert caught.value.code == "disk_full"
    keyring = keyring_of(FolderVault(tmp_path / "vault"))
    keyring.create("ALPHA", QUICK, SOFTWARE_TPM)
    sign(keyring)


@pytest.fixture
def small_disk(tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() or shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_is_told_and_goes_on_when_there_is_room(small_disk):
    keyring, made = keyring_of(FolderVault(small_disk / "vault")), []
    with pytest.raises(VaultError) as caught:
        made.extend(keyring.create(f"AGENT{number}", QUICK, SOFTWARE_TPM) for number in range(100))
    assert caught.value.code == "disk_full"
    assert len(made) >= 2
    assert keyring.infos() == made
    for info in made:
        sign(keyring_of(FolderVault(small_disk / "vault")), info.name)
    subprocess.run(["mount", "-o", "remount,size=1m", str(small_disk)], check=True)
    for number in range(20):
        keyring.create(f"AGENT{number}", QUICK, SOFTWARE_TPM)
    assert [info for info in keyring.infos() if info in made] == sorted(made, key=lambda info: info.id)
    assert {info.generation for info in keyring.infos()} == {1}
