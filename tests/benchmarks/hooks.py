"""What one async function that does nothing costs on each side, publishing and delivering, embedded in one process.

With and without in turns, of two agents each; 256-byte records, everything signed, sealed and verified.

python tests/benchmarks/hooks.py
"""

from __future__ import annotations

import statistics
import time

import anyio
from anyio.lowlevel import checkpoint
from bus_path import UVLOOP, body, folder
from targets import Row, show

import bus

RECORDS = 200_000
ROUNDS = 5
RATE = 8_000
SECONDS = 3


async def rate(director: bus.Agent, monitor: bus.Agent) -> float:
    """In a loop, every record in a call of its own: where there are hooks, each has its own."""

    async def publish() -> None:
        for number in range(RECORDS):
            await director.publish("tasks.build", body(number))

    async with monitor.subscribe("tasks.>") as tasks, anyio.create_task_group() as group:
        begun = time.perf_counter()
        group.start_soon(publish)
        for number in range(RECORDS):
            if int.from_bytes((await anext(tasks)).data[:8], "big") != number:
                raise SystemExit(f"{number} did not come, or not in its place")
        return RECORDS / (time.perf_counter() - begun)


async def average_wait(director: bus.Agent, monitor: bus.Agent) -> float:
    """Milliseconds from when a record was due to when it is handed over, at a rate that does not wait for anybody."""
    waits: list[float] = []

    async def publish() -> None:
        begun, sent = time.perf_counter_ns(), 0
        while sent < RATE * SECONDS:
            due = min(RATE * SECONDS, (time.perf_counter_ns() - begun) * RATE // 1_000_000_000 + 1)
            while sent < due:
                await director.publish("tasks.build", body(sent, begun + sent * 1_000_000_000 // RATE))
                sent += 1
            await checkpoint()

    async with monitor.subscribe("tasks.>") as tasks, anyio.create_task_group() as group:
        group.start_soon(publish)
        for _ in range(RATE * SECONDS):
            data = (await anext(tasks)).data
            waits.append((time.perf_counter_ns() - int.from_bytes(data[8:16], "big")) / 1e6)
    return statistics.fmean(waits)


async def measure(state: str) -> list[Row]:
    async with (
        bus.open(state=state) as here,
        here.agent("DIRECTOR") as director,
        here.agent("MONITOR") as monitor,
        here.agent("PROJECTORCHESTRATOR") as hooked_director,
        here.agent("TRACER") as hooked_monitor,
    ):

        @hooked_director.hooks.publish
        async def as_it_is(_: bus.HookContext, record: bus.Record) -> bus.Record:
            return record

        @hooked_monitor.hooks.deliver
        async def so_it_stays(_: bus.HookContext, message: bus.Message) -> bus.Message:
            return message

        off = []
        for _ in range(ROUNDS):
            without = await rate(director, monitor)
            off.append((1 - await rate(hooked_director, hooked_monitor) / without) * 100)
        waited = await average_wait(hooked_director, hooked_monitor)
    return [
        Row("one async hook on each side, off the rate", statistics.median(off), "%", 20),
        Row(f"with them, {RATE:,} a second: average wait", waited, "ms", 50),
    ]


if __name__ == "__main__":
    with folder() as place:
        show("hooks", anyio.run(measure, place, backend_options=UVLOOP))
