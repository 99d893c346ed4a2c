"""A process that sends and hears, or is the hub, or both. Started by `crowd`; asked over its stdin, it answers on its stdout.

    worker  {"ready": .., "urls": [..]}                  its agents are open, and those who read listen
    parent  {"do": "order", "order": {..}}               worker {}            readers are new, senders wait for the beginning
    parent  {"do": "look"}                               worker {"sent", "heard", "done", "copies"}
    parent  {"do": "read"}                               worker {"reading"}   what came of the step; who still sends is stopped
    parent  (closes)                                     worker ends

Processor time and statistics are noted by the worker itself, at both ends of the window. `python -m bus.bench.worker PART`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, suppress
from importlib.util import find_spec
from typing import Any, Final

import anyio
import anyio.streams.file
from anyio.abc import TaskGroup
from anyio.streams.buffered import BufferedByteReceiveStream

from bus.agent.agent import Agent
from bus.bench.ear import Ear, added
from bus.bench.hearing import Reader
from bus.bench.mixed import MixSender, hears, kinds, reference, sources
from bus.bench.order import Order
from bus.bench.pace import Pace
from bus.bench.part import FORBIDDEN, Part
from bus.bench.place import Place, host_statistics, opened
from bus.bench.record import Bodies
from bus.bench.scenario import Hooks, hooks
from bus.bench.sending import Sender
from bus.errors import BusError, NotPermittedError
from bus.fleet.mix import Mix
from bus.hub.collecting import leave_what_is_here
from bus.hub.hub import Hub
from bus.metrics import sources as numbers

MAX_LINE_BYTES: Final = 1 << 20
_SAMPLE: Final = 2_000


class Worker:
    def __init__(self, part: Part, place: Place, hub: Hub | None, tasks: TaskGroup) -> None:
        self._part, self._place, self._hub, self._tasks = part, place, hub, tasks
        self._hooks: Hooks = hooks(part.scenario.program)
        self._mix: Mix | None = reference() if part.mixed else None
        self._agents: dict[str, Agent] = {}
        self._readers: list[Reader] = []
        self._senders: list[Sender | MixSender] = []
        self._speaking = anyio.CancelScope()
        self._is_done = True
        self._marks: list[dict[str, Any]] = []
        self._refuses = 0

    async def open(self, stack: AsyncExitStack) -> None:
        part, mix = self._part, self._mix
        rows = [*part.hears, *(row for name in part.mixed for row in (hears(mix, name) if mix else ()))]
        for name in dict.fromkeys([*(row.agent for row in part.sends), *(row.agent for row in rows), *part.mixed]):
            self._agents[name] = await stack.enter_async_context(self._place.agent(name))
            if self._hooks.opened is not None:
                self._hooks.opened(self._agents[name])
        self._readers = [Reader(self._agents[row.agent], row, self._hooks) for row in rows]
        for reader in self._readers:
            await self._tasks.start(reader.run)
        for name in [*(row.agent for row in part.sends), *part.mixed][:1]:
            await self._be_refused(self._agents[name])

    async def _be_refused(self, agent: Agent) -> None:
        """That policy is on is tried, not assumed."""
        try:
            await agent.publish(FORBIDDEN, b"")
        except NotPermittedError:
            self._refuses += 1

    def order(self, order: Order) -> None:
        part, mix = self._part, self._mix
        count, told_apart = (len(sources(mix)), kinds(mix)) if mix else (part.scenario.senders, [])
        for reader in self._readers:
            reader.expect(order, sources=count, kinds=told_apart)
        self._senders = [Sender(self._agents[row.agent], row, order, part.scenario, self._hooks) for row in part.sends]
        if mix:
            self._senders = [MixSender(mix, {name: self._agents[name] for name in part.mixed}, order)]
        self._speaking, self._is_done, self._marks = anyio.CancelScope(), False, []
        self._tasks.start_soon(self._speak)
        self._tasks.start_soon(self._note_both_ends, order)

    async def _speak(self) -> None:
        with self._speaking:
            async with anyio.create_task_group() as tasks:
                for sender in self._senders:
                    tasks.start_soon(sender.run)
        self._is_done = True

    async def _note_both_ends(self, order: Order) -> None:
        for at_ns in (order.measure_ns, order.end_ns):
            await anyio.sleep(max((at_ns - time.monotonic_ns()) / 1e9, 0))
            await self._note()

    async def _note(self) -> None:
        mark: dict[str, Any] = {"ns": time.monotonic_ns(), "cpu": time.process_time(), "sent": self._sent, "heard": self._heard}
        mark["hosts"] = numbers.plain(numbers.added(host_statistics(self._agents)))
        if self._hub is not None:
            with suppress(BusError):  # a broker that was killed tells nothing until it is there again
                mark["hub"] = numbers.plain(await self._hub.statistics())
        self._marks.append(mark)

    @property
    def _sent(self) -> int:
        return sum(sender.sent for sender in self._senders)

    @property
    def _ears(self) -> list[Ear]:
        """Requests are heard where their replies come."""
        if self._part.scenario.kind == "requests":
            return [sender.replies for sender in self._senders if isinstance(sender, Sender)]
        return [reader.ear for reader in self._readers]

    def _asked(self) -> dict[str, int]:
        """What went wrong with requests on their way to who answers: that the reply comes once and in its turn does not tell."""
        ears = [reader.ear for reader in self._readers] if self._part.scenario.kind == "requests" else []
        whole = added(ear.reading() for ear in ears)
        return {name: whole[name] for name in ("duplicated", "reordered")}

    @property
    def _heard(self) -> int:
        return sum(ear.heard for ear in self._ears)

    def look(self) -> dict[str, Any]:
        copies = sum(sender.reading()["copies"] for sender in self._senders) if self._is_done else 0
        return {"sent": self._sent, "heard": self._heard, "done": self._is_done, "copies": copies}

    async def read(self) -> dict[str, Any]:
        self._speaking.cancel()
        while len(self._marks) < 2:
            await self._note()
        return {
            "name": self._part.name,
            "pid": os.getpid(),
            "marks": self._marks,
            "senders": [sender.reading() for sender in self._senders],
            "ear": added(ear.reading() for ear in self._ears),
            "asked": self._asked(),
            "refuses": self._refuses,
        }


def harness_cost(size: int) -> dict[str, float]:
    """Microseconds of processor time that making a body and hearing one take, without a bus in between."""
    order = Order(number=1, rate=1_000.0, begin_ns=time.monotonic_ns(), warm_seconds=0.0, seconds=_SAMPLE / 1e3, size=size)
    make, pace, ear = Bodies(0).maker(step=1, size=size), Pace(order), Ear(order, time.monotonic_ns, sources=1)
    began = time.thread_time()
    bodies = [make(number, pace.due_ns(number)) for number in range(_SAMPLE)]
    made = time.thread_time()
    for body in bodies:
        ear.hear(body)
    return {"make": (made - began) / _SAMPLE * 1e6, "hear": (time.thread_time() - made) / _SAMPLE * 1e6}


async def work(part: Part) -> None:
    lines = BufferedByteReceiveStream(anyio.streams.file.FileReadStream(os.fdopen(os.dup(0), "rb", buffering=0)))
    async with AsyncExitStack() as stack:
        place, hub = await stack.enter_async_context(opened(part))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        worker = Worker(part, place, hub, tasks)
        await worker.open(stack)
        if part.mixed:
            leave_what_is_here()  # as the processes of a fleet do, which this one stands for
        _say(ready=part.name, urls=[] if hub is None else list(hub.urls), harness=harness_cost(part.scenario.size))
        while True:
            try:
                asked = json.loads(await lines.receive_until(b"\n", MAX_LINE_BYTES))
            except (anyio.IncompleteRead, anyio.EndOfStream):
                break
            _say(number=asked["number"], **await _answer(worker, asked))
        tasks.cancel_scope.cancel()


async def _answer(worker: Worker, asked: Mapping[str, Any]) -> dict[str, Any]:
    if asked["do"] == "order":
        worker.order(Order.unpacked(asked["order"]))
        return {}
    if asked["do"] == "look":
        return worker.look()
    return {"reading": await worker.read()}


def _say(**document: Any) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main(text: str) -> None:
    part = Part.of_document(json.loads(text))
    said: list[str] = []
    try:
        anyio.run(work, part, backend_options={"use_uvloop": find_spec("uvloop") is not None})
    except* BusError as errors:
        said += [str(error) for error in _single(errors)]
    if said:
        sys.exit(f"{part.name}: {said[0]}")


def _single(errors: BaseExceptionGroup[BusError]) -> Iterator[BusError]:
    for error in errors.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _single(error)
        else:
            yield error


if __name__ == "__main__":
    main(sys.argv[1])
