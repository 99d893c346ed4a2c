"""What a broker says, to whom of a host it is passed on. It binds, as the host does; others decide what follows.

table     frames by their type: the hottest go straight to who takes them
refused   an epoch, papers, an envelope, a subscription or the link itself, told apart by the length of what was refused
put off   one agent of several: the others go on
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from bus.agent.connection import REFUSED_TOO_MUCH
from bus.errors import BusError, NotPermittedError, RevokedError, SessionReplacedError
from bus.protocol.frames import ALL_DELIVERIES, JUNK, UNHEARD, Frame, encode
from bus.protocol.header import EPOCH_ID_BYTES, ID_BYTES
from bus.transport.soon import Soon, scheduler

if TYPE_CHECKING:
    from bus.agent.host import Host


class Heard:
    """By one host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._soon: Soon | None = None
        self._crediting = False
        self._credited: list[tuple[int, int]] = []
        """Turns that came back, and are not booked yet."""

    def table(self) -> Mapping[int, Callable[..., Any]]:
        """By the type of frame."""
        host, topics, when_taken = self._host, self._host.outbox.topics, self._host.acquaintance.when_taken
        return {
            Frame.OPENED: lambda alias, credit, unit, _serial: when_taken(partial(topics.opened, alias, credit, unit)),
            Frame.CREDIT: lambda first, count: self._credited.append((first, count)),
            Frame.STORED: host.outbox.stored,
            Frame.SUBSCRIBED: host.joining.joined,
            Frame.DELIVER: lambda _number, subs, deliveries, position, data: host.inbox.deliver(subs, deliveries, position, data),
            Frame.INTEREST: self._interest,
            Frame.ASK: host.acquaintance.asked,
            Frame.PAPERS: host.acquaintance.papers,
            Frame.TRUST: self._trust,
            Frame.AUTHORITY: host.petitions.answered,
            Frame.PING: lambda number: host.send(encode(Frame.PONG, number)),
            Frame.PONG: host.connection.pong,
            Frame.DRAIN: self._drained,
            Frame.REFUSE: self.refused,
        }

    def worked(self) -> None:
        """After each slice of what came."""
        if (self._host.inbox.taken or self._credited) and not self._crediting:
            self._crediting = True
            if self._soon is None:
                self._soon = scheduler()
            self._soon(self._credit)
        self._host.outbox.worked()
        if self._host.keyring.waiting:
            self._host.acquaintance.ask()

    def _credit(self) -> None:
        """A turn of the loop later: after tasks that were woken by what came, and together with what they answer at once."""
        self._crediting = False
        taken, self._host.inbox.taken = self._host.inbox.taken, 0
        if taken:
            self._host.send(encode(Frame.CREDIT, ALL_DELIVERIES, taken))
        if self._credited and self._soon is not None:
            self._soon(self._book)

    def _book(self) -> None:
        """Another one later: what is answered at once is written by now, and whoever waits for it is at work meanwhile."""
        credited, self._credited = self._credited, []
        for first, count in credited:
            self._host.outbox.credited(first, count)

    def _interest(self, serial: int, changes: list[Any]) -> None:
        self._host.outbox.topics.interest(changes)
        self._host.acquaintance.when_taken(partial(self._host.send, encode(Frame.INTEREST_SEEN, serial)))

    def _drained(self, reason: str) -> None:
        word, _, name = reason.partition(" ")
        agent = self._host.agents.get(name)
        if word == "revoked":
            self._host.connection.revoked(name)
        if agent is not None:
            errors: dict[str, BusError] = {"session_replaced": SessionReplacedError(name), "revoked": RevokedError(name)}
            agent.end(errors.get(word) or NotPermittedError(name, "use this bus", f"the broker: {word}"))
        elif word == JUNK:
            self._host.connection.cut(REFUSED_TOO_MUCH)

    def put_off(self, name: str, error: NotPermittedError | RevokedError) -> bool:
        """The broker does not want this one: whether there are others."""
        if not self._host.agents.keys() - {name}:
            return False
        if (agent := self._host.agents.get(name)) is not None:
            agent.end(error if isinstance(error, RevokedError) else NotPermittedError(name, "use this bus", error.rule))
        return True

    def _trust(self, what: int, total: int, offset: int, part: bytes) -> None:
        self._host.connection.let_in()
        self._host.trusting.part(what, total, offset, part)

    def refused(self, code: str, ref: bytes) -> None:
        if len(ref) == EPOCH_ID_BYTES:
            self._host.acquaintance.not_granted(ref, code)
        elif len(ref) == ID_BYTES:
            for session in self._host.sessions.held.values():
                if session.id == ref:  # the papers of one of ours: it is what it was, until it is renewed
                    self._host.reporting.not_believed(session.holder.name, code)
            self._host.keyring.refused("missing_papers", ref)
            self._host.petitions.refused(ref, code)
            self._host.outbox.refused(ref, code)
            if code == UNHEARD:
                self._host.requests.unheard(ref)
        elif ref:
            number = int.from_bytes(ref, "big")
            self._host.trusting.when_idle(lambda: self._host.joining.refused(number, code, self._host.keyring.snapshot))
        elif code in ("unverified", "not_permitted"):
            self._host.connection.refused(code)
