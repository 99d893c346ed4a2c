"""What each frame of an open neighbour does: one row of a table for each that a neighbour may send, and no other is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bus.broker.asking import Asking
from bus.broker.groups import Groups
from bus.broker.interest import Interest
from bus.broker.moment import Moment
from bus.broker.neighbour import INTRODUCED, Neighbour
from bus.broker.neighbour_crossing import NeighbourCrossing
from bus.broker.neighbour_interest import NeighbourInterest
from bus.broker.neighbour_lanes import NeighbourLanes
from bus.broker.neighbour_seats import NeighbourSeats
from bus.protocol.codec import malformed
from bus.protocol.frames import UNHEARD, Frame
from bus.protocol.header import EPOCH_ID_BYTES, ID_BYTES
from bus.protocol.neighbour_frames import Between
from bus.protocol.papers import claimed

BYE: Final = "bye"
_SUB_BYTES: Final = 4
Handler = Callable[[Neighbour, list[Any], Moment], None]


class NeighbourServing:
    def __init__(
        self,
        *,
        asking: Asking,
        crossing: NeighbourCrossing,
        groups: Groups,
        interest: Interest,
        lanes: NeighbourLanes,
        listening: NeighbourInterest,
        seats: NeighbourSeats,
    ) -> None:
        self._asking, self._groups, self._interest, self._listening, self._seats = asking, groups, interest, listening, seats
        self._table: Final[Mapping[int, Handler]] = {
            Frame.DELIVER: crossing.deliver,
            Frame.CREDIT: self._credit,
            Between.SEATED: seats.seated,
            Between.UNSEATED: seats.unseated,
            Between.STOP: lanes.stop,
            Frame.PAPERS: self._papers,
            Frame.SUBSCRIBE: listening.subscribe,
            Frame.SUBSCRIBED: self._subscribed,
            Frame.UNSUBSCRIBE: self._unsubscribe,
            Frame.INTEREST: listening.kept.hear,
            Frame.INTEREST_SEEN: self._interest_seen,
            Frame.ASK: self._ask,
            Frame.REFUSE: self._refuse,
            Frame.PING: self._ping,
            Frame.PONG: self._pong,
            Frame.DRAIN: self._drain,
        }

    def frame(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """Raises RemoteProtocolError("malformed"): the link is over."""
        handler = self._table.get(fields[0])
        if handler is None:
            raise malformed(f"a neighbour does not send frames of type {fields[0]} on an open link")
        handler(neighbour, fields, moment)

    def _credit(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """So many deliveries were taken in there; which of them is a matter of milliseconds, and makes no difference here."""
        had_room = neighbour.outbox.has_room
        neighbour.outbox.taken_in(fields[2])
        if not had_room:
            self._groups.go_on(now=moment.now, now_ms=moment.now_ms)

    def _papers(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        self._seats.papers(neighbour, fields[1], moment)

    def _subscribed(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        self._listening.is_seen(neighbour, fields[1])

    def _unsubscribe(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        self._listening.unsubscribe(neighbour, fields[1], moment)

    def _interest_seen(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        self._interest.seen(neighbour, fields[1])

    def _ask(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """For the key of an epoch, by an agent that is live there, of one that is live here."""
        _, epoch, papers = fields
        if len(epoch) != EPOCH_ID_BYTES:
            raise malformed("a neighbour asks for epochs alone: papers it is shown before it needs them")
        if claimed(papers).session not in neighbour.known:
            neighbour.refuse("unverified", epoch)
        else:
            self._asking.ask(neighbour, epoch, papers, now=moment.now)

    def _refuse(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        _, code, ref = fields
        if len(ref) == _SUB_BYTES:
            self._listening.is_seen(neighbour, int.from_bytes(ref, "big"))
        elif len(ref) == EPOCH_ID_BYTES:
            self._asking.refused(neighbour, code, ref)
        elif len(ref) == ID_BYTES and code == UNHEARD:
            asked, host = neighbour.asked.pop(ref, (None, neighbour))
            if asked is not None:
                asked.one_less(host, ref)

    def _ping(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        neighbour.has_told = neighbour.has_told or fields[1] == INTRODUCED
        neighbour.answer(Frame.PONG, fields[1])

    def _drain(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        if fields[1] == BYE:
            neighbour.cut(BYE)

    def _pong(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        if fields[1] == INTRODUCED:
            neighbour.is_introduced = True
