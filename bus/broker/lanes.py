"""Topics that links have opened to publish on: who must hear of a new reader, and whom to stop while a reader is full.

A lane is one topic on one link, under the alias that the link gave it. Somebody hears who listens on a topic only if policy lets an
agent of that link publish there: who reads what is not for everybody. A lane of which that is not so stays open and silent, until
policy or the agents of the link change; what is published on it is refused one by one, with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from bus.broker.host_link import HostLink
from bus.broker.stopping import Stops
from bus.flow.topic_tree import TopicTree
from bus.identity.envelopes.reserved import why_not_publish
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol.frames import Frame


@dataclass(slots=True, eq=False)
class Lane:
    host: HostLink = field(repr=False)
    alias: int
    topic: str
    hears: bool
    """Whether it is told who listens."""
    unit: int = 0
    stops: int = 0
    """How many queues of full readers stop it."""

    def say(self) -> None:
        self.host.send(Frame.OPENED, self.alias, 0 if self.stops else 1, self.unit, self.host.serial)

    def stop(self) -> None:
        self.stops += 1
        if self.stops == 1:
            self.say()

    def go_on(self) -> None:
        self.stops -= 1
        if not self.stops and self.host.lanes.get(self.alias) is self:
            self.say()


class Lanes:
    """All that hear, by topic."""

    def __init__(self) -> None:
        self._of_topic: dict[str, dict[Lane, None]] = {}
        self._topics = TopicTree()
        self._stopped: dict[str, dict[Stops, None]] = {}
        """Topics that neighbours have stopped, for their readers."""

    def __len__(self) -> int:
        """Topics that are open somewhere."""
        return len(self._topics)

    def open(self, host: HostLink, alias: int, topic: str, snapshot: Snapshot) -> Lane:
        lane = host.lanes[alias] = Lane(host, alias, topic, hears=False)
        self.judge(lane, snapshot)
        return lane

    def close(self, lane: Lane) -> None:
        del lane.host.lanes[lane.alias]
        self._mute(lane)

    def judge(self, lane: Lane, snapshot: Snapshot) -> None:
        """Whether it hears, by this policy and with the agents that its link has now."""
        hears = any(why_not_publish(snapshot.policy, agent, lane.topic) is None for agent in lane.host.agents)
        if hears and not lane.hears:
            lane.hears = True
            lanes = self._of_topic.get(lane.topic)
            if lanes is None:
                lanes = self._of_topic[lane.topic] = {}
                self._topics.add(lane.topic)
            lanes[lane] = None
            for queue in self._stopped.get(lane.topic, ()):
                queue.stop(lane)
        elif not hears:
            self._mute(lane)

    def _mute(self, lane: Lane) -> None:
        if not lane.hears:
            return
        lane.hears = False
        lanes = self._of_topic[lane.topic]
        del lanes[lane]
        if not lanes:
            del self._of_topic[lane.topic]
            self._topics.remove(lane.topic)

    def stop_for(self, topic: str, queue: Stops) -> None:
        """All of this topic, those that open later too, until that is over."""
        self._stopped.setdefault(topic, {})[queue] = None
        for lane in self.of(topic):
            queue.stop(lane)

    def stop_no_more_for(self, topic: str, queue: Stops) -> None:
        queues = self._stopped.get(topic, {})
        queues.pop(queue, None)
        if not queues:
            self._stopped.pop(topic, None)
        queue.emptied()

    def reached(self, pattern: str) -> list[Lane]:
        """The lanes whose topics this pattern matches."""
        return [lane for topic in self._topics.match(pattern) for lane in self._of_topic[topic]]

    def of(self, topic: str) -> list[Lane]:
        return [*self._of_topic.get(topic, ())]

    def all(self) -> list[Lane]:
        return [lane for lanes in self._of_topic.values() for lane in lanes]
