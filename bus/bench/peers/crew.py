"""The processes of one bus: its server for as long as it is measured, and for each run a reader and a sender of their own."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from subprocess import PIPE
from typing import Any, Final

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from bus.bench.order import Order
from bus.bench.peers.contender import FAN_OUT, Address, Contender

PROGRAM: Final = "bus.bench.peers.worker"
BEGIN_SECONDS: Final = 0.15
"""Between the order and the beginning, so that every process has it in time."""
OPEN_SECONDS: Final = 240.0
"""For a server, for 75 agents that get their keys, and for 75 who are invited one by one."""
SMALLER: Final = 8
"""The window's part where each message is 75 deliveries, or a sync."""
SETTLE_SECONDS: Final = 60.0
END_SECONDS: Final = 30.0
_LONGEST_LINE: Final = 1 << 20

TOGETHER: Final = {
    "1to1": (("read",), ("send",)),
    "1to75": (("read", "send"),),
    "reqrep": (("answer",), ("ask",)),
    "durable": (("read_kept",), ("send_kept",)),
}
"""Who shares a process with whom; who is heard comes first, because it must be there first."""


class CrewError(Exception):
    """A process of this bus could not do what it was told; it ends the bus's row and nothing else. `said`: its last words."""

    def __init__(self, what: str, *, said: str = "") -> None:
        self.said = said
        super().__init__(f"{what}; it said: {said or 'nothing'}")


@dataclass(frozen=True, slots=True)
class Settings:
    workload: str
    seconds: float = 2.0
    warm_seconds: float = 0.5
    size: int = 256
    rate: float | None = None
    """Messages a second by the clock; None for as many as the reader takes."""


class Hand:
    """One process."""

    def __init__(self, process: Process, log: Path) -> None:
        self._process, self._log = process, log
        if process.stdin is None or process.stdout is None:
            raise ValueError("it needs pipes")
        self._told, self._said = process.stdin, BufferedByteReceiveStream(process.stdout)

    async def tell(self, **words: Any) -> None:
        try:
            await self._told.send(json.dumps(words).encode() + b"\n")
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise await self._failure("a process of it ended") from None

    async def hear(self, seconds: float) -> dict[str, Any]:
        try:
            with anyio.fail_after(seconds):
                line = await self._said.receive_until(b"\n", _LONGEST_LINE)
        except TimeoutError:
            raise await self._failure(f"no answer in {seconds:.0f} s") from None
        except (anyio.EndOfStream, anyio.IncompleteRead):
            raise await self._failure("a process of it ended") from None
        document: dict[str, Any] = json.loads(line)
        return document

    async def end(self) -> None:
        """It closes what it has open, or is killed."""
        with anyio.CancelScope(shield=True):
            await self._told.aclose()
            with anyio.move_on_after(END_SECONDS):
                await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            await self._said.aclose()

    async def _failure(self, what: str) -> CrewError:
        lines = [line.strip(" |+-") for line in (await anyio.Path(self._log).read_text(errors="replace")).splitlines()]
        said = [line for line in lines if line]
        return CrewError(what, said=said[-1][:300] if said else "")


class Crew:
    """`async with crew(..)` gives one; `run` measures once, by this way of using the bus or by another one at the same server."""

    def __init__(self, contender: Contender, folder: Path) -> None:
        self.contender, self._folder, self._numbers = contender, folder, count(1)
        self._server: Hand | None = None
        self._address: Address = {"folder": str(folder)}

    async def serve(self, stack: AsyncExitStack) -> None:
        if self.contender.serve is not None:
            told = {"bus": self.contender.name, "roles": ["serve"], "address": self._address}
            self._server, said = await self._hire(stack, told)
            self._address = said["address"]

    async def run(self, settings: Settings, way: Contender | None = None) -> dict[str, Any]:
        """What every process said, put together."""
        number, way = next(self._numbers), way or self.contender
        roles = TOGETHER[settings.workload]
        if way.alone:
            roles = (tuple(role for one in roles for role in one),)
        told = self._telling(settings, number, way) | {"bus": way.name}
        async with AsyncExitStack() as stack:
            hands = [(await self._hire(stack, told | {"roles": list(one)}))[0] for one in roles]
            return await self._measure(hands, settings, number)

    def _telling(self, settings: Settings, number: int, way: Contender) -> dict[str, Any]:
        readers = FAN_OUT if settings.workload == "1to75" else 1
        window = way.window if settings.workload == "1to1" else way.window // SMALLER
        address = self._address | {"run": f"run-{number}", "readers": readers}
        told: dict[str, Any] = {"address": address, "window": window, "chunk": window // 32}
        if settings.rate is None and settings.workload != "reqrep":
            pipe = self._folder / f"credit-{number}"
            os.mkfifo(pipe, 0o600)
            told["pipe"] = str(pipe)
        return told

    async def _measure(self, hands: Sequence[Hand], settings: Settings, number: int) -> dict[str, Any]:
        order = Order(
            number=number,
            rate=settings.rate or 1.0,
            begin_ns=time.monotonic_ns() + int(BEGIN_SECONDS * 1e9),
            warm_seconds=settings.warm_seconds,
            seconds=settings.seconds,
            size=settings.size,
        )
        everybody = [*hands, *([self._server] if self._server is not None else [])]
        for hand in everybody:
            await hand.tell(order=order.packed(), is_open=settings.rate is not None)
        patience = settings.warm_seconds + settings.seconds + SETTLE_SECONDS
        found: dict[str, Any] = {"cpu_seconds": 0.0}
        for hand in everybody:
            found |= await hand.hear(patience)
        for hand in everybody:  # readers first: what is on its way is in everybody's processor time
            await hand.tell(sent=found.get("sent", 0))
            said = await hand.hear(SETTLE_SECONDS)
            found |= said | {"cpu_seconds": found["cpu_seconds"] + said["cpu_seconds"]}
        return found

    async def _hire(self, stack: AsyncExitStack, told: Mapping[str, Any]) -> tuple[Hand, dict[str, Any]]:
        log = self._folder / f"{told['bus']}-{'-'.join(told['roles'])}.log"
        with log.open("wb") as errors:
            process = await anyio.open_process([sys.executable, "-P", "-m", PROGRAM], stdin=PIPE, stdout=PIPE, stderr=errors)
        hand = Hand(process, log)
        stack.push_async_callback(hand.end)
        await hand.tell(**told)
        return hand, await hand.hear(OPEN_SECONDS)


@asynccontextmanager
async def crew(contender: Contender, folder: Path) -> AsyncIterator[Crew]:
    """Its server runs, if it has one."""
    await anyio.Path(folder).mkdir()
    async with AsyncExitStack() as stack:
        one = Crew(contender, folder)
        await one.serve(stack)
        yield one
