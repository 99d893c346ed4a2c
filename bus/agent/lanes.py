"""The lanes of one agent: found by topic and options, made once, judged by the policy of the moment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from bus.agent.lane import Lane, LaneKey
from bus.agent.message import Message
from bus.agent.opened_topics import private_topic
from bus.errors import BusError, NotPermittedError
from bus.identity.envelopes.reserved import reply_topic, why_not_publish
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol.header import REPLY

if TYPE_CHECKING:
    from bus.agent.host import Host

MAX_LANES: Final = 8_192
MAX_REPLIES: Final = 256
"""Agents' sessions that were answered lately."""


class Lanes:
    def __init__(self, host: Host, agent: str) -> None:
        self._host, self._agent = host, agent
        self._all: dict[LaneKey, Lane] = {}
        self._replies: dict[LaneKey, Lane] = {}
        self._snapshot = host.keyring.snapshot
        self.quick: dict[str, Lane] = {}
        """By topic: those of the default options into which a record can be put without a further look."""

    def __iter__(self) -> Iterator[Lane]:
        return iter([*self._all.values(), *self._replies.values()])

    def get(
        self, topic: str, *, ttl: float | None = None, priority: str | None = None, flags: int = 0, single: bool = False
    ) -> Lane:
        """Raises NotPermittedError, ValueError."""
        rule = self._snapshot.rule(topic)
        chosen = priority or rule.priority
        ttl_ms = rule.ttl_ms if ttl is None else min(_milliseconds(ttl), rule.ttl_ms)
        key = LaneKey(topic, chosen, ttl_ms, flags, None, single)
        lane = self._all.get(key)
        if lane is not None:
            return lane
        wrong = why_not_publish(self._snapshot.policy, self._agent, topic)
        if wrong is not None:
            raise NotPermittedError(self._agent, f"publish {topic}", wrong)
        if chosen not in rule.priorities:
            raise ValueError(f"priority={chosen!r}: the rule for {rule.match} ({rule.place}) lists {', '.join(rule.priorities)}")
        if len(self._all) >= MAX_LANES:
            self._drop_idle()
        lane = self._all[key] = Lane(self._agent, key, rule)
        if ttl is None and priority is None and not flags and not single and not rule.is_durable and not rule.needs_identity:
            self.quick[topic] = lane
        return lane

    def reply_to(self, message: Message) -> Lane:
        """Where answers to this request go."""
        header = message.header
        rule = self._snapshot.rule(header.topic, reply=True)
        key = LaneKey(reply_topic(header.sender, header.session), rule.priority, rule.ttl_ms, REPLY, header.topic)
        lane = self._replies.pop(key, None)
        if lane is None:
            lane = Lane(self._agent, key, rule)
            lane.topic = private_topic(key.topic, header.sender)
            if len(self._replies) >= MAX_REPLIES:
                self._close(self._replies.pop(next(iter(self._replies))), None)
        self._replies[key] = lane  # at the end: the longest unused goes first
        return lane

    def follow(self, snapshot: Snapshot) -> None:
        """Those that are in use go on: each is judged again before it sends."""
        self._snapshot = snapshot
        self.quick.clear()
        self._all = {key: lane for key, lane in self._all.items() if lane.waiting or lane.signing}

    def close(self, error: BusError) -> None:
        for lane in [*self._all.values(), *self._replies.values()]:
            self._close(lane, error)
        self._all.clear()
        self._replies.clear()
        self.quick.clear()

    def _close(self, lane: Lane, error: BusError | None) -> None:
        outbox = self._host.outbox
        if error is not None:
            outbox.fail_all(lane, error)
        outbox.close_lane(lane)

    def _drop_idle(self) -> None:
        idle = [key for key, lane in self._all.items() if not (lane.waiting or lane.signing)]
        for key in idle[: MAX_LANES // 8]:
            lane = self._all.pop(key)
            self._close(lane, None)
            if self.quick.get(key.topic) is lane:
                del self.quick[key.topic]


def _milliseconds(seconds: float) -> int:
    if not 0 < seconds < float("inf"):
        raise ValueError(f"ttl={seconds!r}: seconds, more than 0")
    return max(int(seconds * 1000), 1)
