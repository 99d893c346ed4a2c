"""The inbox key's whole life: nothing that was sealed to one is lost before its time, and nothing opens after it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from bus.errors import TpmUnavailableError, VaultError, VerificationError
from bus.identity.inbox import Inbox, InboxFolder, Signer, keep_inbox, place_of
from bus.identity.inbox_record import Why
from bus.protocol import kem
from bus.protocol.papers import InboxCertificate
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import MemoryVault

sys.path.insert(0, str(Path(__file__).parent))

from inboxes import DAY, IN_SOFTWARE, IN_THE_FAKE, NOW, identity, wanted  # it lies beside this file

pytestmark = pytest.mark.anyio


@pytest.fixture
def clock():
    return ManualClock(ms=NOW)


@pytest.fixture
def chip():
    return FakeTpm()


@pytest.fixture
def engine(chip):
    return Engine(lambda: chip, MemoryVault(), software=SoftwareTpm(bytes(32)))


@pytest.fixture
def folder(tmp_path):
    return InboxFolder(tmp_path / "inbox")


def sealed_to(key):
    return kem.seal(key.body.kem, key.body.kem_key, b"a message", b"info")


async def on_disk(folder):
    return await to_thread.run_sync(folder.read, "MONITOR")


async def opens(inbox, key):
    private = await inbox.private(key.id)
    return private is not None and private.open(sealed_to(key), b"info") == b"a message"


# ---- made ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kem.X25519, kem.HYBRID])
@pytest.mark.parametrize("suite", ["ecc256/sha256", "ecc384/sha3-384", "rsa3072/sha3-384"])
async def test_a_key_is_certified_by_the_identity_and_opens_what_is_sealed_to_it(engine, folder, clock, kind, suite):
    async with engine:
        signer = await identity(engine, suite=IDENTITY_SUITES[suite])
        kept = await keep_inbox(folder, engine, signer, wanted(signer, kem=kind), clock=clock)
        assert (kept.made, kept.destroyed) == (Why.MISSING, ())
        (key,) = kept.record.keys
        certificate = InboxCertificate.parse(key.certificate)
        certificate.check(signer.certificate.public_key, signer.certificate.suite, signer.certificate.signer)
        body = certificate.body
        assert (body.domain, body.name, body.identity) == ("tpmbus.local", "MONITOR", signer.certificate.signer)
        assert (body.counter, body.kem) == (1, kind)
        assert (body.not_before_ms, body.not_after_ms) == (NOW - 60_000, NOW - 60_000 + 30 * DAY)
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        assert await opens(inbox, key)


async def test_what_lies_on_disk_is_for_its_owner_and_holds_no_private_key(engine, folder, clock):
    async with engine:
        signer = await identity(engine)
        kept = await keep_inbox(folder, engine, signer, wanted(signer, kem=kem.HYBRID), clock=clock)
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        private = await inbox.private(kept.record.keys[0].id)
    assert folder.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.folder.iterdir()} == {0o600}
    secret = private.to_bytes()
    assert all(part not in path.read_bytes() for path in folder.folder.iterdir() for part in (secret[:32], secret[-32:]))
    assert all(part.hex() not in repr((inbox, kept, private)) for part in (secret[:16], secret[-16:]))


async def test_keeping_it_again_asks_no_tpm_and_writes_nothing(engine, chip, folder, clock):
    async with engine:
        signer = await identity(engine)
        first = await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        operations, written = chip.operations, folder.path("MONITOR").stat().st_ino
        again = await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        assert (again.record, again.made) == (first.record, None)
        assert (chip.operations, folder.path("MONITOR").stat().st_ino) == (operations, written)


async def test_who_keeps_it_at_once_makes_one_key(engine, folder, clock):
    made = []
    async with engine:
        signer = await identity(engine)

        async def keep():
            made.append((await keep_inbox(InboxFolder(folder.folder), engine, signer, wanted(signer), clock=clock)).made)

        async with anyio.create_task_group() as tasks:
            for _ in range(12):
                tasks.start_soon(keep)
    assert sorted(why.name for why in made if why) == ["MISSING"]
    assert (await on_disk(folder)).counter == 1


async def test_an_identity_that_has_ended_certifies_nothing(engine, folder, clock):
    async with engine:
        signer = await identity(engine, ends=NOW)
        with pytest.raises(VerificationError) as caught:
            await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        assert (caught.value.reason, caught.value.agent) == ("untrusted", "MONITOR")
    assert (await on_disk(folder)).keys == ()


async def test_a_key_that_is_not_the_identitys_certifies_nothing(engine, folder, clock):
    async with engine:
        signer, other = await identity(engine), await identity(engine, "TRACER")
        with pytest.raises(VerificationError) as caught:
            await keep_inbox(folder, engine, Signer(signer.certificate, other.key), wanted(signer), clock=clock)
        assert caught.value.reason == "bad_proof"
    assert (await on_disk(folder)).keys == ()


async def test_a_tpm_that_fails_costs_no_counter_and_no_key(engine, chip, folder, clock):
    def fail():
        raise TpmUnavailableError("tpm_memory", "no room")

    async with engine:
        signer = await identity(engine)
        await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        for before in ([], [lambda: None]):  # it fails to seal, and to sign
            chip.faults.extend([*before, fail])
            with pytest.raises(TpmUnavailableError):
                await keep_inbox(folder, engine, signer, wanted(signer), clock=clock, anew=True)
        kept = await keep_inbox(folder, engine, signer, wanted(signer), clock=clock, anew=True)
    assert [key.counter for key in kept.record.keys] == [1, 2]


# ---- replaced and destroyed ----------------------------------------------------------------------------------------------------


async def test_each_week_a_new_one_and_the_old_ones_open_until_nothing_can_wait_for_them(engine, folder, clock):
    seen = {}
    async with engine:
        signer = await identity(engine)
        for week in range(8):
            clock.ms = NOW + week * 7 * DAY
            kept = await keep_inbox(folder, engine, signer, wanted(signer, passed_ms=clock.ms), clock=clock)
            assert kept.made is (Why.AGE if week else Why.MISSING)
            seen[kept.record.newest.counter] = kept.record.newest
            assert kept.record.counter == week + 1
            inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
            for counter, key in seen.items():
                needed = clock.ms <= NOW - 60_000 + ((counter - 1) * 7 + 30 + 1 + 7) * DAY
                assert await opens(inbox, key) is needed, (week, counter)
    assert len(kept.record.keys) == 6


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"kem": kem.HYBRID}, Why.KIND), ({"place": IN_SOFTWARE}, Why.PLACE), ({"floor": 7}, Why.LOST)],
)
async def test_what_is_wanted_otherwise_is_made_anew_and_the_old_key_opens_on(engine, folder, clock, change, reason):
    async with engine:
        signer = await identity(engine)
        first = (await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)).record.newest
        kept = await keep_inbox(folder, engine, signer, wanted(signer, **change), clock=clock)
        assert kept.made is reason
        assert kept.record.counter == (8 if "floor" in change else 2)
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        assert await opens(inbox, first)
        assert await opens(inbox, kept.record.newest)


async def test_another_identity_certificate_gets_a_key_of_its_own(engine, folder, clock):
    async with engine:
        old, new = await identity(engine), await identity(engine, der=b"its successor")
        await keep_inbox(folder, engine, old, wanted(old), clock=clock)
        kept = await keep_inbox(folder, engine, new, wanted(new), clock=clock)
        assert kept.made is Why.IDENTITY
        assert [key.body.identity for key in kept.record.keys] == [old.certificate.signer, new.certificate.signer]


async def test_what_is_destroyed_is_in_no_file_and_in_no_memory(engine, folder, clock):
    async with engine:
        signer = await identity(engine)
        old = (await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)).record.newest
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        assert await opens(inbox, old)
        clock.ms = NOW + 60 * DAY
        assert await inbox.private(old.id) is None  # also where nobody has looked into the file since
        kept = await keep_inbox(folder, engine, signer, wanted(signer, passed_ms=clock.ms), clock=clock)
        assert kept.destroyed == (1,)
        clock.ms = NOW
        await inbox.refresh()
        assert await inbox.private(old.id) is None
    assert old.id not in [key.id for key in (await on_disk(folder)).keys]
    assert kept.record.counter == 2


async def test_a_clock_that_is_years_ahead_for_a_while_costs_no_key(engine, folder, clock):
    async with engine:
        signer = await identity(engine, ends=NOW + 10 * 365 * DAY)
        first = (await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)).record.newest
        clock.ms = NOW + 2 * 365 * DAY
        kept = await keep_inbox(folder, engine, signer, wanted(signer, passed_ms=NOW + DAY), clock=clock)
        assert kept.destroyed == ()
        clock.ms = NOW
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        assert await opens(inbox, first)


# ---- opened --------------------------------------------------------------------------------------------------------------------


async def test_a_key_is_unsealed_once_a_process_however_many_ask(engine, chip, folder, clock):
    async with engine:
        signer = await identity(engine)
        key = (await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)).record.newest
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        before = chip.operations
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(inbox.private, key.id)
        assert await opens(inbox, key)
        assert chip.operations == before + 1
        await inbox.aclose()
        assert await opens(inbox, key)
        assert chip.operations == before + 2


async def test_a_key_that_another_process_made_meanwhile_is_found(engine, folder, clock):
    async with engine:
        signer = await identity(engine)
        await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        new = (await keep_inbox(InboxFolder(folder.folder), engine, signer, wanted(signer), clock=clock, anew=True)).record.newest
        assert await opens(inbox, new)


async def test_what_is_not_mine_is_nobodys(engine, folder, clock):
    async with engine:
        signer, other = await identity(engine), await identity(engine, "TRACER")
        await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        theirs = (await keep_inbox(folder, engine, other, wanted(other), clock=clock)).record.newest
        inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
        assert await inbox.private(theirs.id) is None
        assert await inbox.private(bytes(16)) is None
    assert await to_thread.run_sync(folder.names) == ["MONITOR", "TRACER"]


# ---- lost, moved, restored -----------------------------------------------------------------------------------------------------


async def test_a_key_that_was_exchanged_for_another_or_is_none_is_said_to_be_damaged(engine, folder, clock):
    async with engine:
        signer = await identity(engine)
        for blob, code in (
            (await engine.seal(bytes(32)), "damaged"),
            (await engine.seal(bytes(31)), "damaged"),
            (b"no blob", "malformed_blob"),
        ):
            record = (await keep_inbox(folder, engine, signer, wanted(signer), clock=clock, anew=True)).record
            changed = replace(record.newest, sealed=blob)
            await to_thread.run_sync(folder.write, replace(record, keys=(*record.keys[:-1], changed)))
            inbox = await Inbox.open(folder, engine, "MONITOR", clock=clock)
            with pytest.raises(VaultError) as caught:
                await inbox.private(changed.id)
            assert (caught.value.code, caught.value.path) == (code, str(folder.path("MONITOR")))
            renewed = await keep_inbox(folder, engine, signer, wanted(signer), clock=clock, anew=True)
            assert await opens(inbox, renewed.record.newest)


async def test_a_fleet_goes_to_software_and_back_without_losing_a_message(folder, clock):
    """Keys that the TPM sealed open whenever it is there, those of the software keystore always."""
    chip, vault, keystore = FakeTpm(), MemoryVault(), SoftwareTpm(bytes(32))
    async with Engine(lambda: chip, vault, software=keystore) as with_tpm:
        signer = await identity(with_tpm)
        first = (await keep_inbox(folder, with_tpm, signer, wanted(signer), clock=clock)).record.newest
        off = await keep_inbox(folder, with_tpm, signer, wanted(signer, place=IN_SOFTWARE), clock=clock)
    async with Engine(None, vault, software=keystore) as without:
        inbox = await Inbox.open(folder, without, "MONITOR", clock=clock)
        assert await opens(inbox, off.record.newest)
        with pytest.raises(VaultError) as caught:
            await inbox.private(first.id)
        assert caught.value.code == "wrong_origin"
        assert await place_of(without, SOFTWARE) == IN_SOFTWARE
    async with Engine(lambda: chip, vault, software=keystore) as with_tpm:
        place = await place_of(with_tpm, SOFTWARE_TPM)
        assert place == IN_THE_FAKE
        back = await keep_inbox(folder, with_tpm, signer, wanted(signer, place=place), clock=clock)
        assert (off.made, back.made) == (Why.PLACE, Why.PLACE)
        inbox = await Inbox.open(folder, with_tpm, "MONITOR", clock=clock)
        for key in (first, off.record.newest, back.record.newest):
            assert await opens(inbox, key)


async def test_a_counter_is_not_given_twice_when_half_of_the_files_come_from_a_backup(engine, folder, clock):
    """What was published is known from elsewhere; whoever sends has seen it."""
    async with engine:
        signer = await identity(engine)
        await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        backup = folder.path("MONITOR").read_bytes()
        for _ in range(3):
            published = (await keep_inbox(folder, engine, signer, wanted(signer), clock=clock, anew=True)).record.counter
        folder.path("MONITOR").write_bytes(backup)
        kept = await keep_inbox(folder, engine, signer, wanted(signer, floor=published), clock=clock)
        assert (kept.made, kept.record.counter) == (Why.LOST, 5)
        folder.path("MONITOR").unlink()
        kept = await keep_inbox(folder, engine, signer, wanted(signer, floor=5), clock=clock)
        assert (kept.made, kept.record.counter) == (Why.MISSING, 6)


async def test_a_damaged_file_is_said_to_be_and_set_aside_when_a_new_key_is_asked_for(engine, folder, clock):
    async with engine:
        signer = await identity(engine)
        await keep_inbox(folder, engine, signer, wanted(signer), clock=clock)
        whole = folder.path("MONITOR").read_bytes()
        folder.path("MONITOR").write_bytes(whole[:-20])
        for look in (
            lambda: keep_inbox(folder, engine, signer, wanted(signer), clock=clock),
            lambda: Inbox.open(folder, engine, "MONITOR", clock=clock),
        ):
            with pytest.raises(VaultError) as caught:
                await look()
            assert caught.value.code == "damaged"
        kept = await keep_inbox(folder, engine, signer, wanted(signer, floor=1), clock=clock, anew=True)
    assert [key.counter for key in kept.record.keys] == [2]
    (aside,) = folder.folder.glob("*.aside")
    assert aside.read_bytes() == whole[:-20]


async def test_a_real_tpm_seals_it_and_another_one_says_what_is_lost(swtpm, tmp_path, runtime, folder, clock):
    from bus.tpm.esapi import EsapiTpm
    from bus.tpm.swtpm import Swtpm, manufacture

    def opener(process):
        return lambda: EsapiTpm(process.tcti, origin=SOFTWARE_TPM)

    await to_thread.run_sync(manufacture, tmp_path / "other")
    other = Swtpm(tmp_path / "other", socket_path=runtime / "other.sock")
    await to_thread.run_sync(other.start)
    try:
        async with Engine(opener(swtpm), MemoryVault()) as here, Engine(opener(other), MemoryVault()) as elsewhere:
            signer = await identity(here)
            place = await place_of(here, SOFTWARE_TPM)
            assert place != await place_of(elsewhere, SOFTWARE_TPM)
            key = (
                await keep_inbox(folder, here, signer, wanted(signer, kem=kem.HYBRID, place=place), clock=clock, pcrs=(7,))
            ).record.newest
            assert await opens(await Inbox.open(folder, here, "MONITOR", clock=clock), key)
            inbox = await Inbox.open(folder, elsewhere, "MONITOR", clock=clock)
            with pytest.raises(VaultError) as caught:
                await inbox.private(key.id)
            assert (caught.value.code, caught.value.path) == ("wrong_tpm", str(folder.path("MONITOR")))
            moved = await identity(elsewhere, der=b"of the new TPM")
            there = await place_of(elsewhere, SOFTWARE_TPM)
            kept = await keep_inbox(folder, elsewhere, moved, wanted(moved, place=there), clock=clock)
            assert await opens(inbox, kept.record.newest)
    finally:
        await to_thread.run_sync(other.stop)


# ---- killed --------------------------------------------------------------------------------------------------------------------


def test_making_one_may_be_killed_at_every_moment_at_which_it_touches_the_disk(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("killed_inbox.py")), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["moments"] > 4
