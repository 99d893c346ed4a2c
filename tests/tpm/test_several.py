"""Several TPMs as one engine, on fakes: where keys live, what one that is away does to the others, who is let near a vault."""

from __future__ import annotations

from functools import partial

import anyio
import pytest
from anyio import to_thread

from bus.errors import TpmRefusedError, TpmUnavailableError, VaultError
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, ManualClock, SlowTpm
from bus.testing.tpm_check import check_proof
from bus.tpm.engine import Engine
from bus.tpm.interface import HARDWARE, SOFTWARE, SOFTWARE_TPM, name_of
from bus.tpm.placement import ranked
from bus.tpm.several import SeveralTpms
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import FolderVault, MemoryVault

pytestmark = pytest.mark.anyio
P256, P384 = IDENTITY_SUITES["ecc256/sha256"], IDENTITY_SUITES["ecc384/sha384"]
DIGEST = bytes(32)
NAMES = [f"AGENT{number}" for number in range(12)]


class Chip:
    """A fake that can be away, be another one, and tells who asked it."""

    def __init__(self, number: int, *, origin: str = SOFTWARE_TPM) -> None:
        self.number, self.is_away, self.origin, self.opened = number, False, origin, 0
        self.tpm = FakeTpm(number=number)
        self.clock = ManualClock()

    def open(self):
        if self.is_away:
            raise TpmUnavailableError("no_swtpm", "it is away")
        self.opened += 1
        self.tpm = _Placed(self)
        return self.tpm

    @property
    def primary(self) -> bytes:
        return FakeTpm(number=self.number).facts().primary_name

    def leave(self) -> None:
        """What it is doing next fails, and it does not come back by itself."""
        self.is_away = True
        self.tpm.faults.append(_gone)

    def operations(self) -> int:
        return self.tpm.operations


class _Placed(FakeTpm):
    def __init__(self, chip: Chip) -> None:
        super().__init__(number=chip.number)
        self.chip = chip

    def facts(self):
        from dataclasses import replace

        return replace(super().facts(), origin=self.chip.origin)

    def create(self, suite, *, auth):
        from dataclasses import replace

        return replace(super().create(suite, auth=auth), origin=self.chip.origin)


def _gone() -> None:
    raise TpmUnavailableError("no_tpm", "it went away")


def engine_of(chips, vault, **more):
    return SeveralTpms({name: chip.open for name, chip in chips.items()}, vault, **more)


@pytest.fixture
def chips():
    return {f"chip {number}": Chip(number) for number in (1, 2, 3)}


def home_in(chips, name):
    return ranked(name, {called: chip.primary for called, chip in chips.items()})[0]


async def sign(engine, name, *, suite=P256):
    digest = bytes(suite.digest_bytes)
    (proof,) = await engine.sign_many(name, Purpose.ENVELOPE, [digest])
    info = next(info for info in await engine.keys() if name in (info.id, info.name if info.ends_ms is None else None))
    check_proof(proof, info, Purpose.ENVELOPE, digest)
    return info


