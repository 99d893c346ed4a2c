"""A program for test_disk_full: appends and settles in a folder that has no more room for a while, and tries again until it has.

filling_journal.py FOLDER COUNT [LIMIT]

With LIMIT no file may grow past so many bytes, until it has failed three times. It says what it was told:

    failed CODE             of an append or of a settlement
    stored NUMBER POSITION
    settled POSITION
"""

from __future__ import annotations

import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import anyio
from backbones import on_disk
from journal_world import INBOX, WORK, entry
from writing_journal import say

from bus.clock import SystemClock
from bus.errors import BackboneError
from bus.flow.start import ALL

failures: list[str] = []


async def until_it_works(work: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await work()
        except BackboneError as error:
            say(f"failed {error.code}")
            failures.append(error.code)
            if len(failures) == 3:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


async def main(folder: Path, count: int, limit: int) -> None:
    async with on_disk(folder, SystemClock()) as journal:
        await journal.retain([WORK], passed_ms=0)
        consumer = await journal.consume(INBOX, "work.>", "work.>", ALL, allowed=1_000_000)
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        for number in range(1, count + 1):
            (position,) = await until_it_works(lambda: journal.append([entry(number)]))  # noqa: B023  it is called before the next round  done before the next
            say(f"stored {number} {position}")
            (delivery,) = await consumer.take()
            assert delivery.envelope == entry(number).envelope, "a consumer has what was stored, and nothing else"
            if number % 3 == 0:
                await until_it_works(lambda: consumer.settle(acks=[(position, position)]))  # noqa: B023
                say(f"settled {position}")
        assert journal.statistics()["unsettled"] == count - count // 3


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 0)
