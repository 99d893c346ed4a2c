"""An asyncio program that was there before: callbacks put readings into a queue. The bus takes them from there.

The program knows nothing of the bus. `publish_many` pulls from an async iterator only what the readers can take, so the queue's own
bound is what holds back the program, as it always did.
"""

import asyncio
from collections.abc import AsyncIterator

import bus

COUNT = 5


class Sensor:
    """Stands for a library that calls back."""

    def __init__(self, queue: asyncio.Queue[float | None]) -> None:
        self._queue, self._readings = queue, 0

    def start(self) -> None:
        asyncio.get_running_loop().call_later(0.01, self._read)

    def _read(self) -> None:
        self._readings += 1
        self._queue.put_nowait(20.0 + self._readings if self._readings <= COUNT else None)
        if self._readings <= COUNT:
            self.start()


async def readings(queue: asyncio.Queue[float | None]) -> AsyncIterator[dict[str, float]]:
    while (value := await queue.get()) is not None:
        yield {"celsius": value}


async def main() -> None:
    queue: asyncio.Queue[float | None] = asyncio.Queue(100)
    async with bus.open() as hub, hub.agent("HARDWARE") as hardware, hub.agent("MONITOR") as monitor:
        async with monitor.subscribe("telemetry.>") as telemetry:
            Sensor(queue).start()
            sent = await hardware.publish_many("telemetry.infrastructure.rack", readings(queue))
            for _ in range(sent):
                message = await anext(telemetry)
                print(message.sender, message.body)


if __name__ == "__main__":
    asyncio.run(main())
