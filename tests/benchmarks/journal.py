"""What the journal costs: records of 700 bytes appended, consumed and acknowledged, 500 of them in flight.

python tests/benchmarks/journal.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import anyio
from targets import Row, show

sys.path.insert(0, str(Path(__file__).parent.parent / "backbone"))

from backbones import on_disk

from bus.backbone.interface import Backbone, ConsumerName, Entry, RetentionClass
from bus.clock import SystemClock
from bus.flow.start import ALL, NEW

RECORDS = 40_000
IN_FLIGHT = 500
LOT = 100
"""What a broker has for one append under such a load."""
WORK = RetentionClass("work.>", 7 * 86_400_000)


def lots() -> list[list[Entry]]:
    """Made before the clock starts: what a broker parses is not what a journal costs."""
    body = bytes(684)
    made = [
        Entry("work.>", "work.x", "DIRECTOR", number.to_bytes(16), 1 << 43, body + number.to_bytes(16)) for number in range(RECORDS)
    ]
    return [made[start : start + LOT] for start in range(0, RECORDS, LOT)]


async def flow(backbone: Backbone) -> tuple[float, float, float]:
    """Records a second; microseconds a record of this thread, and of all threads."""
    waiting = iter(lots())
    consumer = await backbone.consume(ConsumerName("workers", "w"), "work.>", "work.>", NEW, allowed=IN_FLIGHT)

    async def append() -> None:
        for lot in waiting:
            await backbone.append(lot)

    async def consume() -> None:
        left = RECORDS
        while left:
            taken = await consumer.take()
            left -= len(taken)
            consumer.settle_nowait(acks=[(taken[0].position, taken[-1].position)])
            consumer.allow(IN_FLIGHT)

    begun = time.perf_counter(), time.thread_time(), time.process_time()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        for _ in range(IN_FLIGHT // LOT):
            tasks.start_soon(append)
    ended = time.perf_counter(), time.thread_time(), time.process_time()
    wall, loop, process = (end - begin for begin, end in zip(begun, ended, strict=True))
    return RECORDS / wall, loop / RECORDS * 1e6, process / RECORDS * 1e6


async def behind(backbone: Backbone) -> float:
    """Records a second for one who reads all of it from the disk."""
    consumer = await backbone.consume(ConsumerName("workers", "late"), "work.>", "work.>", ALL, allowed=4_096)
    begun, left = time.perf_counter(), RECORDS
    while left:
        taken = await consumer.take()
        left -= len(taken)
        consumer.settle_nowait(acks=[(taken[0].position, taken[-1].position)])
        consumer.allow(4_096)
    return RECORDS / (time.perf_counter() - begun)


async def alone(backbone: Backbone) -> float:
    """Milliseconds for one record by itself."""
    times = []
    for number in range(200):
        begun = time.perf_counter()
        await backbone.append([Entry("work.>", "work.y", "DIRECTOR", number.to_bytes(15), 1 << 43, bytes(700))])
        times.append(time.perf_counter() - begun)
    return sorted(times)[len(times) // 2] * 1e3


async def main() -> None:
    with tempfile.TemporaryDirectory(dir=Path(__file__).parent) as folder:
        async with on_disk(Path(folder), SystemClock()) as backbone:
            await backbone.retain([WORK], passed_ms=0)
            rate, loop, process = await flow(backbone)
            one = await alone(backbone)
        async with on_disk(Path(folder), SystemClock()) as backbone:
            late = await behind(backbone)
    rows = [
        Row("records appended, consumed and acknowledged a second", rate, "/s", 30_000, more_is_better=True),
        Row("of the event loop's thread, a record", loop, "us", 4),
        Row("of all threads, a record", process, "us", 8),
        Row("one record by itself, on disk", one, "ms", 5),
        Row("records read back from the disk a second", late, "/s", 30_000, more_is_better=True),
    ]
    show("journal", rows)


if __name__ == "__main__":
    anyio.run(main, backend_options={"use_uvloop": True})
