"""Several real software TPMs behind one engine: one is killed under load, and the vault goes on with fewer and with more."""

from __future__ import annotations

import os
import signal
from collections import Counter, defaultdict
from functools import partial
from itertools import count

import anyio
import pytest
from anyio import to_thread

from bus.errors import TpmUnavailableError, VaultError
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing.tpm_check import check_proof
from bus.tpm.interface import SOFTWARE_TPM, name_of
from bus.tpm.placement import ranked
from bus.tpm.several import SeveralTpms
from bus.tpm.vault import FolderVault

pytestmark = pytest.mark.anyio
P256 = IDENTITY_SUITES["ecc256/sha256"]
AWAY: set[str] = set()


def open_swtpm(name, process):
    from bus.tpm.esapi import EsapiTpm

    if name in AWAY:
        raise TpmUnavailableError("no_tpm", "nobody starts it")
    process.start()
    return EsapiTpm(process.tcti, origin=SOFTWARE_TPM)


def engine_of(swtpms, vault):
    named = {f"tpm {number}": process for number, process in enumerate(swtpms)}
    return SeveralTpms({name: partial(open_swtpm, name, process) for name, process in named.items()}, vault)


async def names_for(engine, *, each=3):
    """Some for each TPM: their primary keys are new in every run, so nobody knows before which name falls where."""
    primaries = {name: one.primary_name for name, one in (await engine.statistics()).tpms.items()}
    found = {tpm: [] for tpm in primaries}
    numbers = count()
    while not all(len(names) == each for names in found.values()):
        name = f"AGENT{next(numbers)}"
        if len(found[ranked(name, primaries)[0]]) < each:
            found[ranked(name, primaries)[0]].append(name)
    return [name for names in found.values() for name in names]


async def provisioned(engine, names):
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(engine.create, name, P256)
    return {info.name: info for info in await engine.keys()}


async def test_one_that_is_killed_under_load_stops_only_its_own_keys_and_comes_back(swtpms, vault):
    signed: Counter[str] = Counter()
    refused: defaultdict[str, set[str]] = defaultdict(set)
    heard: defaultdict[str, anyio.Event] = defaultdict(anyio.Event)
    more: dict[str, anyio.Event] = {}

    async def load(engine, infos, name):
        while True:
            try:
                (proof,) = await engine.sign_many(name, Purpose.ENVELOPE, [bytes(32)])
            except TpmUnavailableError as error:
                refused[name].add(error.tpm)
                heard[name].set()
                await anyio.sleep(0.02)
                continue
            check_proof(proof, infos[name], Purpose.ENVELOPE, bytes(32))
            signed[name] += 1
            if name in more:
                more[name].set()

    async def all_sign(names):
        with anyio.fail_after(20):
            for name in names:
                more[name] = anyio.Event()
                await more[name].wait()

    async with engine_of(swtpms, vault) as engine:
        names = await names_for(engine)
        infos = await provisioned(engine, names)
        homes = {entry.info.name: entry.tpm for entry in await to_thread.run_sync(vault.entries)}
        its_own = [name for name in names if homes[name] == "tpm 1"]
        others = [name for name in names if homes[name] != "tpm 1"]
        assert (len(its_own), len(others)) == (3, 6)
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(load, engine, infos, name)
            await all_sign(names)
            AWAY.add("tpm 1")
            try:
                os.kill(swtpms[1].pid, signal.SIGKILL)
                with anyio.fail_after(20):
                    for name in its_own:
                        await heard[name].wait()
                await all_sign(others * 3)
            finally:
                AWAY.discard("tpm 1")
            await all_sign(names)
            tasks.cancel_scope.cancel()
        statistics = await engine.statistics()
    assert all(refused[name] == {"tpm 1"} for name in its_own)
    assert not any(refused[name] for name in others)
    assert {name: one.restarts > 0 for name, one in statistics.tpms.items()} == {"tpm 0": False, "tpm 1": True, "tpm 2": False}


async def test_a_vault_goes_on_with_more_of_them_with_fewer_and_with_all_again(swtpms, vault):
    async def sign(engine, info):
        (proof,) = await engine.sign_many(info.name, Purpose.ENVELOPE, [bytes(32)])
        check_proof(proof, info, Purpose.ENVELOPE, bytes(32))

    async with engine_of(swtpms[:2], vault) as engine:
        infos = await provisioned(engine, await names_for(engine))
    again = await to_thread.run_sync(FolderVault, vault.folder)
    async with engine_of(swtpms, again) as engine:
        assert await provisioned(engine, list(infos)) == infos
        for number in range(6):
            await engine.create(f"LATER{number}", P256)
        homes = {entry.info.name: entry.tpm for entry in await to_thread.run_sync(again.entries)}
        assert {homes[f"LATER{number}"] for number in range(6)} <= {"tpm 0", "tpm 1", "tpm 2"}
        for info in await engine.keys():
            await sign(engine, info)
    fewer = await to_thread.run_sync(FolderVault, vault.folder)
    async with engine_of(swtpms[:1], fewer) as engine:
        for info in infos.values():
            if homes[info.name] == "tpm 0":
                await sign(engine, info)
            else:
                with pytest.raises(VaultError) as caught:
                    await sign(engine, info)
                assert (caught.value.code, caught.value.tpm) == ("wrong_tpm", homes[info.name])
    async with engine_of(swtpms, await to_thread.run_sync(FolderVault, vault.folder)) as engine:
        for info in infos.values():
            await sign(engine, info)


async def test_each_tpm_vouches_for_its_own_keys_and_opens_what_it_sealed(swtpms, vault):
    async with engine_of(swtpms, vault) as engine:
        infos = await provisioned(engine, await names_for(engine, each=2))
        homes = {entry.info.name: entry.tpm for entry in await to_thread.run_sync(vault.entries)}
        seen: dict[str, tuple[bytes, bytes]] = {}
        for name, info in infos.items():
            attester, endorsement = await engine.attestation_key(beside=name), await engine.endorsement(beside=name)
            assert seen.setdefault(homes[name], (attester.spki, endorsement.spki)) == (attester.spki, endorsement.spki)
            assert name_of(info.public) in (await engine.certify(name, qualifying=b"q")).attest
            assert await engine.unseal(await engine.seal(name.encode(), beside=name)) == name.encode()
        assert len(set(seen.values())) == len(seen) == 3
        attesters = [entry for entry in await to_thread.run_sync(vault.entries) if entry.info.name == "attestation"]
        assert len(attesters) == len(seen)
        assert all(entry.info.ends_ms is None for entry in attesters)
