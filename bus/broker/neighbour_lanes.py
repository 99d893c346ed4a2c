"""A full reader at one broker stops those who publish for it at another.

Lanes that a full reader here stops are those of hosts. What a neighbour brings has none; in its place stands a far lane, of one
topic and neighbour, and to stop that is to say so to the neighbour, which stops its own lanes of the topic. It does so only for a
topic of which that neighbour has a reader, as any host that blocks could; and until it is told to go on, or the link is lost.
"""

from __future__ import annotations

from typing import Any, Final

from bus.broker.host_link import HostLink
from bus.broker.lanes import Lanes
from bus.broker.moment import Moment
from bus.broker.neighbour import Neighbour
from bus.broker.router import Route, Router
from bus.broker.stopping import Stops
from bus.protocol.codec import malformed
from bus.protocol.neighbour_frames import Between

MAX_LANES: Final = 16_384
"""Topics of a neighbour that are remembered; those that are not stopped go first."""
MAX_STOPPED: Final = 4_096
"""That one neighbour may have stopped."""
GO_ON: Final = 0
STOP: Final = 1


class FarLane:
    """One topic, as a neighbour brings it."""

    __slots__ = ("_neighbour", "_topic", "stops")

    def __init__(self, neighbour: Neighbour, topic: str) -> None:
        self._neighbour, self._topic = neighbour, topic
        self.stops = 0

    def stop(self) -> None:
        self.stops += 1
        if self.stops == 1:
            self._neighbour.say(Between.STOP, self._topic, STOP)

    def go_on(self) -> None:
        self.stops -= 1
        if not self.stops:
            self._neighbour.say(Between.STOP, self._topic, GO_ON)


class NeighbourLanes:
    def __init__(self, lanes: Lanes, router: Router) -> None:
        self._lanes, self._router = lanes, router
        self._far: dict[Neighbour, dict[str, FarLane]] = {}
        self._stopped: dict[Neighbour, dict[str, Stops]] = {}

    def of(self, neighbour: Neighbour, topic: str) -> FarLane:
        """Where what this neighbour brings can be stopped."""
        lanes = self._far.setdefault(neighbour, {})
        found = lanes.get(topic)
        if found is None:
            if len(lanes) >= MAX_LANES:
                self._far[neighbour] = lanes = {name: lane for name, lane in lanes.items() if lane.stops}
            found = lanes[topic] = FarLane(neighbour, topic)
        return found

    def stop(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """It says that a reader there is full, or is not any more. Raises RemoteProtocolError("malformed")."""
        _, topic, how = fields
        stopped = self._stopped.setdefault(neighbour, {})
        if how == GO_ON:
            self._go_on(stopped, topic)
            return
        if topic in stopped:
            return
        if len(stopped) >= MAX_STOPPED:
            raise malformed("more topics stopped than a neighbour may have")
        queue = stopped[topic] = Stops()
        if neighbour in _hosts(self._router.route(topic)):
            self._lanes.stop_for(topic, queue)

    def _go_on(self, stopped: dict[str, Stops], topic: str) -> None:
        queue = stopped.pop(topic, None)
        if queue is not None:
            self._lanes.stop_no_more_for(topic, queue)

    def lost(self, neighbour: Neighbour) -> None:
        self._far.pop(neighbour, None)
        stopped = self._stopped.pop(neighbour, {})
        for topic in [*stopped]:
            self._go_on(stopped, topic)


def _hosts(route: Route) -> set[HostLink]:
    plain = {reader.host for reader in route.plain}
    return plain | {*route.shared} | {one.host for members in route.groups for one in members}
