"""Readers: each counts and times what it hears, message by message, as programs read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import anyio

from bus.agent.agent import Agent
from bus.bench.ear import Ear
from bus.bench.order import Order
from bus.bench.part import Hears
from bus.bench.scenario import Hooks
from bus.errors import BusError

_NOTHING = Order(number=0, rate=1.0, begin_ns=0, warm_seconds=0.0, seconds=1.0, size=64)


class Reader:
    """One subscription, for all steps of a run."""

    def __init__(self, agent: Agent, row: Hears, hooks: Hooks) -> None:
        self._agent, self._row, self._hook = agent, row, hooks.hear
        self.ear = Ear(_NOTHING, time.monotonic_ns, sources=0)

    def expect(self, order: Order, *, sources: int, kinds: Sequence[str] = ()) -> None:
        self.ear = Ear(order, time.monotonic_ns, sources=sources, kinds=kinds)

    async def run(self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started when it listens."""
        row = self._row
        async with self._agent.subscribe(row.pattern, group=row.group, durable=row.durable) as subscription:
            task_status.started()
            if self._hook is None and row.durable is None and not row.answers:
                async for message in subscription:
                    self.ear.hear(message.data)
            async for message in subscription:
                self.ear.hear(message.data)
                await self._deal_with(message)

    async def _deal_with(self, message: Any) -> None:
        if self._hook is not None:
            await self._hook(message)
        with suppress(BusError):  # the link is gone, or nobody waits any more: what is missing is counted where it was to come
            if self._row.durable is not None:
                await message.ack()
            if self._row.answers and message.is_request:
                await message.reply(message.data)
