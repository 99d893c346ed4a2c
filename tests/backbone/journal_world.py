"""What a program that writes a journal and the test that watches it both know, and how the test looks at what is left."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from backbones import on_disk

from bus.backbone.interface import Consumer, ConsumerName, Entry, RetentionClass
from bus.clock import SystemClock
from bus.flow.start import ALL

WORK = RetentionClass("work.>", 7 * 86_400_000, ack_wait_ms=600_000, max_deliver=1_000)
INBOX = ConsumerName("MONITOR", "inbox")
FAR_MS = 4_000_000_000_000
WRITING = Path(__file__).with_name("writing_journal.py")


def entry(number: int) -> Entry:
    return Entry("work.>", f"work.{number % 3}", "DIRECTOR", number.to_bytes(16), FAR_MS, b"body %d " % number * (1 + number % 200))


def said(text: str) -> tuple[dict[int, int], set[int]]:
    """Number -> position of what was stored; positions that were settled. A line that was cut off counts for nothing."""
    lines = [line.split() for line in text.split("\n")[:-1]]
    return {int(one[1]): int(one[2]) for one in lines if one[0] == "stored"}, {int(one[1]) for one in lines if one[0] == "settled"}


async def look(folder: Path, stored: dict[int, int], settled: set[int]) -> None:
    """All that was said is so, in the folder as it is now."""
    async with on_disk(folder, SystemClock()) as journal:
        await journal.retain([WORK], passed_ms=0)
        assert await journal.append([entry(number) for number in stored]) == [*stored.values()], "it knows what it stored"
        (end,) = await journal.append([entry(1 << 40 | len(stored))])
        everything = await journal.consume(ConsumerName("TRACER", "all"), "work.>", "work.>", ALL, kept=False, allowed=1_000_000)
        found = await _until(everything, end)
        for number, position in stored.items():
            assert found.get(position) == entry(number).envelope, f"{number} was stored at {position}, and is not there"
        inbox = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=1_000_000)
        unsettled = await _until(inbox, end)
        assert not settled & unsettled.keys(), "what was settled came again"
        assert found.keys() - unsettled.keys() >= settled


async def _until(consumer: Consumer, end: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while end not in found:
        found |= {one.position: one.envelope for one in await consumer.take()}
    return found
