"""A broker: it knows who is there, asks policy, passes envelopes on, keeps pace and counts. It cannot read what it carries.

It binds: each question is answered in a part of its own. Nothing here waits: frames come by callback and are worked off at once,
and what time brings comes from `run`. One event loop; call everything from there.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection
from typing import Final

import anyio

from bus.backbone.interface import Backbone
from bus.broker.accounts import Accounts
from bus.broker.admission import Admission
from bus.broker.arriving import Arriving
from bus.broker.asking import Asking
from bus.broker.counts import Counts
from bus.broker.crossing import Crossing
from bus.broker.durable import Durable, Keeping, Nothing
from bus.broker.groups import Groups
from bus.broker.holding import Holding
from bus.broker.host_link import HostLink, Subscription
from bus.broker.interest import Interest
from bus.broker.joining import Joining
from bus.broker.lanes import Lanes
from bus.broker.links import Links
from bus.broker.listing import Listing
from bus.broker.moment import Moment
from bus.broker.neighbours import Neighbours
from bus.broker.offences import Offences
from bus.broker.pacing import Pacing
from bus.broker.petitions import Petitions
from bus.broker.publishing import Publishing
from bus.broker.pushing import Pushing
from bus.broker.requests import Requests
from bus.broker.room import Room
from bus.broker.router import Router
from bus.broker.seats import Seats
from bus.broker.serving import Serving
from bus.broker.subscribing import Subscribing
from bus.broker.watching import TICK_SECONDS, Watching
from bus.clock import Clock
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.session import Session
from bus.identity.trust_documents import TrustDocuments
from bus.identity.trust_memory import TrustMemory
from bus.protocol.frames import Frame
from bus.protocol.handshake import Limits
from bus.transport.link import Link, Peer
from bus.transport.soon import soon

LIMITS: Final = Limits(topics=65_536, subscriptions=16_000)
"""What one link may have. A delivery names all subscriptions of a link that get it, in one frame."""
FORGET_SECONDS: Final = 5.0

_log = logging.getLogger("tpmbus.broker")


class Broker:
    def __init__(
        self,
        *,
        snapshot: Snapshot,
        trust: TrustDocuments,
        verifier: Verifier,
        memory: TrustMemory,
        clock: Clock,
        backbone: Backbone | None = None,
        uids: Collection[int] = (),
        limits: Limits = LIMITS,
        random: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """`uids`: local users beside this process's own who may open any agent over a Unix socket."""
        self._snapshot, self._memory, self._clock = snapshot, memory, clock
        self._hosts: dict[HostLink, None] = {}
        self._forgot_at = 0.0
        self.counts = Counts()
        self._seats, self._lanes, self._router = Seats(), Lanes(), Router(snapshot)
        self._offences, self._requests, self._pacing = Offences(), Requests(), Pacing()
        self._asking, self.petitions = Asking(self._seats), Petitions()
        self._admission, self._pushing = Admission(snapshot), Pushing(trust)
        self.listing = Listing(self._hosts, self._seats, self._router, self._admission)
        self._interest = Interest(self._seats, self._lanes)
        self._room, self._accounts = Room(), Accounts()
        self._holding = Holding(self.counts, self._pacing, self._room, end=self._end)
        self._groups = Groups(self.counts, self._pacing, self._room, self._holding)
        self._watching = Watching(self._accounts, self.counts, self._interest, self._offences)
        self._subscribing = Subscribing(
            snapshot, limits, counts=self.counts, groups=self._groups, holding=self._holding,
            interest=self._interest, lanes=self._lanes, router=self._router,
        )  # fmt: skip
        self._joining = Joining(
            snapshot, verifier=verifier, memory=memory, uids={os.geteuid(), *uids}, seats=self._seats, lanes=self._lanes,
            interest=self._interest, subscribing=self._subscribing,
        )  # fmt: skip
        self._arriving = Arriving(limits, self._accounts, self.counts, self._joining, self._offences, random=random)
        self._durable: Durable = Nothing()
        if backbone is not None:
            self._durable = Keeping(
                backbone, snapshot, clock, asking=self._asking, counts=self.counts, end=self._end, find=self._joining.find,
                interest=self._interest, now_ms=self.now_ms, offences=self._offences, pacing=self._pacing,
                passed_ms=memory.passed_ms, requests=self._requests, router=self._router,
                spread=self._stored, subscribing=self._subscribing, verifier=verifier,
            )  # fmt: skip
        self._subscribing.durable = self._joining.durable = self._durable
        self._publishing = Publishing(
            admission=self._admission, asking=self._asking, counts=self.counts, durable=self._durable, groups=self._groups,
            holding=self._holding, listing=self.listing, offences=self._offences, pacing=self._pacing, requests=self._requests,
            router=self._router, seats=self._seats, watching=self._watching,
        )  # fmt: skip
        self._serving = Serving(
            snapshot, limits, asking=self._asking, durable=self._durable, groups=self._groups, holding=self._holding,
            interest=self._interest, joining=self._joining, lanes=self._lanes, offences=self._offences, petitions=self.petitions,
            publishing=self._publishing, router=self._router, subscribing=self._subscribing,
        )  # fmt: skip
        self._links = Links(
            self._hosts, arriving=self._arriving, counts=self.counts, holding=self._holding, pacing=self._pacing,
            pushing=self._pushing, room=self._room, serving=self._serving, watching=self._watching,
            end=self._end, go_on=self._go_on, let_go=self._let_go, moment=self._moment, waits=backbone is not None,
        )  # fmt: skip
        self._neighbours = self._links.neighbours = Neighbours(
            snapshot, verifier, accounts=self._accounts, admission=self._admission, asking=self._asking, counts=self.counts,
            groups=self._groups, hosts=self._hosts, interest=self._interest, joining=self._joining, lanes=self._lanes,
            listing=self.listing, offences=self._offences, pacing=self._pacing, publishing=self._publishing,
            requests=self._requests, router=self._router, seats=self._seats, subscribing=self._subscribing,
            watching=self._watching, lose=self._links.lose, now_ms=self.now_ms, random=random,
        )  # fmt: skip

    # ---- links ---------------------------------------------------------------------------------------------------------------

    def take_session(self, session: Session) -> None:
        """The broker's own identity, newly certified. Links to hosts do not mind, and neighbours hear of it."""
        self._links.own = session
        self._neighbours.take_session(session)

    def attach(self, link: Link) -> None:
        """A new connection. Raises LocalProtocolError before `take_session`."""
        self._links.attach(link)

    def turn_away(self, peer: Peer, why: str) -> bytes:
        """Somebody connected and never said a word. What it is told, when it has to go; it is counted as any other handshake."""
        return self._arriving.turn_away(peer, why, now=self._clock.monotonic())

    def attach_neighbour(self, link: Link) -> None:
        """A new link to another broker of this domain, whichever of both began. Raises LocalProtocolError before `take_session`."""
        self._links.attach_neighbour(link)

    @property
    def neighbours_met(self) -> int:
        """Links to other brokers over which both ends have told all that they had."""
        return self._neighbours.met

    def _go_on(self, host: HostLink) -> None:
        host.outbox.go_on(self.now_ms())
        self._durable.go_on(host)

    def _let_go(self, host: HostLink, moment: Moment) -> None:
        for part in (self._pacing, self._holding, self._durable, self.petitions, self._accounts):
            part.lost(host)
        host.outbox.lost()
        if host.is_neighbour:
            self._subscribing.let_go(host, moment)
        else:
            for one in [*host.subscriptions.values()]:
                self._subscribing.drop(one, moment)
        for agent in [*host.agents]:
            self._seats.leave(host, agent)
        for lane in [*host.lanes.values()]:
            self._lanes.close(lane)
        self._interest.lost(host)
        self._asking.lost(host)

    def _stored(self, crossings: list[Crossing]) -> None:
        self._publishing.stored(crossings, now=self._clock.monotonic())

    def _end(self, subscription: Subscription, code: str) -> None:
        self._subscribing.end(subscription, code, self._moment())

    # ---- trust and policy ------------------------------------------------------------------------------------------------------

    def follow(self, snapshot: Snapshot, trust: TrustDocuments) -> None:
        """Another policy or trust is in force: who counts no more is cut at once, and everybody hears of it."""
        self._snapshot = snapshot
        for part in (self._admission, self._router, self._subscribing, self._joining, self._serving):
            part.follow(snapshot)
        self._pushing.follow(trust)
        moment = self._moment()
        for host in (open_hosts := [host for host in self._hosts if host.is_open and not host.is_neighbour]):
            self._pushing.push(host)  # first: what is refused below is explained by it
        for host in open_hosts:
            self._joining.judge(host, moment)
        self._neighbours.follow(snapshot, moment)
        self._judge_subscriptions()
        for host in open_hosts:
            self._serving.judge_lanes(host)
        self._durable.follow(snapshot)
        self._pacing.flush()

    def _judge_subscriptions(self) -> None:
        if not self._subscribing.judge(self._hosts, self._moment()):
            soon(self._judge_subscriptions)

    # ---- time ------------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is cancelled."""
        await self._durable.prepare()
        self._links.begin()
        async with anyio.create_task_group() as group:
            group.start_soon(self._pacing.run, self._clock)
            group.start_soon(self._durable.run)
            while True:
                await self._clock.sleep(TICK_SECONDS)
                self._tick()

    def _tick(self) -> None:
        moment = self._moment()
        self._arriving.tick(moment.now)
        open_hosts = [host for host in self._hosts if host.is_open]
        self._watching.tick(open_hosts, now=moment.now)
        for one in self._holding.stalled(moment.now):
            self._subscribing.end(one, "busy", moment)
        self._holding.expire(now=moment.now, now_ms=moment.now_ms)
        self._groups.go_on(now=moment.now, now_ms=moment.now_ms)
        for host in open_hosts:  # nothing waits for who is not in, and a thousand of these may be there
            host.outbox.expire(moment.now_ms)
            host.intake.tick(moment.now)
        self._neighbours.tick(moment)
        self._asking.tick(moment.now)
        self._durable.tick(moment.now)
        self._offences.tick(moment.now)
        if moment.now - self._forgot_at >= FORGET_SECONDS:
            self._forgot_at = moment.now
            self._joining.forget(moment.now_ms)
            self._requests.forget(moment.now_ms)
        self._pacing.flush()

    def now_ms(self) -> int:
        """The date to judge by: never before an instant that is known to have passed."""
        return self._snapshot.trust.now_ms(self._memory.now_ms(self._clock.now_ms()))

    def _moment(self) -> Moment:
        return Moment(self._clock.monotonic(), self.now_ms)

    # ---- the end ---------------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Everybody is asked to finish, and nobody comes in any more."""
        self._links.is_draining = True
        for host in self._hosts:
            host.send(Frame.DRAIN, "shutdown")

    async def aclose(self) -> None:
        """Every link is closed, after what was sent is written."""
        for host in [*self._hosts]:
            host.cut("shutdown")
        self._links.close_early()
        await anyio.lowlevel.checkpoint()

    @property
    def waiting(self) -> int:
        """Copies that wait for credit, for a member of their group, or for room on their link."""
        return len(self._holding) + len(self._groups) + sum(len(host.outbox) for host in self._hosts)

    def statistics(self) -> dict[str, object]:
        return {
            **self.counts.statistics(),
            "held": self.counts.held,
            "held_bytes": self._room.used,
            "offences": self._offences.statistics(),
            "links_open": sum(host.is_open for host in self._hosts),
            "links_half_open": len(self._arriving),
            "agents": len(self._seats),
            "topics": len(self._lanes),
            "subscriptions": len(self._router),
            "requests": len(self._requests),
            "epochs": len(self._asking),
            "neighbours": self._neighbours.statistics(),
            "petitions": self.petitions.statistics(),
            **self._joining.statistics(),
            **self._durable.statistics(),
        }
