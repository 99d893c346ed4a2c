"""What goes to one link: at once while it is writable, else it waits, what is critical before all else, and only so much of it.

A reader that does not read costs 8 MiB and 4,096 envelopes at most. Beyond that its subscriptions that drop lose what comes (they
see it as `missed`), and those that would rather know are ended. Grants do not wait: they are few, and what follows needs them.

Each delivery has a number, and the link says in this order when it has taken them in; that is what the sender's turn waits for.
One that takes nothing in, although it reads, waits as if it did not read.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from bus.broker.counts import Counts
from bus.broker.crossing import EXPIRED, LINK_FULL, LINK_LOST, NOT_LIVE, Crossing, Reader
from bus.broker.host_link import BLOCK, DISCONNECT, HostLink, Subscription
from bus.broker.pacing import Pacing, Turn
from bus.broker.room import Room
from bus.protocol.codec import malformed, pack
from bus.protocol.epochs import PRIORITIES
from bus.protocol.frames import Frame

MAX_WAITING: Final = 4_096
MAX_WAITING_BYTES: Final = 8 << 20
MAX_UNTAKEN: Final = 16_384
"""Deliveries that the link has not taken in."""
MAX_GRANT_BUFFER: Final = 4 << 20
"""What may be in the link's own buffer for a grant to be put there; who misses one asks for it."""
_URGENT: Final = PRIORITIES["critical"]
_DELIVER: Final = int(Frame.DELIVER)
_U32: Final = (1 << 32) - 1
FIRST: Final = 1
"""How often a live envelope is delivered, and the number of the first delivery."""

HALF_WINDOW: Final = 32_768
"""Of the numbers of an epoch in which readers find replays."""

End = Callable[[Subscription, str], None]
Overtaken = Callable[[HostLink, bytes, int], None]


class Outbox:
    __slots__ = (
        "_bytes",
        "_counts",
        "_end",
        "_host",
        "_link",
        "_next",
        "_no_turn",
        "_overtaken",
        "_pacing",
        "_room",
        "_untaken",
        "_urgent",
        "_waiting",
    )

    def __init__(self, host: HostLink, counts: Counts, pacing: Pacing, room: Room, *, end: End, overtaken: Overtaken) -> None:
        """`end`: how a subscription is ended, with what it is told. `overtaken`: a much older number of an epoch is held back."""
        self._host, self._link, self._counts, self._pacing, self._room = host, host.link, counts, pacing, room
        self._end, self._overtaken = end, overtaken
        self._next = FIRST
        self._no_turn = Turn(host, 0, 0.0, is_credited=True)
        self._untaken: deque[Turn] = deque()
        self._urgent: deque[tuple[Crossing, Reader]] = deque()
        self._waiting: deque[tuple[Crossing, Reader]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Copies that wait."""
        return len(self._urgent) + len(self._waiting)

    def put(self, crossing: Crossing, reader: Reader) -> None:
        if self._waiting or self._urgent or not self._has_room():
            self._wait(crossing, reader)
        else:
            self._deliver(crossing, reader)

    def put_first(self, crossing: Crossing, reader: Reader) -> None:
        """A grant: before all that waits."""
        if self._link.buffered < MAX_GRANT_BUFFER and len(self._untaken) < 2 * MAX_UNTAKEN:
            self._deliver(crossing, reader)
        else:
            self._drop(crossing, LINK_FULL)

    @property
    def has_room(self) -> bool:
        """Whether what is kept may be delivered now; it does not wait here."""
        return self._link.writable and len(self._untaken) < MAX_UNTAKEN and not (self._waiting or self._urgent)

    def deliver_kept(self, column: bytes, deliveries: int, position: int, envelope: bytes) -> None:
        """From the backbone: no turn waits for it."""
        self._link.send(pack((_DELIVER, self._next, column, deliveries, position, envelope)))
        self._next = self._next + 1 & _U32
        self._untaken.append(self._no_turn)

    def taken_in(self, count: int) -> None:
        """Raises RemoteProtocolError("malformed") if there were not so many."""
        if count > len(self._untaken):
            raise malformed("more deliveries were taken in than were made")
        for _ in range(count):
            self._pacing.taken_in(self._untaken.popleft())
        if self._waiting or self._urgent:
            self.go_on(None)

    def go_on(self, now_ms: int | None) -> None:
        """There is room again. What has expired is dropped, if the time is given."""
        while (queue := self._urgent or self._waiting) and self._has_room():
            crossing, reader = queue.popleft()
            self._weigh(-len(crossing.envelope))
            live = reader.of_now() if reader.subscriptions else reader
            if live is None:
                self._drop(crossing, NOT_LIVE)
            elif now_ms is not None and now_ms > crossing.header.expires_ms:
                self._drop(crossing, EXPIRED)
            else:
                self._deliver(crossing, live)

    def expire(self, now_ms: int) -> None:
        """Let go of what has expired at the front; what expires behind it does when it gets there."""
        for queue in (self._urgent, self._waiting):
            while queue and now_ms > queue[0][0].header.expires_ms:
                crossing = queue.popleft()[0]
                self._weigh(-len(crossing.envelope))
                self._drop(crossing, EXPIRED)

    def lost(self) -> None:
        """The link is gone."""
        for crossing, _ in (*self._urgent, *self._waiting):
            self._drop(crossing, LINK_LOST)
        self._urgent.clear()
        self._waiting.clear()
        self._weigh(-self._bytes)
        while self._untaken:
            self._pacing.taken_in(self._untaken.popleft())

    def _has_room(self) -> bool:
        return self._link.writable and len(self._untaken) < MAX_UNTAKEN

    def _wait(self, crossing: Crossing, reader: Reader) -> None:
        if self._host.is_gone:  # while its subscriptions end one by one, a group may still choose among them
            self._drop(crossing, LINK_LOST)
            return
        size = len(crossing.envelope)
        if len(self) >= MAX_WAITING or self._bytes + size > MAX_WAITING_BYTES or not self._room.has(size):
            self._drop(crossing, LINK_FULL)
            for one in reader.subscriptions:
                if one.is_live and one.overflow in (BLOCK, DISCONNECT):
                    self._end(one, "busy")
            return
        queue = self._urgent if crossing.header.priority <= _URGENT else self._waiting
        queue.append((crossing, reader))
        self._weigh(size)

    def _weigh(self, size: int) -> None:
        self._bytes += size
        self._room.take(size)

    def _deliver(self, crossing: Crossing, reader: Reader) -> None:
        host, counts, header = self._host, self._counts, crossing.header
        if crossing.believed.id not in host.told_papers:
            host.tell_papers((crossing.believed,))
        self._link.send(pack((_DELIVER, self._next, reader.column, FIRST, 0, crossing.envelope)))
        self._next = self._next + 1 & _U32
        self._untaken.append(crossing.turn)
        counts.delivered += 1
        counts.delivered_records += header.records
        if crossing.asked is not None:
            crossing.asked.readers.append(reader)
        if host.held_epochs and header.seq - host.held_epochs.get(header.epoch, header.seq) >= HALF_WINDOW:
            self._overtaken(host, header.epoch, header.seq)

    def _drop(self, crossing: Crossing, why: str) -> None:
        """It does not get this copy."""
        self._counts.dropped[why] += 1
        crossing.was_dropped()
        self._pacing.taken_in(crossing.turn)
