"""Answers to those who ask whether what they settled is on disk: a PING with a number, after the acks that it asks about."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Final

import anyio

from bus.broker.durable_reading import Reading
from bus.broker.host_link import HostLink
from bus.clock import Clock
from bus.errors import BusError
from bus.protocol.frames import Frame

RETRY_SECONDS: Final = 1.0
MAX_PINGS: Final = 65_536
"""That wait for the disk, of all links; whoever asks beyond is cut."""
_log = logging.getLogger("tpmbus.broker")


class Syncing:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._pings: list[tuple[HostLink, int]] = []
        self._readings: dict[Reading, None] = {}
        """Where something may not be on disk that the pings ask about."""
        self._asking: Counter[HostLink] = Counter()
        """Whose pings wait: those that come after them wait behind them."""
        self._wanted = anyio.Event()

    def ping(self, host: HostLink, number: int) -> None:
        """At once, if nothing is to be waited for."""
        if not number or not (host.unsynced or host in self._asking):
            host.answer(Frame.PONG, number)
            return
        if len(self._pings) >= MAX_PINGS:
            host.cut("too_many_pings")
            return
        self._pings.append((host, number))
        self._asking[host] += 1
        self._readings |= host.unsynced
        host.unsynced.clear()
        self._wanted.set()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            pings, self._pings = self._pings, []
            readings, self._readings = self._readings, {}
            failed = await _settle(readings)
            if failed:
                _log.warning("what was settled is not on disk yet, and nobody is told that it is")
                self._pings, self._readings = pings + self._pings, failed | self._readings
                await self._clock.sleep(RETRY_SECONDS)
                self._wanted.set()
                continue
            for host, number in pings:
                self._asking[host] -= 1
                if not self._asking[host]:
                    del self._asking[host]
                host.answer(Frame.PONG, number)


async def _settle(readings: dict[Reading, None]) -> dict[Reading, None]:
    """Which of them could not be written."""
    failed: dict[Reading, None] = {}

    async def settle(reading: Reading) -> None:
        try:
            await reading.settled()
        except BusError:
            failed[reading] = None

    async with anyio.create_task_group() as tasks:
        for reading in readings:
            tasks.start_soon(settle, reading)
    return failed
