"""A broker in a process of its own, to be killed: it stores records, several turns at once, and says which it has.

nats_writing.py URL SPACE
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries
from nats_servers import on_nats

from bus.backbone.interface import Backbone, Entry, RetentionClass
from bus.clock import SystemClock

WORK = RetentionClass("work.>", 7 * 86_400_000, ack_wait_ms=2_000, max_deliver=100)
TURNS = 4
EACH = 10


def numbered(writer: int, number: int) -> Entry:
    """Always the same id."""
    (entry,) = entries(SystemClock(), f"work.w{writer}", seed=writer << 32 | number, body=b"%d %d" % (writer, number))
    return entry


async def store(backbone: Backbone, first: int) -> None:
    while True:
        numbers = range(first, first + EACH)
        positions = await backbone.append([numbered(0, number) for number in numbers])
        for number, position in zip(numbers, positions, strict=True):
            print(number, position, flush=True)
        first += TURNS * EACH


async def main(url: str, space: str) -> None:
    async with on_nats([url], space, wait_seconds=60.0) as backbone:
        await backbone.retain([WORK], passed_ms=0)
        async with anyio.create_task_group() as tasks:
            for turn in range(TURNS):
                tasks.start_soon(store, backbone, turn * EACH)


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2])
