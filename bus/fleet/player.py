"""Plays the reference traffic with the agents of this process, and keeps its own books of what became of each message.

It sends by the clock and never waits for anybody (an open loop): what finds no room at the moment when it is due is counted as
`overloaded`, and the next is sent when *it* is due. Every body begins with the nanosecond at which it was handed to the bus: so its
readers know how long it took, in other processes of the machine too.

What it counts is independent of what hosts and brokers count; `books` holds the two against each other.
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final

import anyio

from bus.clock import Clock
from bus.errors import BusError, NoRespondersError, OverloadedError, RequestError
from bus.fleet.mix import Hears, Mix, Sending
from bus.metrics.histogram import Histogram

if TYPE_CHECKING:
    from bus.agent.agent import Agent
    from bus.agent.message import Message

STAMP_BYTES: Final = 8
MAX_QUESTIONS: Final = 512
"""Requests that wait for their replies at once; more are `overloaded`."""
REPLY_SECONDS: Final = 5.0
_POOL_BYTES: Final = 1 << 20


class Player:
    """`now_ns` is a clock that all processes of this machine share."""

    def __init__(
        self, mix: Mix, role_of: Callable[[str], str], *, clock: Clock, seed: int = 1, now_ns: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._mix, self._role_of, self._clock, self._seed, self._now_ns = mix, role_of, clock, seed, now_ns
        self._pool = random.Random(seed).randbytes(_POOL_BYTES)  # noqa: S311  bodies that differ, and hide nothing
        self._topics = frozenset(topic for row in mix.sends for topic in row.topics)
        """The others are what the agents say of their own accord."""
        self.published: Counter[str] = Counter()
        """Messages by topic, once for each."""
        self.not_sent: Counter[str] = Counter()
        """Messages that were due and could not be sent, by reason."""
        self.delivered: Counter[str] = Counter()
        """By topic, once for each reader."""
        self.dropped: Counter[str] = Counter()
        """What readers were told they missed, once for each reader."""
        self.replies = 0
        self.latency = Histogram()
        self.round_trip = Histogram()
        self.talk: Counter[tuple[str, str]] = Counter()
        """Deliveries by the roles of sender and reader."""

    # ---- listening -----------------------------------------------------------------------------------------------------------

    def listens(self, agent: str) -> list[Hears]:
        return [row for row in self._mix.hears if row.agent == agent]

    async def listen(
        self, agent: Agent, row: Hears, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """One subscription, until cancelled; started when it is live."""
        async with agent.subscribe(row.pattern, group=row.group, durable=row.durable) as subscription:
            task_status.started()
            role = self._role_of(row.agent)
            async for batch in subscription.batches():
                first = batch[0]
                if first.topic in self._topics:
                    self._note(first.topic, first.sender, role, batch)
                if row.durable is not None:
                    for message in batch:
                        await message.ack()
                if row.answers:
                    for message in batch:
                        await self._answer(message)

    def _note(self, topic: str, sender: str, role: str, batch: list[Message]) -> None:
        now, latency, again = self._now_ns(), self.latency, 0
        for message in batch:
            data = message.data
            if message.redelivered:
                again += 1
            elif len(data) >= STAMP_BYTES:
                latency.add((now - int.from_bytes(data[:STAMP_BYTES], "big")) / 1e9)
        self.delivered[topic] += len(batch) - again
        if batch[0].missed:
            self.dropped["missed"] += batch[0].missed
        self.talk[self._role_of(sender), role] += len(batch)

    async def _answer(self, message: Message) -> None:
        if message.is_request:
            try:
                await message.reply(message.data)
            except BusError as error:
                self.not_sent[_reason(error)] += 1

    # ---- sending -------------------------------------------------------------------------------------------------------------

    async def send(self, agents: Mapping[str, Agent], *, rate: float, until: AbstractContextManager[Any]) -> None:
        """What these agents have to send of the whole fleet's `rate` messages a second, until that is cancelled.

        What was asked by then is waited for.
        """
        async with anyio.create_task_group() as questions:
            outstanding = 0

            async def question(agent: Agent, topic: str, body: bytes) -> None:
                nonlocal outstanding
                try:
                    await self._ask(agent, topic, body)
                finally:
                    outstanding -= 1

            with until:
                async for sending in self._due(agents, rate):
                    agent, body = agents.get(sending.agent), self._body(sending)
                    if agent is None:  # lost while its message was not due yet
                        continue
                    if not sending.request:
                        self._publish(agent, sending.topic, body)
                    elif outstanding < MAX_QUESTIONS:
                        outstanding += 1
                        questions.start_soon(question, agent, sending.topic, body)
                    else:
                        self.not_sent["overloaded"] += 1

    async def _due(self, agents: Collection[str], rate: float) -> AsyncIterator[Sending]:
        began, turn = self._clock.monotonic(), 0
        for sending in self._mix.schedule(rate=rate, seed=self._seed):
            if sending.agent not in agents:
                continue
            ahead = sending.at - (self._clock.monotonic() - began)
            turn += 1
            if ahead > 0:
                await self._clock.sleep(ahead)
            elif turn % 64 == 0:
                await anyio.lowlevel.checkpoint()  # late, and yet the others have their turn
            yield sending

    def _publish(self, agent: Agent, topic: str, body: bytes) -> None:
        try:
            agent.publish_nowait(topic, body)
        except BusError as error:
            self.not_sent[_reason(error)] += 1
        else:
            self.published[topic] += 1

    async def _ask(self, agent: Agent, topic: str, body: bytes) -> None:
        self.published[topic] += 1
        began = self._clock.monotonic()
        try:
            await agent.request(topic, body, timeout=REPLY_SECONDS)
        except NoRespondersError:
            self.published[topic] -= 1
            self.not_sent["no_responders"] += 1
        except RequestError:
            self.not_sent["no_reply"] += 1
        except BusError as error:
            self.published[topic] -= 1
            self.not_sent[_reason(error)] += 1
        else:
            self.replies += 1
            self.round_trip.add(self._clock.monotonic() - began)

    def _body(self, sending: Sending) -> bytes:
        stamp = self._now_ns()
        size = max(sending.size - STAMP_BYTES, 0)
        start = stamp % (_POOL_BYTES - size)
        return stamp.to_bytes(STAMP_BYTES, "big") + self._pool[start : start + size]

    # ---- books ---------------------------------------------------------------------------------------------------------------

    def reading(self) -> dict[str, Any]:
        """All of it, for a process that adds up several."""
        return {
            "published": dict(self.published),
            "not_sent": dict(self.not_sent),
            "delivered": dict(self.delivered),
            "dropped": dict(self.dropped),
            "replies": self.replies,
            "talk": {f"{sender}>{reader}": count for (sender, reader), count in self.talk.items()},
            "latency": self.latency.packed(),
            "round_trip": self.round_trip.packed(),
        }


def _reason(error: BusError) -> str:
    return "overloaded" if isinstance(error, OverloadedError) else str(getattr(error, "reason", type(error).__name__))
