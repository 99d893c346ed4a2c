"""An envelope on its way through the broker, and a link that is to get it. The bytes are those that came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from bus.broker.host_link import HostLink, Subscription
from bus.broker.stopping import Stoppable
from bus.identity.envelopes.believe import Believed
from bus.protocol.frames import column
from bus.protocol.header import Header

if TYPE_CHECKING:
    from bus.broker.pacing import Turn
    from bus.broker.requests import Asked


@dataclass(slots=True, eq=False)
class Crossing:
    header: Header
    envelope: bytes = field(repr=False)
    believed: Believed = field(repr=False)
    """Whose papers its readers need."""
    turn: Turn = field(repr=False)
    lane: Stoppable | None = field(default=None, repr=False)
    asked: Asked | None = field(default=None, repr=False)
    """Of a request: who was asked, so that they may answer."""

    def was_dropped(self) -> None:
        """One of its copies."""
        if self.asked is not None:
            self.asked.one_less(self.turn.host, self.header.id)


@dataclass(slots=True, eq=False)
class Reader:
    """One link, with those of its subscriptions that get an envelope. Made once for a topic, not for an envelope."""

    host: HostLink
    subscriptions: tuple[Subscription, ...]
    blocking: tuple[Subscription, ...]
    column: bytes
    """The subscriptions as DELIVER names them."""

    @classmethod
    def of(cls, host: HostLink, subscriptions: Iterable[Subscription]) -> Reader:
        listed = tuple(subscriptions)
        named = (one for one in listed if one.group) if host.is_neighbour else listed  # it finds its other readers itself
        return cls(host, listed, tuple(one for one in listed if one.blocks), column(one.number for one in named))

    def of_now(self) -> Reader | None:
        """The same without subscriptions that have ended; None if all have."""
        live = [one for one in self.subscriptions if one.is_live]
        if len(live) == len(self.subscriptions):
            return self
        return Reader.of(self.host, live) if live else None


NOT_LIVE: Final = "unsubscribed"
LINK_LOST: Final = "link_lost"
EXPIRED: Final = "expired"
LINK_FULL: Final = "link_full"
GROUP_FULL: Final = "group_full"
NEIGHBOUR_FULL: Final = "neighbour_full"
"""Why a copy was dropped."""
