"""Whom to ask for the key of an epoch: its sender, whom the broker knows from the headers that it passed on.

epochs    the last 256 of each sender; who makes up more pushes out its own. What a neighbour brought is counted apart from what
          came here, so many in all: one that lies pushes out what it has brought itself, and nothing else
senders   an epoch has one, but anybody may name an epoch in a header, also first: after a start the broker knows nobody's. So all
          who did are asked, and who is not its sender can only say no
asks      go to the links on which these are live; when all have refused, that is passed on to who asked. Grants come by themselves.
          64 of a link at a time, for a few seconds
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from bus.broker.host_link import HostLink
from bus.broker.seats import Seats
from bus.protocol.frames import Frame

MAX_EPOCHS: Final = 256
MAX_FAR_EPOCHS: Final = 131_072
"""Of all senders that are live at one neighbour."""
MAX_FAR_SENDERS: Final = 16
"""Of one epoch, at one neighbour: it asks them all when it is asked once."""
MAX_ASKS: Final = 64
ANSWER_SECONDS: Final = 5.0
AGAIN_SECONDS: Final = 0.5
"""Before a question is passed on a second time: a host asks again after one."""

_Said = tuple[str, str]
"""A sender, and the neighbour that brought it, if one did."""


@dataclass(slots=True)
class _Question:
    until: float
    """So long an answer is waited for."""
    asked: dict[HostLink, None] = field(default_factory=dict)
    """Who has not refused."""


class Asking:
    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._senders_of: dict[bytes, dict[_Said, None]] = {}
        self._of_sender: dict[_Said, dict[bytes, None]] = {}
        self._of_neighbour: dict[str, dict[tuple[bytes, _Said], None]] = {}
        """The same once more, the oldest first."""
        self._open: dict[HostLink, dict[bytes, _Question]] = {}
        """By who asked: epochs."""
        self._asked: dict[tuple[HostLink, bytes], dict[HostLink, None]] = {}
        """The same by whose answer is waited for, and the epoch: who asked."""

    def __len__(self) -> int:
        """Epochs that are known."""
        return len(self._senders_of)

    def note(self, epoch: bytes, sender: str, neighbour: str = "") -> bool:
        """An envelope or a grant of this epoch was admitted; whether that is news. `neighbour` is the broker that brought it."""
        said = (sender, neighbour)
        mine = self._of_sender.get(said, {})
        if epoch in mine:
            return False
        if neighbour and not self._make_far_room(epoch, said):
            return False
        if len(mine) >= MAX_EPOCHS:
            self._forget(next(iter(mine)), said)
        mine[epoch] = None
        self._of_sender[said] = mine
        self._senders_of.setdefault(epoch, {})[said] = None
        return True

    def _make_far_room(self, epoch: bytes, said: _Said) -> bool:
        if sum(one[1] == said[1] for one in self._senders_of.get(epoch, ())) >= MAX_FAR_SENDERS:
            return False
        theirs = self._of_neighbour.setdefault(said[1], {})
        if len(theirs) >= MAX_FAR_EPOCHS:
            self._forget(*next(iter(theirs)))
        theirs[epoch, said] = None
        return True

    def _forget(self, epoch: bytes, said: _Said) -> None:
        mine = self._of_sender[said]
        del mine[epoch]
        if not mine:
            del self._of_sender[said]
        self._of_neighbour.get(said[1], {}).pop((epoch, said), None)
        senders = self._senders_of[epoch]
        del senders[said]
        if not senders:
            del self._senders_of[epoch]

    def is_sender(self, epoch: bytes, agent: str) -> bool:
        """Whether this agent says so."""
        return any(sender == agent for sender, _ in self._senders_of.get(epoch, ()))

    def ask(self, host: HostLink, epoch: bytes, papers: bytes, *, now: float) -> None:
        """Pass it on, or say at once that nobody answers."""
        senders = self._senders_of.get(epoch)
        if senders is None:
            host.refuse("not_permitted", epoch)
            return
        live = (self._seats.host_of(sender) for sender, _ in senders)
        asked: dict[HostLink, None] = {
            one: None for one in live if one is not None and one.link.writable and not (one.is_neighbour and host.is_neighbour)
        }
        mine = self._open.setdefault(host, {})
        if epoch in mine and now < mine[epoch].until - ANSWER_SECONDS + AGAIN_SECONDS:
            return
        if not asked or (len(mine) >= MAX_ASKS and epoch not in mine):
            host.refuse("busy", epoch)
            return
        self._close(host, epoch)  # what was asked before
        mine[epoch] = _Question(now + ANSWER_SECONDS, asked)
        for one in asked:
            self._asked.setdefault((one, epoch), {})[host] = None
        for one in [*asked]:
            one.send(Frame.ASK, epoch, papers)

    def refused(self, host: HostLink, code: str, epoch: bytes) -> None:
        """A link says that it does not grant this. Only who was asked may say so."""
        for asker in self._asked.pop((host, epoch), ()):
            question = self._open[asker][epoch]
            del question.asked[host]
            if not question.asked:
                del self._open[asker][epoch]
                asker.refuse(code, epoch)

    def tick(self, now: float) -> None:
        for host in [*self._open]:
            mine = self._open[host]
            for epoch in [epoch for epoch, question in mine.items() if question.until <= now]:
                self._close(host, epoch)
            if not mine:
                del self._open[host]

    def lost(self, host: HostLink) -> None:
        for epoch in [*self._open.get(host, ())]:
            self._close(host, epoch)
        self._open.pop(host, None)

    def _close(self, asker: HostLink, epoch: bytes) -> None:
        """Nobody waits for an answer to this any more."""
        question = self._open[asker].pop(epoch, None)
        for one in () if question is None else question.asked:
            askers = self._asked[one, epoch]
            del askers[asker]
            if not askers:
                del self._asked[one, epoch]
