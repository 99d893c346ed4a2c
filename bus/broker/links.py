"""Connections come, are read, and go. What their frames do is the business of others; here is what is the same for all of them.

A host's link begins in `arriving`, a neighbour's in `neighbours`. Frames of both are worked off by `work`: what the peer did wrong
costs its link, and so does what went wrong here; nobody else's. When a link is lost every part lets go of what it had of it.

Links that come before it is known who has durable subscriptions wait until then.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from bus.broker.arriving import Arriving
from bus.broker.counts import Counts
from bus.broker.holding import Holding
from bus.broker.host_link import HostLink
from bus.broker.intake import Intake
from bus.broker.moment import Moment
from bus.broker.neighbour import Neighbour, Way
from bus.broker.neighbours import Neighbours
from bus.broker.outbox import End, Outbox
from bus.broker.pacing import Pacing
from bus.broker.pushing import Pushing
from bus.broker.room import Room
from bus.broker.serving import Serving
from bus.broker.watching import Watching
from bus.errors import BusError, LocalProtocolError, RemoteProtocolError
from bus.identity.envelopes.believe import Believed
from bus.identity.host.session import Session
from bus.protocol import neighbour_frames
from bus.transport.link import Link
from bus.transport.soon import scheduler


class Links:
    """`hosts` are those that are there, with those that are about to come in; kept here, and looked at by others."""

    neighbours: Neighbours

    def __init__(
        self,
        hosts: dict[HostLink, None],
        *,
        arriving: Arriving,
        counts: Counts,
        holding: Holding,
        pacing: Pacing,
        pushing: Pushing,
        room: Room,
        serving: Serving,
        watching: Watching,
        end: End,
        go_on: Callable[[HostLink], None],
        let_go: Callable[[HostLink, Moment], None],
        moment: Callable[[], Moment],
        waits: bool,
    ) -> None:
        """`go_on`: it has room again. `let_go`: of all that it had. `waits`: until `begin`."""
        self._hosts = hosts
        self._end, self._go_on, self._let_go, self._moment = end, go_on, let_go, moment
        self._arriving, self._counts, self._holding, self._pacing = arriving, counts, holding, pacing
        self._pushing, self._room, self._serving, self._watching = pushing, room, serving, watching
        self._early: list[tuple[Callable[[Link], None], Link]] | None = [] if waits else None
        self._numbers = 0
        self._now = moment()
        self.own: Session | None = None
        """This broker's identity."""
        self.is_draining = False

    # ---- coming --------------------------------------------------------------------------------------------------------------

    def attach(self, link: Link) -> None:
        """Of a host. Raises LocalProtocolError before there is a session."""
        own = self._session()
        if self._early is not None:
            self._early.append((self.attach, link))
            return
        now = self._moment().now
        host = HostLink(self._number(), link, now=now)
        host.outbox = Outbox(host, self._counts, self._pacing, self._room, end=self._end, overtaken=self._holding.overtaken)
        host.intake = Intake(link, partial(self._frame, host), self._soon(host), now=now)
        self._hosts[host] = None
        self._arriving.begin(host, own, now=now)
        link.start(partial(self._work, host, host.intake.take), partial(self._lost, host), partial(self._writable, host))
        if self.is_draining:
            self._arriving.fail(host, "busy", "this broker is about to stop", now=now)

    def attach_neighbour(self, link: Link) -> None:
        """To another broker of this domain, whichever of both began. Raises LocalProtocolError before there is a session."""
        own = self._session()
        if self._early is not None:
            self._early.append((self.attach_neighbour, link))
            return
        moment = self._moment()
        one = Neighbour(self._number(), link, now=moment.now)
        one.outbox = Way(
            one, self._counts, self._pacing, self._room, end=self._end, overtaken=self._holding.overtaken
        ).to(one)  # fmt: skip
        frame = partial(self._neighbour_frame, one)
        one.intake = Intake(link, frame, self._soon(one), now=moment.now, parse=neighbour_frames.parse)
        self._hosts[one] = None
        link.start(partial(self._work, one, one.intake.take), partial(self.lose, one), partial(self._neighbour_writable, one))
        self.neighbours.begin(one, own, moment)
        if self.is_draining:
            one.cut("shutdown")

    def begin(self) -> None:
        """Those that came before may come in."""
        early, self._early = self._early, None
        for attach, link in early or ():
            attach(link)

    def close_early(self) -> None:
        for _, link in self._early or ():
            link.close(flush=False)

    def _session(self) -> Session:
        if self.own is None:
            raise LocalProtocolError("a broker proves itself to everybody: give it a session first")
        return self.own

    def _number(self) -> int:
        self._numbers += 1
        self._counts.links += 1
        return self._numbers

    def _soon(self, host: HostLink) -> Callable[[], None]:
        return partial(scheduler(), partial(self._work, host, lambda _: host.intake.go_on(), []))

    # ---- being read ----------------------------------------------------------------------------------------------------------

    def _work(self, host: HostLink, work: Callable[[list[bytes]], None], frames: list[bytes]) -> None:
        self._now = self._moment()
        host.heard_at = self._now.now
        try:
            if not host.cut_for:
                work(frames)
        except RemoteProtocolError as error:
            self._watching.cut(host, error.reason, str(error), now=self._now.now)
        except Exception as error:  # noqa: BLE001  ours, not the peer's: it costs this link, and nobody else
            self._watching.failed(host, error, now=self._now.now)
        finally:
            self._pacing.flush()

    def _frame(self, host: HostLink, fields: list[Any]) -> None:
        if host.cut_for:
            return
        if host.is_open:
            self._serving.frame(host, fields, self._now)
        elif not host.is_gone and self._arriving.frame(host, fields, self._now):
            believed: list[Believed] = []
            host.intake.do_first(lambda: self._believe(host, believed))

    def _believe(self, host: HostLink, believed: list[Believed]) -> bool:
        is_over = self._arriving.believe(host, believed, self._now)
        if host.is_open:
            self._pushing.push(host)
        return is_over

    def _neighbour_frame(self, neighbour: Neighbour, fields: list[Any]) -> None:
        if not neighbour.cut_for:
            self.neighbours.frame(neighbour, fields, self._now)

    def _writable(self, host: HostLink) -> None:
        self._go_on(host)
        self._pacing.flush()

    def _neighbour_writable(self, neighbour: Neighbour) -> None:
        neighbour.go_on()
        self._writable(neighbour)

    # ---- going ---------------------------------------------------------------------------------------------------------------

    def _lost(self, host: HostLink, error: BusError) -> None:
        host.is_gone, moment = True, self._moment()
        self._hosts.pop(host, None)
        self._watching.lost(host, error, now=moment.now)
        self._arriving.lost(host, error, now=moment.now)
        self._let_go(host, moment)
        self._pacing.flush()

    def lose(self, neighbour: Neighbour, error: BusError) -> None:
        """A neighbour's link is lost, or another one took its place."""
        if not neighbour.is_gone:
            self._lost(neighbour, error)
            self.neighbours.lost(neighbour)
