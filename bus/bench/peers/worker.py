"""A process of one bus: it opens what it is told, says that it is ready, and does one run after the other. JSON lines both ways.

    <- {"bus": "nats", "roles": ["read"], "address": {..}, "pipe": ..}   opens it; "serve" answers with the address for the others
    -> {"ready": true, "address": {..}}
    <- {"order": {..}, "is_open": false}                       one run
    -> {"sent": .., "window": ..}                              after its window
    <- {"sent": 51200}                                         it is over: what readers must have got
    -> {"cpu_seconds": .., "delivered": .., "lost": ..}
    (end of input)                                             everything is closed

Libraries that write on stdout are heard on stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TextIO

import anyio

from bus.bench.ear import Ear
from bus.bench.order import Order
from bus.bench.peers import workload
from bus.bench.peers.catalogue import CONTENDERS, VARIANTS
from bus.bench.peers.contender import Address, Ask, Contender, Send, Take
from bus.bench.peers.credit import crediting, now_ns
from bus.bench.peers.processors import spent_seconds
from bus.bench.peers.workload import Run

_NO_RUN: Final = Order(0, 1.0, 0, 0.0, 0.0, 64)


class WaitingEar(Ear):
    """Whoever reads is there before the run is known, and keeps the same `hear`."""

    def __init__(self) -> None:
        super().__init__(_NO_RUN, now_ns, sources=1)

    def begin(self, order: Order) -> None:
        super().__init__(order, now_ns, sources=1)


class Worker:
    def __init__(self, told: Mapping[str, Any]) -> None:
        self._contender: Contender = (CONTENDERS | VARIANTS)[told["bus"]]
        self._roles: Sequence[str] = told["roles"]
        self._address: Address = told["address"]
        self._pipe = Path(told["pipe"]) if told.get("pipe") else None
        self._window, self._chunk = told.get("window", 0), told.get("chunk", 0)
        self._ears: list[WaitingEar] = []
        self._send: Send | None = None
        self._ask: Ask | None = None

    async def work(self, lines: Lines, say: Callable[..., None]) -> None:
        async with AsyncExitStack() as stack:
            for role in self._roles:
                await self._open(role, stack)
            say(ready=True, address=self._address if "serve" in self._roles else None)
            while (asked := await lines.next()) is not None:
                run, others = self._asked(asked), self.served_by
                before = spent_seconds(others)
                say(**await self._run(run))
                over = await lines.next()
                found = await workload.settled(self._ears, over["sent"] if over else 0) if self._ears else {}
                say(cpu_seconds=spent_seconds(others) - before, **found)

    @property
    def served_by(self) -> Sequence[int]:
        """Servers that are no workers, by their ids. Everybody knows them, and one counts what they spend: who began them."""
        pids: Sequence[int] = self._address.get("pids", ()) if "serve" in self._roles else ()
        return pids

    def _asked(self, asked: Mapping[str, Any]) -> Run:
        order, readers = Order.unpacked(asked["order"]), self._address.get("readers", 1)
        return Run(order, asked["is_open"], self._pipe, self._window, self._chunk, readers)

    async def _open(self, role: str, stack: AsyncExitStack) -> None:
        contender, address = self._contender, self._address
        read = {"read": contender.read, "read_kept": contender.read_kept}.get(role)
        send = {"send": contender.send, "send_kept": contender.send_kept}.get(role)
        if role == "serve" and contender.serve is not None:
            address |= await stack.enter_async_context(contender.serve(address))
        elif role == "answer" and contender.answer is not None:
            await stack.enter_async_context(contender.answer(address))
        elif role == "ask" and contender.ask is not None:
            self._ask = await stack.enter_async_context(contender.ask(address))
        elif read is not None:
            self._ears = [WaitingEar() for _ in range(address["readers"])]
            await stack.enter_async_context(read(address, [self._take(ear, stack) for ear in self._ears]))
        elif send is not None:
            self._send = await stack.enter_async_context(send(address))
        else:
            raise ValueError(f"{contender.name} has no {role!r}")

    def _take(self, ear: Ear, stack: AsyncExitStack) -> Take:
        if self._pipe is None:
            return ear.hear
        take, close = crediting(ear.hear, self._pipe, chunk=self._chunk)
        stack.callback(close)
        return take

    async def _run(self, run: Run) -> dict[str, Any]:
        found: dict[str, Any] = {}

        async def hear() -> None:
            found["window"] = await workload.heard_in_window(run.order, self._ears)

        async def send(send_them: Send) -> None:
            found["sent"] = await workload.send_all(run, send_them)

        async def ask(ask_one: Ask) -> None:
            found.update(await workload.ask_all(run, ask_one))

        for ear in self._ears:
            ear.begin(run.order)
        async with anyio.create_task_group() as group:
            if self._ears:
                group.start_soon(hear)
            if self._send is not None:
                group.start_soon(send, self._send)
            if self._ask is not None:
                group.start_soon(ask, self._ask)
        return found


class Lines:
    """JSON documents from a pipe, one a line."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self._descriptor, self._left = descriptor, b""

    async def next(self) -> dict[str, Any] | None:
        """None at the end."""
        while b"\n" not in self._left:
            await anyio.wait_readable(self._descriptor)
            part = os.read(self._descriptor, 1 << 16)
            if not part:
                return None
            self._left += part
        line, _, self._left = self._left.partition(b"\n")
        document: dict[str, Any] = json.loads(line)
        return document


async def work(said: TextIO) -> None:
    def say(**facts: Any) -> None:
        shown = {name: value for name, value in facts.items() if name != "address"}
        if facts.get("address"):  # what roles of one process share is no word for others
            shown["address"] = {name: value for name, value in facts["address"].items() if not name.startswith("_")}
        print(json.dumps(shown), file=said, flush=True)

    lines = Lines(sys.stdin.fileno())
    told = await lines.next()
    if told is not None:
        await Worker(told).work(lines, say)


def main() -> None:
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    anyio.run(work, said, backend_options={"use_uvloop": find_spec("uvloop") is not None})


if __name__ == "__main__":
    main()
