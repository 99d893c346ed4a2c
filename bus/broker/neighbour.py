"""What a broker holds of one link to another broker of its domain.

To the parts of this broker a neighbour is a link on which agents are live and which has subscriptions, like a host's: so seats,
routes, interest, pace and loss are one thing. Different is what is said on it (`neighbour_serving`), that its papers are its word
(`neighbour_seats`), and that its subscriptions drop what is too much: it never holds up a reader or publisher here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final

from bus.broker.crossing import LINK_FULL, NEIGHBOUR_FULL, Crossing, Reader
from bus.broker.host_link import BLOCK, HostLink, Subscription, Where
from bus.broker.outbox import Outbox
from bus.identity.envelopes.believe import Believed
from bus.protocol import neighbour_frames
from bus.protocol.neighbour_frames import Between
from bus.transport.link import Link

if TYPE_CHECKING:
    from bus.broker.interest import Barrier, Key
    from bus.broker.neighbour_greeting import Meeting
    from bus.broker.requests import Asked

MAX_AGENTS: Final = 16_384
MAX_KNOWN: Final = 16_384
"""Sessions whose papers it has shown; more than a broker remembers to have shown on one link, so none is missing here."""
MAX_ASIDE: Final = 1_024
"""Agents, and subscriptions, that policy or trust do not allow now and may allow later."""
MAX_ASIDE_BYTES: Final = 8 << 20
"""Of papers of those agents."""
MAX_ASKED: Final = 4_096
"""Requests that went there, of which it may yet say that nobody hears them."""
MAX_PIECES: Final = 262_144
"""Of what it is to be told."""
MAX_GROUPS_LEFT: Final = 1_024
INTRODUCED: Final = (1 << 64) - 1
"""In the PING that ends what a broker has to tell when it meets another one."""
OVERFLOW: Final = "drop_newest"
"""Of all its subscriptions."""


class Neighbour(HostLink):
    is_neighbour: ClassVar[bool] = True
    __slots__ = (
        "agents_aside", "aside_bytes", "asked", "began_at", "broker", "elsewhere", "groups_left", "has_told", "is_introduced",
        "kept", "known", "meeting", "mine", "next_number", "numbers", "pieces", "subscriptions_aside", "unseen", "waits",
    )  # fmt: skip

    def __init__(self, number: int, link: Link, *, now: float) -> None:
        super().__init__(number, link, now=now)
        self.began_at = now
        self.meeting: Meeting
        self.is_introduced = False
        """It has heard of all that was here when it came; from then on it is waited for."""
        self.has_told = False
        """All that it had when this broker came."""
        self.broker: Believed | None = None
        """Who proved itself here."""
        self.known: dict[bytes, Believed] = {}
        """By session: whose papers it has shown, of agents that are live there or were a while ago."""
        self.agents_aside: dict[str, tuple[int, bytes]] = {}
        """Whom it says to have, with number and papers, and whom policy or trust do not allow."""
        self.aside_bytes = 0
        """Of those papers."""
        self.elsewhere: dict[str, tuple[int, bytes]] = {}
        """The same of who is live elsewhere by a larger number, or not there yet by our clock; with the session."""
        self.subscriptions_aside: dict[int, list[Any]] = {}
        """SUBSCRIBE frames of it that are not in force."""
        self.kept: dict[Key, None] = {}
        """Durable subscriptions of which it knows."""
        self.unseen: dict[int, bool] = {}
        """Its INTEREST frames that were not answered yet, by serial, and whether all publishers here have seen it."""
        self.mine: dict[int, Subscription] = {}
        """Ours that it was told of, by the numbers that they have there."""
        self.numbers: dict[Subscription, int] = {}
        self.next_number = 1
        self.groups_left: dict[int, str] = {}
        """Groups of ours that have ended there a moment ago: it may have chosen one meanwhile."""
        self.waits: dict[int, Barrier] = {}
        """By number of ours: who waits until it has told its publishers."""
        self.asked: dict[bytes, tuple[Asked, HostLink]] = {}
        """Requests that went there, by id, and on which link they came."""
        self.pieces: deque[Callable[[], None]] = deque()
        """What it is to be told of agents and subscriptions here: of many, that is more than a link takes at once."""

    @property
    def neighbour(self) -> str:
        return "" if self.broker is None else self.broker.name

    @property
    def where(self) -> Where:
        return Where(None, "neighbour", f"{self.neighbour} {self.link.peer.address}")

    def do(self, piece: Callable[[], None]) -> None:
        """Tell it something, in the order in which all of this is told: now, or when its link has room for it."""
        if self.pieces or not self.link.writable:
            self.pieces.append(piece)
            if len(self.pieces) > MAX_PIECES:
                self.cut("does_not_read")
        else:
            piece()

    def go_on(self) -> None:
        """Its link has room."""
        while self.pieces and self.link.writable:
            self.pieces.popleft()()

    def say(self, frame: Between, *fields: Any) -> None:
        self.link.send(neighbour_frames.encode(frame, *fields))

    def knows(self, one: Believed) -> None:
        """It has shown these papers."""
        self.known.pop(one.id, None)
        self.known[one.id] = one
        if len(self.known) > MAX_KNOWN:
            del self.known[next(iter(self.known))]

    def put_aside(self, subscription: Subscription) -> None:
        """It stands at the neighbour, and may be in force here again by another policy."""
        one, overflow = subscription, BLOCK if subscription.may_stop else subscription.overflow
        self.set_aside([0, one.number, one.agent, one.pattern, one.group, "", "", one.limit, overflow])

    def set_aside(self, fields: list[Any]) -> None:
        """A SUBSCRIBE. Who has so many that are not allowed loses the oldest."""
        self.subscriptions_aside[fields[1]] = fields
        if len(self.subscriptions_aside) > MAX_ASIDE:
            del self.subscriptions_aside[next(iter(self.subscriptions_aside))]

    def set_agent_aside(self, agent: str, number: int, papers: bytes) -> None:
        self.forget_aside(agent)
        self.agents_aside[agent] = number, papers
        self.aside_bytes += len(papers)
        while len(self.agents_aside) > MAX_ASIDE or self.aside_bytes > MAX_ASIDE_BYTES:
            self.forget_aside(next(iter(self.agents_aside)))

    def forget_aside(self, agent: str) -> None:
        """It is not aside any more."""
        _, papers = self.agents_aside.pop(agent, (0, b""))
        self.aside_bytes -= len(papers)

    def __repr__(self) -> str:
        return f"<Neighbour {self.number} {self.neighbour or 'not known yet'}>"


class Way(Outbox):
    """What goes to a neighbour. It notes requests, of which the neighbour may say that nobody hears them."""

    __slots__ = ("_neighbour",)

    def to(self, neighbour: Neighbour) -> Way:
        self._neighbour = neighbour
        return self

    def _deliver(self, crossing: Crossing, reader: Reader) -> None:
        if crossing.asked is not None:
            asked, id_ = self._neighbour.asked, crossing.header.id
            if id_ not in asked or asked[id_][0] is crossing.asked:  # another asker by the same id does not take its place
                asked[id_] = crossing.asked, crossing.turn.host
            if len(asked) > MAX_ASKED:
                del asked[next(iter(asked))]
        super()._deliver(crossing, reader)

    def _drop(self, crossing: Crossing, why: str) -> None:
        super()._drop(crossing, NEIGHBOUR_FULL if why == LINK_FULL else why)
