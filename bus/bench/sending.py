"""Senders: each sends by the clock, in a loop that nobody slows down but the bus itself, by taking no more.

What the bus does not take until the step's deadline is not sent any more: it is counted as `too_late`, so that a rate far too
high ends with its step. What is taken and what is not adds up to what was due.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import anyio

from bus.agent.agent import Agent
from bus.agent.receipts import Receipt
from bus.bench.ear import Ear, packed
from bus.bench.order import Order
from bus.bench.pace import Pace
from bus.bench.part import Sends
from bus.bench.record import HEADER_BYTES, Bodies
from bus.bench.scenario import Hooks, Scenario, checked
from bus.errors import BusError, MessageTooLargeError, NotPermittedError, OverloadedError
from bus.metrics.histogram import Histogram

AT_ONCE: Final = 1_024
"""Messages between two looks at the clock, when many are due."""
REQUEST_SECONDS: Final = 5.0
DRAIN_SECONDS: Final = 10.0
NEVER_LEFT: Final = (MessageTooLargeError, NotPermittedError, OverloadedError)
"""Of a request: refused before it was sent. After any other error it may have been on its way, so that it is lost."""
_PIECES: Final = 16
"""Of what is handed over together: how late each is said to have been."""


class Sender:
    """One agent on one topic, for one step."""

    def __init__(self, agent: Agent, row: Sends, order: Order, scenario: Scenario, hooks: Hooks) -> None:
        self._agent, self._row, self._order, self._scenario = agent, row, order, scenario
        self.pace = Pace(order, sender=row.number, senders=scenario.senders)
        self.sent, self.asking, self.not_sent, self.late = 0, 0, Counter[str](), Histogram()
        self._make = maker(row.number, order, hooks)
        self._receipts: deque[Receipt] = deque()
        self.replies = Ear(order, time.monotonic_ns, sources=scenario.senders)
        """Of requests: the reply has the request's body, so it counts from when the request was due."""

    async def run(self) -> None:
        """Send what is due, and return when the bus has dealt with it."""
        async with anyio.create_task_group() as questions:
            is_asking = self._scenario.kind == "requests"
            await self._loop((lambda first, last: self._ask(first, last, questions)) if is_asking else self._sends())
        try:
            with anyio.move_on_after(DRAIN_SECONDS):
                await self._stored(0)
                await self._agent.drain()
        except BusError as error:
            self._fail(error, 0)

    def reading(self) -> dict[str, Any]:
        readers = 1 if self._scenario.kind == "requests" else self._scenario.readers
        due = self.pace.total
        not_sent = due - self.sent - sum(self.not_sent.values())
        return {
            "due": due * readers,
            "sent": self.sent,
            "copies": self.sent * readers,
            "not_sent": dict(self.not_sent + Counter(too_late=not_sent)),
            "late": packed(self.late),
        }

    async def _loop(self, send: Callable[[int, int], Awaitable[None]]) -> None:
        pace, number, deadline_ns = self.pace, 0, self._order.deadline_ns
        async with pace.ticking() as tick:
            while number < pace.total:
                await tick()
                last = pace.due()  # what becomes due meanwhile is for the next tick, or nobody else would have a turn before that
                while number < (due := min(last, number + AT_ONCE)):
                    if time.monotonic_ns() > deadline_ns:
                        return
                    await send(number, due)
                    self._note_how_late(number, due)
                    number = due

    def _note_how_late(self, first: int, last: int) -> None:
        """Of what was handed over together the first was due before the last: after a stall, long before."""
        now_ns, step = time.monotonic_ns(), max((last - first) // _PIECES, 1)
        for number in range(first, last, step):
            self.late.add((now_ns - self.pace.due_ns(number)) / 1e9, times=min(step, last - number))

    def _sends(self) -> Callable[[int, int], Awaitable[None]]:
        if self._scenario.delivery != "live":
            return self._publish_soon
        return self._publish_many if self._scenario.call == "publish_many" else self._publish

    async def _publish(self, first: int, last: int) -> None:
        publish, topic, make, due_ns, every = self._agent.publish, self._row.topic, self._make, self.pace.due_ns, self._every
        for number in range(first, last):
            try:
                await publish(topic, make(number, 0 if number % every else due_ns(number)))
                self.sent += 1
            except BusError as error:
                self._fail(error, 1)

    async def _publish_many(self, first: int, last: int) -> None:
        make, due_ns, every = self._make, self.pace.due_ns, self._every
        bodies = (make(number, 0 if number % every else due_ns(number)) for number in range(first, last))
        try:
            self.sent += await self._agent.publish_many(self._row.topic, bodies)
        except BusError as error:
            accepted = int(getattr(error, "accepted", 0))
            self.sent += accepted
            self._fail(error, last - first - accepted)

    async def _publish_soon(self, first: int, last: int) -> None:
        """What waits for the TPM or the disk: a receipt each."""
        for number in range(first, last):
            body = self._make(number, 0 if number % self._every else self.pace.due_ns(number))
            try:
                self._receipts.append(await self._agent.publish_soon(self._row.topic, body))
                self.sent += 1
                await self._stored(self._scenario.in_flight)
            except BusError as error:
                self._fail(error, 1)

    async def _stored(self, most: int) -> None:
        """Until no more than so many are on their way to the disk."""
        while len(self._receipts) > most:
            receipt = self._receipts.popleft()
            if receipt.durable:
                await receipt.stored()

    async def _ask(self, first: int, last: int, questions: anyio.abc.TaskGroup) -> None:
        for number in range(first, last):
            if self.asking >= self._scenario.in_flight:
                self.not_sent["overloaded"] += 1
            else:
                self.sent += 1
                self.asking += 1
                questions.start_soon(self._question, self._make(number, self.pace.due_ns(number)))
        await anyio.lowlevel.checkpoint()

    async def _question(self, body: bytes) -> None:
        try:
            reply = await self._agent.request(self._row.topic, body, timeout=REQUEST_SECONDS)
        except NEVER_LEFT as error:
            self._fail(error, 1)
            self.sent -= 1
        except BusError:
            return  # sent, and no reply was heard: that is what `lost` counts
        else:
            self.replies.hear(reply.data)
        finally:
            self.asking -= 1

    @property
    def _every(self) -> int:
        return self._order.stamp_every

    def _fail(self, error: BusError, messages: int) -> None:
        self.not_sent[reason(error)] += messages


def maker(source: int, order: Order, hooks: Hooks) -> Callable[[int, int], bytes]:
    """(number, due_ns) -> body; with the scenario's own words behind the header, if it has some."""
    make, body = Bodies(source).maker(step=order.number, size=order.size), hooks.body
    if body is None:
        return make
    head, own = Bodies(source).maker(step=order.number, size=HEADER_BYTES), checked(body, order.size - HEADER_BYTES)
    return lambda number, due_ns: head(number, due_ns) + own(number)


def reason(error: BusError) -> str:
    return str(getattr(error, "reason", None) or type(error).__name__)
