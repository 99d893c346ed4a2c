"""The lanes of one agent: found by topic and options, made once, judged by the policy of the moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from bus.agent.lane import Lane, LaneKey, Through
from bus.agent.message import Message
from bus.agent.opened_topics import private_topic
from bus.errors import BusError, NotPermittedError, OverloadedError, twin
from bus.identity.envelopes.reserved import reply_topic, why_not_publish
from bus.identity.envelopes.snapshot import Snapshot
from bus.policy import TopicRule
from bus.protocol.header import REPLY, REQUEST

if TYPE_CHECKING:
    from bus.agent.host import Host

MAX_LANES: Final = 8_192
RESERVED: Final = "_"
MAX_REPLIES: Final = 256
"""Agents' sessions that were answered lately."""


class Lanes:
    def __init__(self, host: Host, agent: str) -> None:
        self._host, self._agent = host, agent
        self._all: dict[LaneKey, Lane] = {}
        self._asking: dict[tuple[str, float], Lane] = {}
        """Of requests: by topic, and for how many seconds they are asked."""
        self._replies: dict[tuple[str, bytes, str], Lane] = {}
        """By requester, its session, and the topic on which it asked."""
        self._retired: list[Lane] = []
        """Of an older policy: what waits in them still goes, if it may."""
        self.snapshot = host.keyring.snapshot
        self._end: BusError | None = None
        self.quick: dict[str, Lane] = {}
        """By topic: those of the default options into which a record can be put without a further look."""
        self._usual: dict[str, Lane] = {}
        """By topic: those of the default options that are not quick, of durable topics and of what an identity signs."""
        self.looked_at: Callable[[], Through | None] = lambda: None
        """What looks at records before they are packed."""

    def __iter__(self) -> Iterator[Lane]:
        return iter([*self._all.values(), *self._replies.values(), *self._retired])

    def get(
        self,
        topic: str,
        *,
        ttl: float | None = None,
        priority: str | None = None,
        flags: int = 0,
        single: bool = False,
        is_ours: bool = False,
    ) -> Lane:
        """Raises NotPermittedError, ValueError, OverloadedError, and what has ended its agent."""
        is_usual = ttl is None and priority is None and not flags and not single
        if is_usual and (usual := self._usual.get(topic)) is not None:
            return usual
        if self._end is not None:
            raise twin(self._end)
        if not isinstance(topic, str):
            raise TypeError(f"topic={topic!r}: a text, not {type(topic).__name__}")
        if topic[:1] == RESERVED and not is_ours:
            raise NotPermittedError(self._agent, f"publish {topic}", f"topics that begin with {RESERVED} are the bus's own")
        rule = self.snapshot.rule(topic)
        chosen = rule.priority if priority is None else priority
        ttl_ms = rule.ttl_ms if ttl is None else min(_milliseconds(ttl), rule.ttl_ms)
        key = LaneKey(topic, chosen, ttl_ms, flags, None, single)
        lane = self._all.get(key)
        if lane is None:
            lane = self._made(topic, key, rule)
        if lane.quick is not None and lane.trouble is None:
            lane.quick[topic] = lane
        lane.through = self.looked_at()
        if is_usual and lane.quick is None and not is_ours:
            self._usual[topic] = lane
        return lane

    async def with_room(
        self, topic: str, *, ttl: float | None = None, priority: str | None = None, flags: int = 0, single: bool = False
    ) -> Lane:
        """The same, when something can be put in. Raises its trouble, too."""
        while True:
            lane = self.get(topic, ttl=ttl, priority=priority, flags=flags, single=single)
            if not lane.waiting.is_full:
                lane.check()
                return lane
            await lane.wait_for_room()  # and by then there may be another one

    def asking(self, topic: str, seconds: float) -> Lane:
        """The one of requests that are waited for so long. Raises what `get` does."""
        lane = self._asking.get((topic, seconds))
        if lane is None:
            if len(self._asking) >= MAX_LANES:
                self._asking.clear()
            lane = self._asking[topic, seconds] = self.get(topic, ttl=seconds, flags=REQUEST)
        return lane

    def _made(self, topic: str, key: LaneKey, rule: TopicRule) -> Lane:
        wrong = why_not_publish(self.snapshot.policy, self._agent, topic)
        if wrong is not None:
            raise NotPermittedError(self._agent, f"publish {topic}", wrong)
        if key.priority not in rule.priorities:
            raise ValueError(
                f"priority={key.priority!r}: the rule for {rule.match} ({rule.place}) lists {', '.join(rule.priorities)}"
            )
        if len(self._all) >= MAX_LANES:
            self._drop_idle()
        lane = self._all[key] = Lane(self._agent, key, rule)
        if key == LaneKey(topic, rule.priority, rule.ttl_ms) and not rule.is_durable and not rule.needs_identity:
            lane.quick = self.quick
        return lane

    def reply_to(self, message: Message) -> Lane:
        """Where answers to this request go. Raises what has ended its agent."""
        if self._end is not None:
            raise twin(self._end)
        header = message.header
        asked_by = header.sender, header.session, header.topic
        lane = self._replies.pop(asked_by, None)
        if lane is None:
            rule = self.snapshot.rule(header.topic, reply=True)
            key = LaneKey(reply_topic(header.sender, header.session), rule.priority, rule.ttl_ms, REPLY, header.topic)
            lane = Lane(self._agent, key, rule)
            lane.topic = private_topic(key.topic, header.sender)
            if len(self._replies) >= MAX_REPLIES:
                self._close(self._replies.pop(next(iter(self._replies))), None)
        self._replies[asked_by] = lane  # at the end: the longest unused goes first
        return lane

    def hooks_changed(self) -> None:
        for lane in self:
            lane.through = self.looked_at()

    def follow(self, snapshot: Snapshot) -> None:
        """Those in use for which nothing changed go on; what waits in others is judged again before it is sent."""
        self.snapshot = snapshot
        self.quick.clear()
        self._usual.clear()
        self._asking.clear()
        in_use = [lane for lane in self if lane.waiting or lane.signing]
        self._replies.clear()
        self._all = {lane.key: lane for lane in in_use if self._is_as_before(lane)}
        self._retired = [lane for lane in in_use if self._all.get(lane.key) is not lane]

    def _is_as_before(self, lane: Lane) -> bool:
        topic, snapshot = lane.key.topic, self.snapshot
        is_ours = lane.key.request is None and lane not in self._retired
        return is_ours and lane.rule == snapshot.rule(topic) and why_not_publish(snapshot.policy, self._agent, topic) is None

    def close(self, error: BusError) -> None:
        self._end = error
        for lane in self:
            self._close(lane, error)
        for lanes in (self._all, self._replies, self._retired, self.quick, self._usual, self._asking):
            lanes.clear()

    def _close(self, lane: Lane, error: BusError | None) -> None:
        outbox = self._host.outbox
        if error is not None:
            lane.trouble = error
            outbox.fail_all(lane, error)
        outbox.close_lane(lane)

    def _drop_idle(self) -> None:
        """Raises OverloadedError if all of them are in use."""
        idle = [key for key, lane in self._all.items() if not (lane.waiting or lane.signing)]
        if not idle:
            raise OverloadedError(f"the lanes of {self._agent}", pending=len(self._all), limit=MAX_LANES)
        self._asking.clear()
        for key in idle[: MAX_LANES // 8]:
            lane = self._all.pop(key)
            self._close(lane, None)
            for table in (self.quick, self._usual):
                if table.get(key.topic) is lane:
                    del table[key.topic]


def _milliseconds(seconds: float) -> int:
    check_seconds("ttl", seconds)
    return max(int(seconds * 1000), 1)


def check_seconds(option: str, seconds: float) -> None:
    """Raises ValueError and TypeError for what is no time to wait or to live."""
    if not isinstance(seconds, int | float):
        raise TypeError(f"{option}={seconds!r}: seconds, not {type(seconds).__name__}")
    if not 0 < seconds < float("inf"):
        raise ValueError(f"{option}={seconds!r}: seconds, more than 0")
