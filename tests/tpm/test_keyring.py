"""Named keys: generations, rotation, and keys that were there before."""

from __future__ import annotations

import random

import pytest

from bus.errors import TpmRefusedError, VaultError
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock
from bus.testing.tpm_check import check_proof
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM
from bus.tpm.keyring import KEEP_RETIRED_MS, Keyring
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import FolderVault, MemoryVault

P256, P384 = IDENTITY_SUITES["ecc256/sha256"], IDENTITY_SUITES["ecc384/sha384"]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def keyring(clock) -> Keyring:
    parents = {SOFTWARE_TPM: FakeTpm().facts().primary_name}
    return Keyring(MemoryVault(), clock, {SOFTWARE_TPM: FakeTpm(), SOFTWARE: SoftwareTpm(bytes(32))}, parents)


def sign(keyring, key, content=bytes(32)):
    loaded = keyring.open(key)
    (proof,) = keyring.sign(loaded, loaded.signer, [(Purpose.ENVELOPE, content)])
    check_proof(proof, loaded.info, Purpose.ENVELOPE, content)
    return loaded.info


def test_a_key_that_is_there_is_not_made_again(keyring):
    first = keyring.create("ALPHA", P256, SOFTWARE_TPM)
    assert keyring.create("ALPHA", P256, SOFTWARE_TPM) == first
    assert keyring.chips[SOFTWARE_TPM].operations == 1


def test_another_suite_makes_a_new_generation_and_the_old_one_signs_on_for_a_week(keyring, clock):
    old = keyring.create("ALPHA", P256, SOFTWARE_TPM)
    new = keyring.create("ALPHA", P384, SOFTWARE_TPM)
    assert (new.id, new.suite, new.ends_ms) == ("ALPHA.2", "ecc384/sha384", None)
    assert sign(keyring, "ALPHA", bytes(48)).id == "ALPHA.2"
    assert sign(keyring, old.id).ends_ms == clock.now_ms() + KEEP_RETIRED_MS
    clock.advance(KEEP_RETIRED_MS / 1000)
    with pytest.raises(TpmRefusedError) as caught:
        keyring.open(old.id)
    assert caught.value.code == "key_ended"


def test_a_rollout_that_goes_back_and_forth_uses_the_same_two_keys(keyring, clock):
    seen = set()
    for origin in (SOFTWARE, SOFTWARE_TPM) * 4:
        info = keyring.create("ALPHA", P256, origin)
        assert info.origin == origin
        assert info.ends_ms is None
        assert sign(keyring, "ALPHA") == info
        seen.add(info.id)
        clock.advance(3600)
    assert seen == {"ALPHA.1", "ALPHA.2"}
    assert [info.id for info in keyring.infos() if info.ends_ms is None] == ["ALPHA.2"]


def test_a_key_that_has_ended_does_not_come_back(keyring, clock):
    keyring.create("ALPHA", P256, SOFTWARE)
    keyring.create("ALPHA", P256, SOFTWARE_TPM)
    clock.advance(KEEP_RETIRED_MS / 1000 + 1)
    assert keyring.create("ALPHA", P256, SOFTWARE).id == "ALPHA.3"


def test_rotation_keeps_suite_and_origin_and_may_change_the_suite(keyring, clock):
    keyring.create("ALPHA", P256, SOFTWARE)
    until = clock.now_ms() + 1000
    assert keyring.rotate("ALPHA", keep_until_ms=until, suite=None).suite == "ecc256/sha256"
    newest = keyring.rotate("ALPHA", keep_until_ms=until + 1000, suite=P384)
    assert (newest.id, newest.suite, newest.origin) == ("ALPHA.3", "ecc384/sha384", SOFTWARE)
    assert [(info.generation, info.ends_ms) for info in keyring.infos()] == [(1, until), (2, until + 1000), (3, None)]
    clock.advance(1.0)
    sign(keyring, "ALPHA.2")
    with pytest.raises(TpmRefusedError):
        keyring.open("ALPHA.1")


@pytest.mark.parametrize("name", ["alpha", "", "ALPHA.1", "ALPHA.", "../ALPHA", "A" * 33, "attestation", "ÄLPHA", "ALPHA\n"])
def test_only_agents_names_are_made_and_rotated(keyring, name):
    """An attestation key that was rotated into an ordinary one would vouch for anything; `ALPHA.1` has no generations."""
    keyring.create("ALPHA", P256, SOFTWARE_TPM)
    keyring.vault.add(*attestation_entry(keyring))
    before = keyring.infos()
    with pytest.raises(ValueError, match="agent name"):
        keyring.create(name, P256, SOFTWARE_TPM)
    with pytest.raises(TpmRefusedError) as caught:
        keyring.rotate(name, keep_until_ms=0, suite=None)
    assert caught.value.code == "unknown_key"
    assert keyring.infos() == before


def attestation_entry(keyring):
    """What `attester` would keep, if the fake could attest."""
    from dataclasses import replace

    entry = keyring.vault.entries()[0]
    return replace(entry, info=replace(entry.info, name="attestation")), keyring.vault.read(entry)


