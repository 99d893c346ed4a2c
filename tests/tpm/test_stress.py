"""Thousands of signatures by the fleet's 76 keys, from callers who change their minds. In `make soak` it is ten thousand."""

from __future__ import annotations

import os
import random
from hashlib import sha256

import anyio
import pytest

from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing.tpm_check import check_proof
from bus.tpm.engine import Engine
from bus.tpm.interface import SOFTWARE_TPM, Priority
from bus.tpm.vault import MemoryVault

pytestmark = pytest.mark.slow

QUICK = IDENTITY_SUITES["ecc256/sha256"]
KEYS, CALLERS = 76, 400
CALLS = 25 if "TPMBUS_SOAK" in os.environ else 5
"""Of each. They all wait at once from the first one on: those that follow find the same queue, and the same slots."""


@pytest.mark.anyio
async def test_signatures_for_callers_who_change_their_minds_are_all_accounted_for(swtpm):
    from tpm2_pytss import ESAPI, TPM2_CAP

    from bus.tpm.esapi import EsapiTpm

    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, served, cancelled = random.Random(seed), 0, 0
    with anyio.fail_after(60):
        async with Engine(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), MemoryVault()) as engine:
            keys = [await engine.create(f"AGENT{number}", QUICK) for number in range(KEYS)]

            async def caller(number):
                nonlocal served, cancelled
                for turn in range(CALLS):
                    key, purpose, content = (
                        dice.choice(keys),
                        dice.choice(list(Purpose)),
                        sha256(b"%d %d" % (number, turn)).digest(),
                    )
                    with anyio.CancelScope() as scope:
                        if dice.random() < 0.1:
                            tasks.start_soon(give_up, scope, dice.randrange(50))
                        (proof,) = await engine.sign_many(key.name, purpose, [content], priority=dice.choice(list(Priority)))
                        served += 1
                        if dice.random() < 0.2:  # a check costs more than a share of a signature
                            check_proof(proof, key, purpose, content)
                        else:
                            assert proof.tbs(purpose, content)
                    cancelled += scope.cancelled_caught

            async def give_up(scope, checkpoints):
                for _ in range(checkpoints):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

            async with anyio.create_task_group() as tasks:
                for number in range(CALLERS):
                    tasks.start_soon(caller, number)
            await engine.facts()
            statistics = await engine.statistics()
            assert engine._worker._size == 0
    assert served + cancelled == CALLERS * CALLS
    assert cancelled > 0
    assert served <= statistics.signed_contents <= served + cancelled
    assert statistics.waiting == 0
    assert statistics.failures == {}
    assert statistics.slots["recoveries"] == 0
    assert statistics.slots["loads"] == KEYS
    slots = statistics.slots
    assert slots["hits"] + slots["restores"] + slots["loads"] == statistics.signatures
    with ESAPI(swtpm.tcti) as esys:
        for kind in (0x80000000, 0x02000000, 0x03000000):
            _, data = esys.get_capability(TPM2_CAP.HANDLES, kind, 64)
            assert [int(handle) for handle in data.data.handles] == []
    print(f"{served} served by {statistics.signatures} signatures, {cancelled} cancelled")
