"""tpmbus's durable topics twice at one hub: each record in an envelope of its own (`unit: record`), and what gathers together.

Every record is acknowledged by itself in both. The policy is the harness's own, in which nothing differs between the two topics but
the unit.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio

import bus
from bus.bench.peers import chip
from bus.bench.peers.contender import Address, Contender, Read, Send, Sender, Take
from bus.bench.peers.ours import IN_FLIGHT, TPMBUS, read_each_kept, with_receipts

RECORD_TOPIC: Final = "bench.kept.a"
ENVELOPE_TOPIC: Final = "bench.together.a"


def _reading(topic: str) -> Read:
    @asynccontextmanager
    async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
        async with (
            bus.connect(address["url"], agent=chip.READER, state=address["state"]) as agent,
            agent.subscribe(topic, durable=address["run"]) as kept,
            anyio.create_task_group() as group,
        ):
            group.start_soon(read_each_kept, kept, takes[0])
            yield
            group.cancel_scope.cancel()

    return read


def _sending(topic: str) -> Sender:
    @asynccontextmanager
    async def send(address: Address) -> AsyncIterator[Send]:
        async with (
            bus.connect(address["url"], agent=chip.SENDER, state=address["state"]) as agent,
            with_receipts(agent, topic) as stored,
        ):
            yield stored

    return send


def _with_unit(unit: str, topic: str) -> Contender:
    return Contender(
        name=f"tpmbus-unit-{unit}",
        title=f"tpmbus, unit: {unit}",
        secured=TPMBUS.secured,
        uses=f"publish_soon with {IN_FLIGHT} receipts under way, ack of each record; stored and acknowledged after a sync",
        install=TPMBUS.install,
        serve=chip.serve,
        read_kept=_reading(topic),
        send_kept=_sending(topic),
    )


RECORDS: Final = _with_unit("record", RECORD_TOPIC)
ENVELOPES: Final = _with_unit("envelope", ENVELOPE_TOPIC)
