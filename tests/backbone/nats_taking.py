"""A broker in a process of its own, to be killed: it takes what a consumer has, says which positions, and settles nothing.

nats_taking.py URL SPACE COUNT
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import on_nats

from bus.backbone.interface import ConsumerName, RetentionClass
from bus.flow.start import ALL
from bus.testing.backbone_bench import taken


async def main(url: str, space: str, count: int) -> None:
    async with on_nats([url], space) as backbone:
        await backbone.retain([RetentionClass("work.>", 7 * 86_400_000, 500, 5)], passed_ms=0)
        consumer = await backbone.consume(ConsumerName("workers", "shared"), "work.>", "work.>", ALL, allowed=count)
        print(*[one.position for one in await taken(consumer, count)], flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]))
