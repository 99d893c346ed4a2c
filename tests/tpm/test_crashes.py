"""A software TPM that is killed, that hangs, that does not start again: proofs or a typed error, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import time
from contextlib import suppress
from hashlib import sha256

import anyio
import anyio.to_thread
import pytest

from bus.errors import TpmUnavailableError
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing.tpm_check import check_proof
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE_TPM

pytestmark = pytest.mark.anyio
QUICK = IDENTITY_SUITES["ecc256/sha256"]


def content(number) -> bytes:
    return sha256(str(number).encode()).digest()


@pytest.fixture
def engine(swtpm, vault):
    """On a software TPM that is started again when it dies, as the state folder's own is."""
    from bus.tpm.esapi import EsapiTpm

    def open_tpm():
        swtpm.start()
        return EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM)

    return Engine(open_tpm, vault)


async def test_it_may_be_killed_in_the_middle_of_batches_and_every_caller_gets_proofs(engine, swtpm):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, served, kills = random.Random(seed), 0, 0
    async with engine:
        keys = [await engine.create(f"AGENT{number}", QUICK) for number in range(5)]

        async def caller(number):
            nonlocal served
            for turn in range(12):
                key = keys[(number + turn) % 5]
                (proof,) = await engine.sign_many(key.name, Purpose.ENVELOPE, [content(f"{number} {turn}")])
                check_proof(proof, key, Purpose.ENVELOPE, content(f"{number} {turn}"))
                served += 1

        async def killer():
            nonlocal kills
            signed = 0
            for _ in range(4):
                goal = served + dice.randrange(20, 120)
                # One death at a time: who is killed again while it starts cannot be started again, and that is told.
                now = await engine.statistics()
                while served < goal or now.restarts < kills or now.signatures < signed + 2:
                    if served > 590:
                        return
                    await anyio.lowlevel.checkpoint()
                    now = await engine.statistics()
                signed = now.signatures
                with suppress(ProcessLookupError):
                    os.kill(swtpm.pid, signal.SIGKILL)
                    kills += 1

        async with anyio.create_task_group() as tasks:
            for number in range(50):
                tasks.start_soon(caller, number)
            tasks.start_soon(killer)
        statistics = await engine.statistics()
        assert [info.id for info in await engine.keys()] == [key.id for key in keys]
        assert (await engine.create("AGENT0", QUICK)).spki == keys[0].spki
    assert served == 600
    assert 1 <= statistics.restarts <= kills
    assert statistics.failures == {}


async def test_making_a_key_may_be_interrupted_by_a_kill_and_makes_it_once(engine, swtpm):
    async with engine:
        for number in range(6):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(engine.create, f"AGENT{number}", QUICK)
                await anyio.lowlevel.checkpoint()
                os.kill(swtpm.pid, signal.SIGKILL)
        keys = await engine.keys()
        assert [info.id for info in keys] == [f"AGENT{number}.1" for number in range(6)]
        for info in keys:
            (proof,) = await engine.sign_many(info.name, Purpose.ENVELOPE, [content(0)])
            check_proof(proof, info, Purpose.ENVELOPE, content(0))


async def test_one_that_cannot_be_started_again_is_unavailable_until_it_can(engine, swtpm, monkeypatch, tmp_path):
    async with engine:
        key = await engine.create("ALPHA", QUICK)
        with monkeypatch.context() as patched:
            patched.setenv("PATH", str(tmp_path))  # it was uninstalled, so to say
            os.kill(swtpm.pid, signal.SIGKILL)
            errors = []

            async def caller():
                with pytest.raises(TpmUnavailableError) as caught:
                    await engine.sign_many("ALPHA", Purpose.ENVELOPE, [content(0)])
                errors.append(caught.value.code)

            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(caller)
        assert set(errors) <= {"no_swtpm", "no_tpm"}
        with anyio.fail_after(20):
            while True:
                try:
                    (proof,) = await engine.sign_many("ALPHA", Purpose.ENVELOPE, [content(0)])
                    break
                except TpmUnavailableError:  # asked again too soon
                    await anyio.lowlevel.checkpoint()
        check_proof(proof, key, Purpose.ENVELOPE, content(0))


async def test_callers_of_one_that_hangs_may_leave_and_closing_takes_seconds(engine, swtpm):
    async with engine:
        await engine.create("ALPHA", QUICK)
        pid = swtpm.pid
        os.kill(pid, signal.SIGSTOP)
        begun = time.monotonic()
        with anyio.move_on_after(0.2) as scope:
            await engine.sign_many("ALPHA", Purpose.ENVELOPE, [content(0)])
        assert scope.cancelled_caught
        assert time.monotonic() - begun < 20
        begun = time.monotonic()
    assert time.monotonic() - begun < 30
    starts = swtpm.starts
    os.kill(pid, signal.SIGKILL)
    assert await anyio.to_thread.run_sync(engine._worker.join, 10), "its thread hangs on"
    assert swtpm.starts == starts, "it was started again for an engine that is closed"


async def test_one_that_hung_for_a_while_goes_on_where_it_was(engine, swtpm):
    async with engine, anyio.create_task_group() as tasks:
        key = await engine.create("ALPHA", QUICK)
        os.kill(swtpm.pid, signal.SIGSTOP)
        proofs = []

        async def caller(number):
            (proof,) = await engine.sign_many("ALPHA", Purpose.ENVELOPE, [content(number)])
            check_proof(proof, key, Purpose.ENVELOPE, content(number))
            proofs.append(proof)

        for number in range(20):
            tasks.start_soon(caller, number)
        await anyio.wait_all_tasks_blocked()
        assert proofs == []
        os.kill(swtpm.pid, signal.SIGCONT)
    assert len(proofs) == 20
