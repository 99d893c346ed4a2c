"""The reference traffic (agents/mix.yaml) as a step: its agents, topics, sizes and shares, by the same clock and books as all else.

Its messages come at random moments that are the same for the same seed. Each counts from when it was due.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final

import anyio

from bus.agent.agent import Agent
from bus.bench.ear import packed
from bus.bench.order import Order
from bus.bench.pace import TICK_SECONDS
from bus.bench.part import Hears
from bus.bench.record import MIN_BODY_BYTES, Bodies
from bus.bench.sending import DRAIN_SECONDS, REQUEST_SECONDS, reason
from bus.bench.ticking import ticks
from bus.errors import BusError
from bus.fleet import books
from bus.fleet.mix import Mix, Sending, read_mix
from bus.metrics.histogram import Histogram
from bus.policy import open_policy
from bus.shipped import folder

MOST_QUESTIONS: Final = 512
SEED: Final = 1


def reference() -> Mix:
    path = folder("agents") / "mix.yaml"
    return read_mix(path.read_bytes(), file=str(path), policy=open_policy(None))


def sources(mix: Mix) -> dict[tuple[str, str], int]:
    """The number of each agent on each topic, the same in every process."""
    pairs = dict.fromkeys((agent, topic) for row in mix.sends for agent in row.agents for topic in row.topics)
    return {pair: number for number, pair in enumerate(pairs)}


def kinds(mix: Mix) -> list[str]:
    """Of each source, by its number: what its messages wait for besides. `durable`: the disk; `identity`: the TPM, for each."""
    policy = open_policy(None)
    rules = [policy.topic_rule(topic) for _, topic in sources(mix)]
    return ["durable" if rule.is_durable else rule.signed_by for rule in rules]


def hears(mix: Mix, agent: str) -> list[Hears]:
    return [Hears(agent, row.pattern, row.group, row.durable, row.answers) for row in mix.hears if row.agent == agent]


class MixSender:
    """Of all agents of this process, for one step."""

    def __init__(self, mix: Mix, agents: Mapping[str, Agent], order: Order) -> None:
        self._mix, self._agents, self._order = mix, agents, order
        self._sources = sources(mix)
        self._bodies = {number: Bodies(number) for number in self._sources.values()}
        self._numbers = Counter[int]()
        self._readers = {topic: books.readers(mix, topic) for row in mix.sends for topic in row.topics}
        self.sent, self.due, self.copies, self.asking, self.unanswered = 0, 0, 0, 0, 0
        self.not_sent, self.late, self.round_trip = Counter[str](), Histogram(), Histogram()

    async def run(self) -> None:
        ticking = ticks(TICK_SECONDS, self._order.begin_ns)
        async with anyio.create_task_group() as questions, ticking as tick:
            for sending in self._schedule():
                due_ns = self._order.begin_ns + round(sending.at * 1e9)
                while time.monotonic_ns() < due_ns:
                    await tick()
                self._send(sending, due_ns, questions)
        with anyio.move_on_after(DRAIN_SECONDS):
            for agent in self._agents.values():
                await agent.drain()

    def reading(self) -> dict[str, Any]:
        found = {"due": self.due, "sent": self.sent, "copies": self.copies, "unanswered": self.unanswered}
        return found | {"not_sent": dict(self.not_sent)} | {"late": packed(self.late), "round_trip": packed(self.round_trip)}

    def _schedule(self) -> Iterator[Sending]:
        order = self._order
        for sending in self._mix.schedule(rate=order.rate, seed=SEED):
            if sending.at >= order.warm_seconds + order.seconds:
                return
            if sending.agent in self._agents:
                yield sending

    def _send(self, sending: Sending, due_ns: int, questions: anyio.abc.TaskGroup) -> None:
        now_ns, readers = time.monotonic_ns(), self._readers[sending.topic]
        self.due += readers
        if now_ns > self._order.deadline_ns:
            self.not_sent["too_late"] += 1
            return
        source = self._sources[sending.agent, sending.topic]
        stamp = 0 if self._numbers[source] % self._order.stamp_every else due_ns
        size = max(sending.size, MIN_BODY_BYTES)
        body = self._bodies[source].make(self._numbers[source], stamp, step=self._order.number, size=size)
        agent = self._agents[sending.agent]
        try:
            if not sending.request:
                agent.publish_nowait(sending.topic, body)
            elif self.asking < MOST_QUESTIONS:
                self.asking += 1
                questions.start_soon(self._ask, agent, sending.topic, body, due_ns)
            else:
                self.not_sent["overloaded"] += 1
                return
        except BusError as error:
            self.not_sent[reason(error)] += 1
            return
        self._numbers[source] += 1
        self.sent += 1
        self.copies += readers
        self.late.add((now_ns - due_ns) / 1e9)

    async def _ask(self, agent: Agent, topic: str, body: bytes, due_ns: int) -> None:
        try:
            await agent.request(topic, body, timeout=REQUEST_SECONDS)
            self.round_trip.add((time.monotonic_ns() - due_ns) / 1e9)
        except BusError:
            self.unanswered += 1
        finally:
            self.asking -= 1
