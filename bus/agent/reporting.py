"""Who is told of what was refused: whoever looks at the host's refusals, the agents that it concerns, and the log once a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from bus.agent.lane import Lane
from bus.agent.refusals import Refusal, Refusals, reason_of
from bus.clock import Clock
from bus.errors import BusError
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers

if TYPE_CHECKING:
    from bus.agent.agent import Agent


class Reporting:
    """Of one host, with these agents by name."""

    def __init__(self, agents: Mapping[str, Agent], clock: Clock) -> None:
        self._agents, self._clock = agents, clock
        self.refusals = Refusals()
        self.why_missing: Callable[[bytes], str] = lambda _epoch: "missing_key"
        """Why the key of an epoch never came."""

    def not_taken(self, envelope: bytes, reason: str, error: BusError | None) -> None:
        """What came and was refused. Its header is all that may be known of it, and need not be true."""
        try:
            header = headers.parse(envelopes.split(envelope)[0])
        except BusError:
            self._tell(Refusal("in", str(getattr(error, "agent", "")), "", reason, ""), *self._agents.values())
            return
        why = self.why_missing(header.epoch) if reason == "missing_key" else reason
        self._tell(Refusal("in", header.sender, header.topic, why, header.id.hex()), *self._agents.values())

    def not_believed(self, agent: str, reason: str) -> None:
        """Its papers."""
        self._tell(Refusal("in", agent, "", reason, ""), *self._agents.values())

    def not_handed_over(self, agent: str, refusal: Refusal, error: Exception) -> None:
        """What was verified, and refused by the application of this agent itself."""
        self._tell(refusal, *self._named(agent), error=error)

    def not_sent(self, lane: Lane, id_: bytes, error: BusError) -> None:
        """What was accepted, and nobody waits for."""
        agents = self._named(lane.agent)
        self._tell(Refusal("out", lane.agent, lane.key.topic, reason_of(error), id_.hex()), *agents)
        for agent in agents:
            agent.not_sent(error)

    def disk_failed(self, error: BusError) -> None:
        """What was finished is not written."""
        self._tell(Refusal("out", "", "", reason_of(error), ""), *self._agents.values())

    def _named(self, agent: str) -> list[Agent]:
        return [found] if (found := self._agents.get(agent)) is not None else []

    def _tell(self, refusal: Refusal, *agents: Agent, error: Exception | None = None) -> None:
        now = self._clock.monotonic()
        self.refusals.add(refusal, now=now, error=error)
        for agent in agents:
            agent.refused.add(refusal, now=now)
