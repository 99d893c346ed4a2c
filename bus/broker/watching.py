"""What time brings to a link: a handshake that takes too long, a peer that is silent, a reader that stalls, interest not seen."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from bus.broker.accounts import Accounts
from bus.broker.counts import Counts
from bus.broker.host_link import HostLink
from bus.broker.interest import Interest
from bus.broker.offences import Offences
from bus.errors import BusError, RemoteProtocolError
from bus.protocol.frames import Frame

TICK_SECONDS: Final = 0.1
PING_SECONDS: Final = 10.0
LOST_SECONDS: Final = 20.0
JUNK_SECONDS: Final = 60.0


class Watching:
    def __init__(self, accounts: Accounts, counts: Counts, interest: Interest, offences: Offences) -> None:
        self._accounts, self._counts, self._interest, self._offences = accounts, counts, interest, offences
        self._junk_at = 0.0

    def tick(self, hosts: Iterable[HostLink], *, now: float) -> None:
        """Of open links."""
        forgives = now - self._junk_at >= JUNK_SECONDS
        if forgives:
            self._junk_at = now
            self._accounts.forget(now)
        for host in hosts:
            if now - host.heard_at >= PING_SECONDS and not host.intake.is_spent:  # who is not read cannot be heard
                self._ask(host, now=now)
            if host.link.writable:
                host.writable_at = now
            elif now - host.writable_at >= LOST_SECONDS:
                self.cut(host, "does_not_read", "what is sent to it has not left for 20 s", now=now)
            if host.intake.is_spent:
                self._offences.note(host.link.peer, "asks for too much", "it is read on when its budget has grown", now=now)
            if self._interest.is_overdue(host, now):
                self.cut(host, "interest_not_seen", "it does not say what it has seen of who listens", now=now)
            if forgives:
                host.junk = 0

    def _ask(self, host: HostLink, *, now: float) -> None:
        """Whether it lives; it counts as lost only when that was asked, since this process may have been suspended itself."""
        if host.pinged_at <= host.heard_at:
            host.pinged_at = now
            host.send(Frame.PING, int(now * 1000))
        elif now - host.pinged_at >= PING_SECONDS:
            self.cut(host, "silent", "no frame for 20 s", now=now)

    def lost(self, host: HostLink, error: BusError, *, now: float) -> None:
        """An open link has ended. If what came was no frame, it ended over that by itself."""
        if host.is_open and isinstance(error, RemoteProtocolError):
            self.cut(host, error.reason, str(error), now=now)

    def failed(self, host: HostLink, error: Exception, *, now: float) -> None:
        """What it said could not be worked off: ours, not the peer's. It costs this link, and nobody else."""
        what = f"a frame could not be worked off: {type(error).__name__}"
        self._offences.note(host.link.peer, what, repr(host), now=now, error=error)
        self.cut(host, "internal", repr(error), now=now)

    def cut(self, host: HostLink, why: str, detail: str, *, now: float) -> None:
        if not host.cut_for:
            self._counts.cut[why] += 1
            what = f"link to {host.neighbour} cut" if host.neighbour else "link cut"
            self._offences.note(host.link.peer, f"{what}: {why}", detail, now=now)
            host.cut(why)
