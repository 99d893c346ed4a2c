"""What a unit test with a bus in it costs: opening it with two agents, one message, closing it.

python tests/benchmarks/unit_tests.py
"""

from __future__ import annotations

import statistics
import time

import anyio
from targets import Row, show

import bus.testing

TIMES = 50


async def one() -> tuple[float, float]:
    """Seconds to open it with two agents, and to pass a message on."""
    begun = time.perf_counter()
    async with bus.testing.open() as hub, hub.agent("DIRECTOR") as director, hub.agent("MONITOR") as monitor:
        opened = time.perf_counter()
        async with monitor.subscribe("tasks.>") as tasks:
            await director.publish("tasks.build", {"ref": "main"})
            await anext(tasks)
            return opened - begun, time.perf_counter() - opened


async def main(loop: str) -> None:
    first = await one()
    rest = [await one() for _ in range(TIMES)]
    show(
        f"A unit test with a bus in it, on {loop}",
        [
            Row("open with two agents, the first time in a process", first[0] * 1e3, "ms", 60),
            Row("open with two agents, median", statistics.median(each[0] for each in rest) * 1e3, "ms", 20),
            Row(
                "subscribe, publish and receive the first message, median",
                statistics.median(each[1] for each in rest) * 1e3,
                "ms",
                5,
            ),
        ],
    )


if __name__ == "__main__":
    assert bus.testing.open  # what it takes to import it is not what is measured
    anyio.run(main, "asyncio")
    anyio.run(main, "trio", backend="trio")
