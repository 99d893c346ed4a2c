"""Whom to ask for the key of an epoch: its sender, whom the broker knows from the headers that it passed on.

epochs    the last 256 of each sender; who makes up more pushes out its own
asks      go to the link on which the sender is live; what it refuses is passed on to all who asked. Grants come by themselves.
          64 of a link at a time, for a few seconds
"""

from __future__ import annotations

from typing import Final

from bus.broker.host_link import HostLink
from bus.broker.seats import Seats
from bus.protocol.frames import Frame

MAX_EPOCHS: Final = 256
MAX_ASKS: Final = 64
ANSWER_SECONDS: Final = 5.0


class Asking:
    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._sender_of: dict[bytes, str] = {}
        self._of_sender: dict[str, dict[bytes, None]] = {}
        self._open: dict[HostLink, dict[bytes, float]] = {}
        """By who asked: epochs, and until when an answer is waited for."""

    def __len__(self) -> int:
        """Epochs that are known."""
        return len(self._sender_of)

    def note(self, epoch: bytes, sender: str) -> None:
        """An envelope or a grant of this epoch was admitted. The first one says whose it is."""
        if epoch in self._sender_of:
            return
        mine = self._of_sender.setdefault(sender, {})
        if len(mine) >= MAX_EPOCHS:
            oldest = next(iter(mine))
            del mine[oldest], self._sender_of[oldest]
        mine[epoch] = None
        self._sender_of[epoch] = sender

    def is_sender(self, epoch: bytes, agent: str) -> bool:
        return self._sender_of.get(epoch) == agent

    def ask(self, host: HostLink, epoch: bytes, papers: bytes, *, now: float) -> None:
        """Pass it on, or say at once that nobody answers."""
        sender = self._sender_of.get(epoch)
        if sender is None:
            host.refuse("not_permitted", epoch)
            return
        asked = self._seats.host_of(sender)
        mine = self._open.setdefault(host, {})
        if asked is None or not asked.link.writable or (len(mine) >= MAX_ASKS and epoch not in mine):
            host.refuse("busy", epoch)
            return
        mine[epoch] = now + ANSWER_SECONDS
        asked.send(Frame.ASK, epoch, papers)

    def refused(self, host: HostLink, code: str, epoch: bytes) -> None:
        """A link says that it does not grant this. Only the sender's own may say so."""
        if self._seats.host_of(self._sender_of.get(epoch, "")) is not host:
            return
        for asker, mine in self._open.items():
            if mine.pop(epoch, None) is not None:
                asker.refuse(code, epoch)

    def tick(self, now: float) -> None:
        for host in [*self._open]:
            mine = self._open[host]
            for epoch in [epoch for epoch, until in mine.items() if until <= now]:
                del mine[epoch]
            if not mine:
                del self._open[host]

    def lost(self, host: HostLink) -> None:
        self._open.pop(host, None)
