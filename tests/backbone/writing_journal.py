"""A program for tests that watch a journal from outside, or kill it.

writing_journal.py FOLDER FIRST COUNT [SEGMENT_BYTES]

Appends COUNT records one after the other, with ids FIRST and up, and consumes and settles every second of them. It says each thing
when it was told that it is on disk, in one write:

    stored NUMBER POSITION
    settled POSITION
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import anyio
from backbones import on_disk
from journal_world import INBOX, WORK, entry

from bus.clock import SystemClock
from bus.flow.start import ALL


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def main(folder: Path, first: int, count: int, segment_bytes: int) -> None:
    clock = SystemClock()
    async with on_disk(folder, clock, segment_bytes=segment_bytes) as journal:
        await journal.retain([WORK], passed_ms=0)
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=1_000)
        for number in range(first, first + count):
            (position,) = await journal.append([entry(number)])
            say(f"stored {number} {position}")
            for delivery in await consumer.take() if number % 2 else []:
                if delivery.position % 2:
                    await consumer.settle(acks=[(delivery.position, delivery.position)])
                    say(f"settled {delivery.position}")
        await journal.retain([WORK], passed_ms=clock.now_ms() - 60_000)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 256 << 20)
