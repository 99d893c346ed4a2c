"""What is to be kept waits for a disk; what is said live does not wait for it."""

from __future__ import annotations

import anyio
import pytest
from agent_scenes import inside

import bus.testing
from bus.backbone.memory_storage import MemoryStorage
from bus.flow.turn_window import START

pytestmark = pytest.mark.anyio
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [logs.>, tasks.>]}
  worker: {key: ecc256/sha256, subscribe: [logs.>, tasks.>]}
topics:
  - {match: logs.>, class: durable, retention: 7d, unit: envelope, ack_wait: 30s, max_deliver: 5}
"""


async def test_what_is_said_live_does_not_wait_for_a_disk(monkeypatch):
    async with bus.testing.open(policy=POLICY) as hub, hub.host().agent("LEAD") as lead, hub.host().agent("PAINTER") as painter:
        async with painter.subscribe("tasks.>") as tasks:
            disk, submit = [], MemoryStorage.submit
            monkeypatch.setattr(MemoryStorage, "submit", lambda storage, commit: disk.append(lambda: submit(storage, commit)))
            receipts = []
            for number in range(100):  # more turns than may be out
                receipts.append(await lead.publish_soon("logs.a", number))
                await lead.publish("tasks.paint", number)
                await hub.settle()
                with anyio.fail_after(30):
                    assert (await anext(tasks)).body == number
            turns = [turn for turn in inside(lead).outbox._turns.values() if turn.unstored]
            assert len(turns) == START, "what came later waits in its lane"
            assert sum(sent.records for turn in turns for sent in turn.sent) == START
            with anyio.fail_after(60):
                async with anyio.create_task_group() as waiting:
                    for receipt in receipts:
                        waiting.start_soon(receipt.stored)
                    while inside(lead).outbox.out:
                        await hub.settle()
                        while disk:
                            disk.pop(0)()