async def test_each_key_is_made_where_its_name_falls_and_signs_there(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            await engine.create(name, P256)
        homes = {entry.info.name: (entry.tpm, entry.parent) for entry in vault.entries()}
        assert homes == {name: (home_in(chips, name), chips[home_in(chips, name)].primary) for name in NAMES}
        assert len({tpm for tpm, _ in homes.values()}) == 3
        before = {called: chip.operations() for called, chip in chips.items()}
        for name in NAMES:
            await sign(engine, name)
        for called, chip in chips.items():
            assert chip.operations() - before[called] == [tpm for tpm, _ in homes.values()].count(called)


async def test_statistics_tell_of_each_and_add_up(chips):
    async with engine_of(chips, MemoryVault(), software=SoftwareTpm(bytes(32))) as engine:
        for name in NAMES:
            await engine.create(name, P256)
            await sign(engine, name)
        await engine.create("SOFT", P256, origin=SOFTWARE)
        await sign(engine, "SOFT")
        whole = await engine.statistics()
    assert list(whole.tpms) == list(chips)
    assert all(one.is_there and one.origin == SOFTWARE_TPM for one in whole.tpms.values())
    assert {one.primary_name for one in whole.tpms.values()} == {chip.primary for chip in chips.values()}
    assert sum(one.signatures for one in whole.tpms.values()) == len(NAMES)
    assert whole.signatures == whole.signed_contents == len(NAMES) + 1


async def test_one_more_moves_nothing_and_takes_its_share_of_what_is_new(chips):
    vault = MemoryVault()
    fewer = dict(list(chips.items())[:2])
    async with engine_of(fewer, vault) as engine:
        made = {name: await engine.create(name, P256) for name in NAMES}
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            assert await engine.create(name, P256) == made[name]
            await sign(engine, name)
        later = [f"LATER{number}" for number in range(12)]
        for name in later:
            await engine.create(name, P256)
    homes = {entry.info.name: entry.tpm for entry in vault.entries()}
    assert all(homes[name] in fewer for name in NAMES)
    assert {name: homes[name] for name in later} == {name: home_in(chips, name) for name in later}


async def test_fewer_than_before_serve_theirs_and_give_nobody_a_new_key_unasked(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            await engine.create(name, P256)
    fewer = {name: chip for name, chip in chips.items() if name != "chip 3"}
    lost = [name for name in NAMES if home_in(chips, name) == "chip 3"]
    async with engine_of(fewer, vault) as engine:
        for name in set(NAMES) - set(lost):
            await sign(engine, name)
        for ask in (
            lambda: engine.sign_many(lost[0], Purpose.ENVELOPE, [DIGEST]),
            lambda: engine.create(lost[0], P256),
            lambda: engine.create(lost[0], P384),
            lambda: engine.certify(lost[0], qualifying=b""),
            lambda: engine.facts(beside=lost[0]),
        ):
            with pytest.raises(VaultError) as caught:
                await ask()
            assert (caught.value.code, caught.value.tpm) == ("wrong_tpm", "chip 3")
        new = await engine.rotate(lost[0], keep_until_ms=0)
        assert (await sign(engine, lost[0])).id == new.id == f"{lost[0]}.2"
    async with engine_of(chips, vault) as engine:
        assert (await sign(engine, lost[0])).id == new.id
        await sign(engine, lost[1])


async def test_one_alone_serves_its_share_of_a_vault_of_several(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            await engine.create(name, P256)
    async with Engine(chips["chip 1"].open, vault, name="chip 1") as engine:
        for name in NAMES:
            if home_in(chips, name) == "chip 1":
                await sign(engine, name)
            else:
                with pytest.raises(VaultError) as caught:
                    await engine.create(name, P256)
                assert caught.value.code == "wrong_tpm"


async def test_one_that_dies_fails_its_own_keys_and_comes_back(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            await engine.create(name, P256)
        chips["chip 2"].leave()
        for name in NAMES:
            if home_in(chips, name) == "chip 2":
                with pytest.raises(TpmUnavailableError) as caught:
                    await engine.sign_many(name, Purpose.ENVELOPE, [DIGEST])
                assert caught.value.tpm == "chip 2"
            else:
                await sign(engine, name)
        assert {name: one.is_there for name, one in (await engine.statistics()).tpms.items()} == {
            "chip 1": True,
            "chip 2": False,
            "chip 3": True,
        }
        for name in NAMES:  # what exists is known without it
            assert (await engine.create(name, P256)).generation == 1
        assert len(await engine.keys()) == len(NAMES)
        orphan = next(f"NEW{number}" for number in range(99) if home_in(chips, f"NEW{number}") == "chip 2")
        await engine.create(orphan, P256)
        await sign(engine, orphan)
        chips["chip 2"].is_away = False
        for name in NAMES:
            await came_back(engine, name)
        assert next(entry.tpm for entry in vault.entries() if entry.info.name == orphan) != "chip 2"


async def came_back(engine, name):
    """A TPM that could not be opened is left alone for a second."""
    with anyio.fail_after(5):
        while True:
            try:
                return await sign(engine, name)
            except TpmUnavailableError:
                await anyio.sleep(0.05)


async def test_one_that_is_away_at_the_start_is_waited_for(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            await engine.create(name, P256)
    chips["chip 1"].is_away = True
    async with engine_of(chips, vault) as engine:
        assert (await engine.facts()).primary_name == chips["chip 2"].primary
        for name in NAMES:
            if home_in(chips, name) == "chip 1":
                with pytest.raises(TpmUnavailableError) as caught:
                    await engine.sign_many(name, Purpose.ENVELOPE, [DIGEST])
                assert caught.value.tpm == "chip 1"
            else:
                await sign(engine, name)
        chips["chip 1"].is_away = False
        for name in NAMES:
            await came_back(engine, name)


async def test_where_all_are_away_it_does_not_start(chips):
    for chip in chips.values():
        chip.is_away = True
    with pytest.raises(TpmUnavailableError) as caught:
        async with engine_of(chips, MemoryVault()):
            pass
    assert (caught.value.code, caught.value.tpm) == ("no_swtpm", "chip 1")


async def test_another_tpm_under_the_name_of_one_gets_no_keys(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            await engine.create(name, P256)
    chips["chip 2"].number = 9
    with pytest.raises(VaultError) as caught:
        async with engine_of(chips, vault):
            pass
    assert (caught.value.code, caught.value.tpm) == ("wrong_tpm", "chip 2")


async def test_another_tpm_that_comes_back_in_place_of_one_gets_no_keys(chips):
    async with engine_of(chips, MemoryVault()) as engine:
        for name in NAMES:
            await engine.create(name, P256)
        mine = next(name for name in NAMES if home_in(chips, name) == "chip 2")
        chips["chip 2"].number = 9
        chips["chip 2"].tpm.faults.append(_gone)
        for _ in range(2):
            with pytest.raises(VaultError) as caught:
                await engine.sign_many(mine, Purpose.ENVELOPE, [DIGEST])
            assert caught.value.code == "wrong_tpm"
        assert chips["chip 2"].operations() == 0
        await sign(engine, next(name for name in NAMES if home_in(chips, name) == "chip 1"))


async def test_another_tpm_in_place_of_one_gets_no_keys_of_an_empty_vault_either(chips):
    async with engine_of(chips, MemoryVault()) as engine:
        name = next(name for name in NAMES if home_in(chips, name) == "chip 2")
        chips["chip 2"].number = 9
        chips["chip 2"].tpm.faults.append(_gone)
        with pytest.raises(VaultError) as caught:
            await engine.create(name, P256)
        assert (caught.value.code, caught.value.tpm) == ("wrong_tpm", "chip 2")
        assert not await engine.keys()


async def test_a_new_key_is_made_in_the_next_one_where_the_first_turns_out_to_be_gone(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        first, second, _ = ranked("ALPHA", {name: chip.primary for name, chip in chips.items()})
        chips[first].leave()
        await engine.create("ALPHA", P256)
        await sign(engine, "ALPHA")
        assert vault.find("ALPHA").tpm == second


async def test_tpms_that_changed_their_names_are_known_by_their_primary_keys(chips):
    vault = MemoryVault()
    async with engine_of(chips, vault) as engine:
        for name in NAMES:
            await engine.create(name, P256)
    first, second, third = chips.values()
    async with engine_of({"chip 1": second, "chip 2": third, "moved": first}, vault) as engine:
        for name in NAMES:
            await sign(engine, name)


async def test_strangers_to_a_vault_are_refused_together(chips):
    vault = MemoryVault()
    async with Engine(Chip(7).open, vault, name="old") as engine:
        await engine.create("ALPHA", P256)
    with pytest.raises(VaultError) as caught:
        async with engine_of(chips, vault):
            pass
    assert caught.value.code == "wrong_tpm"


async def test_a_vault_from_before_names_is_taken_over_by_the_tpm_that_it_belongs_to(chips):
    vault = MemoryVault()
    async with Engine(chips["chip 2"].open, vault) as engine:
        await engine.create("ALPHA", P256)
    async with engine_of(chips, vault) as engine:
        await sign(engine, "ALPHA")
        assert (await engine.facts(beside="ALPHA")).primary_name == chips["chip 2"].primary


async def test_one_tpm_under_two_names_is_refused():
    with pytest.raises(TpmRefusedError) as caught:
        async with engine_of({"a": Chip(1), "b": Chip(1)}, MemoryVault()):
            pass
    assert caught.value.code == "same_tpm"


async def test_a_name_stays_in_its_tpm_through_rotations_and_suites(chips):
    vault = MemoryVault()
    async with engine_of({"chip 1": chips["chip 1"]} | {"chip 2": chips["chip 2"]}, vault) as engine:
        await engine.create("ALPHA", P256)
        first = vault.find("ALPHA").tpm
        for number in range(5):
            await engine.rotate("ALPHA", keep_until_ms=4_000_000_000_000)
            await engine.create("ALPHA", (P256, P384)[number % 2])
        await sign(engine, "ALPHA.1")
    assert {entry.tpm for entry in vault.entries()} == {first}


async def test_many_who_want_one_new_key_get_one(chips):
    async with engine_of(chips, MemoryVault()) as engine:
        made = []

        async def create():
            made.append(await engine.create("ALPHA", P256))

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(create)
        assert {info.id for info in made} == {"ALPHA.1"}
        assert not engine._changing


async def test_a_key_that_moves_to_the_keystore_and_back_is_found(chips):
    name = next(name for name in NAMES if home_in(chips, name) == "chip 3")
    asked = {SOFTWARE_TPM: chips["chip 3"].primary, SOFTWARE: chips["chip 1"].primary}
    async with engine_of(chips, MemoryVault(), software=SoftwareTpm(bytes(32))) as engine:
        for _ in range(2):
            for origin in (SOFTWARE_TPM, SOFTWARE):
                assert (await engine.create(name, P256, origin=origin)).origin == origin
                assert (await engine.facts(beside=name)).primary_name == asked[origin]
                assert (await sign(engine, name)).origin == origin
        assert {info.id for info in await engine.keys()} == {f"{name}.1", f"{name}.2"}


async def test_what_one_sealed_opens_by_itself_and_is_not_lost_on_the_others(chips):
    async with engine_of(chips, MemoryVault()) as engine:
        for name in NAMES:
            await engine.create(name, P256)
        blobs = {name: await engine.seal(name.encode(), beside=name) for name in NAMES}
        first = await engine.seal(b"the state's own")
        for name, blob in blobs.items():
            assert await engine.unseal(blob) == name.encode()
        chips["chip 2"].leave()
        for name, blob in blobs.items():
            if home_in(chips, name) == "chip 2":
                with pytest.raises(TpmUnavailableError) as caught:
                    await engine.unseal(blob)
                assert caught.value.tpm == "chip 2"
            else:
                assert await engine.unseal(blob) == name.encode()
        assert chips["chip 1"].tpm.unseal(first) == b"the state's own"
        with pytest.raises(TpmUnavailableError):  # it may be the other one's
            await engine.unseal(first[:-1])


async def test_beside_a_key_its_own_tpm_answers(chips):
    async with engine_of(chips, MemoryVault(), software=SoftwareTpm(bytes(32))) as engine:
        for name in NAMES:
            await engine.create(name, P256)
            assert (await engine.facts(beside=name)).primary_name == chips[home_in(chips, name)].primary
        await engine.create("SOFT", P256, origin=SOFTWARE)
        assert (await engine.facts(beside="SOFT")).primary_name == chips["chip 1"].primary
        with pytest.raises(TpmRefusedError) as caught:
            await engine.endorsement(beside="NOBODY")
        assert caught.value.code == "unknown_key"


async def test_of_different_kinds_the_first_decides_where_new_keys_go_and_the_others_keep_theirs():
    chips = {"soft": Chip(1), "hard": Chip(2, origin=HARDWARE)}
    vault = MemoryVault()
    async with Engine(chips["soft"].open, vault, name="soft") as engine:
        await engine.create("OLD", P256)
    order = {"hard": chips["hard"], "soft": chips["soft"]}
    expected = {"hard": HARDWARE, "soft": SOFTWARE_TPM}
    async with engine_of(order, vault, origins=expected) as engine:
        assert (await engine.facts()).origin == HARDWARE
        for number in range(4):
            assert (await engine.create(f"NEW{number}", P256)).origin == HARDWARE
        await sign(engine, "OLD")
    chips["hard"].is_away = True
    async with engine_of(order, vault, origins=expected) as engine:
        await sign(engine, "OLD")
        with pytest.raises(TpmUnavailableError):  # and not a key in a worse place
            await engine.create("LATE", P256)


async def test_a_vault_that_somebody_else_changed_is_looked_at_again(chips, tmp_path):
    async with engine_of(chips, await to_thread.run_sync(FolderVault, tmp_path)) as engine:
        await engine.create("ALPHA", P256)
        await sign(engine, "ALPHA")
        mine = home_in(chips, "ALPHA")
        other = next(name for name in chips if name != mine)
        anybody = {"judge": lambda *_: None}
        vault = await to_thread.run_sync(FolderVault, tmp_path)
        async with Engine(Chip(chips[other].number).open, vault, name=other, **anybody) as elsewhere:
            await elsewhere.rotate("ALPHA", keep_until_ms=4_000_000_000_000)
        assert (await sign(engine, "ALPHA")).id == "ALPHA.2"
        assert (await engine.facts(beside="ALPHA")).primary_name == chips[other].primary


async def test_a_slow_one_keeps_only_its_own_callers_waiting(chips, gate):
    async with engine_of(chips, MemoryVault()) as engine:
        for name in NAMES:
            await engine.create(name, P256)
        held = next(name for name in NAMES if home_in(chips, name) == "chip 1")
        chips["chip 1"].tpm.faults.append(gate)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.sign_many, held, Purpose.ENVELOPE, [DIGEST])
            await gate.reached()
            for name in NAMES:
                if home_in(chips, name) != "chip 1":
                    await sign(engine, name)
            gate.open()


@pytest.mark.parametrize("kind", ["memory", "folder"])
async def test_nobody_holds_the_vault_while_a_chip_makes_a_key(chips, gate, kind, tmp_path):
    vault = MemoryVault() if kind == "memory" else await to_thread.run_sync(FolderVault, tmp_path)
    async with engine_of(chips, vault) as engine:
        slow, *others = sorted(NAMES, key=lambda name: home_in(chips, name) != "chip 1")
        chips["chip 1"].tpm.faults.append(gate)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.create, slow, P256)
            await gate.reached()
            for name in others:
                if home_in(chips, name) != "chip 1":
                    await engine.create(name, P256)
                    await engine.rotate(name, keep_until_ms=0)
            gate.open()
        await sign(engine, slow)


async def test_slow_ones_are_slow_beside_each_other():
    slow = {f"chip {number}": partial(SlowTpm, FakeTpm(number=number), 0.01, 0.01) for number in range(3)}
    async with SeveralTpms(slow, MemoryVault()) as engine:
        async with anyio.create_task_group() as tasks:
            for name in NAMES:
                tasks.start_soon(engine.create, name, P256)
        assert (await engine.statistics()).operations["create"] == len(NAMES)


def test_the_fakes_are_told_apart_by_their_primary_keys():
    assert name_of(b"\0\0x") != FakeTpm(number=1).facts().primary_name != FakeTpm(number=2).facts().primary_name