@pytest.mark.parametrize(
    "key", ["BETA", "ALPHA.2", "ALPHA.0", "ALPHA.01", "ALPHA.", "ALPHA.1.1", "ALPHA.x", "", ".", ".1", "alpha", "ALPHA .1"]
)
def test_a_key_that_is_not_there_has_no_other_name(keyring, key):
    keyring.create("ALPHA", P256, SOFTWARE_TPM)
    assert keyring.open("ALPHA").info == keyring.open("ALPHA.1").info
    with pytest.raises(TpmRefusedError) as caught:
        keyring.open(key)
    assert caught.value.code == "unknown_key"


def test_a_key_whose_place_is_not_open_here_is_refused(keyring):
    keyring.create("ALPHA", P256, SOFTWARE)
    del keyring.chips[SOFTWARE]
    with pytest.raises(TpmRefusedError) as caught:
        sign(keyring, "ALPHA")
    assert caught.value.code == "wrong_origin"
    with pytest.raises(TpmRefusedError) as caught:
        keyring.create("BETA", P256, "hardware")
    assert caught.value.code == "wrong_origin"


def test_a_key_of_another_tpm_is_refused_and_replaced_only_when_that_is_asked_for(tmp_path, clock):
    chip = FakeTpm()
    Keyring(FolderVault(tmp_path), clock, {SOFTWARE_TPM: chip}, {SOFTWARE_TPM: b"the old primary"}).create(
        "ALPHA", P256, SOFTWARE_TPM
    )
    other = Keyring(FolderVault(tmp_path), clock, {SOFTWARE_TPM: chip}, {SOFTWARE_TPM: b"the new primary"})
    with pytest.raises(VaultError) as caught:
        other.open("ALPHA")
    assert caught.value.code == "wrong_tpm"
    for suite in (P256, P384):
        with pytest.raises(VaultError) as caught:
            other.create("ALPHA", suite, SOFTWARE_TPM)
        assert caught.value.code == "wrong_tpm"
    assert other.rotate("ALPHA", keep_until_ms=clock.now_ms(), suite=None).id == "ALPHA.2"
    assert other.create("ALPHA", P256, SOFTWARE_TPM).id == "ALPHA.2"
    sign(other, "ALPHA")


@pytest.mark.parametrize("verb", ["create", "rotate"])
def test_who_was_slower_makes_nothing_in_place_of_the_others_key(verb, tmp_path, clock):
    """Nobody holds the vault while a chip works, so another process may make the next generation meanwhile."""
    chip, parents = FakeTpm(), {SOFTWARE_TPM: FakeTpm().facts().primary_name}
    mine = Keyring(FolderVault(tmp_path), clock, {SOFTWARE_TPM: chip}, parents)
    other = Keyring(FolderVault(tmp_path), clock, {SOFTWARE_TPM: FakeTpm()}, parents)
    if verb == "create":
        chip.faults.append(lambda: other.create("ALPHA", P256, SOFTWARE_TPM))
        assert mine.create("ALPHA", P256, SOFTWARE_TPM) == other.open("ALPHA").info
        assert [info.id for info in mine.infos()] == ["ALPHA.1"]
    else:
        mine.create("ALPHA", P256, SOFTWARE_TPM)
        chip.faults.append(lambda: other.rotate("ALPHA", keep_until_ms=0, suite=None))
        assert mine.rotate("ALPHA", keep_until_ms=0, suite=None).id == "ALPHA.3"
    assert sign(mine, "ALPHA") == sign(other, "ALPHA")


def test_a_name_has_one_current_key_whatever_happens(keyring, clock):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    keyring.create("ALPHA", P256, SOFTWARE)
    for _ in range(60):
        match dice.randrange(3):
            case 0:
                wanted = dice.choice([P256, P384]), dice.choice([SOFTWARE, SOFTWARE_TPM])
                info = keyring.create("ALPHA", *wanted)
                assert (info.suite, info.origin, info.ends_ms) == (wanted[0].name, wanted[1], None)
            case 1:
                keyring.rotate("ALPHA", keep_until_ms=clock.now_ms() + dice.randrange(-5, KEEP_RETIRED_MS), suite=None)
            case 2:
                clock.advance(dice.choice([1, 3600, 24 * 3600 * 5]))
        infos = keyring.infos()
        assert [info.ends_ms for info in infos].count(None) == 1
        assert sorted(info.generation for info in infos) == list(range(1, len(infos) + 1))
        sign(keyring, "ALPHA", bytes(IDENTITY_SUITES[keyring.open("ALPHA").info.suite].digest_bytes))


def test_keys_are_remembered_in_bounded_number(keyring, monkeypatch):
    monkeypatch.setattr("bus.tpm.keyring._CACHED_KEYS", 3)
    for number in range(6):
        keyring.create(f"ALPHA{number}", P256, SOFTWARE_TPM)
        sign(keyring, f"ALPHA{number}")
        sign(keyring, "ALPHA0")
    assert set(keyring._loaded) == {"ALPHA0.1", "ALPHA4.1", "ALPHA5.1"}
