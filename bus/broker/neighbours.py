"""Other brokers of this domain: agents, subscriptions and live messages across them, as if all hosts were on one.

A neighbour is a link. On it both ends are brokers and equal: each proves itself (`neighbour_greeting`), tells what it has of its
own (`neighbour_seats`, `neighbour_interest`) and from then on every change, and brings what its agents publish for readers here
(`neighbour_crossing`). Nothing is passed on twice, so every broker has a link to every other, and there are no loops.

    one link  of each broker, by its name: the newest on which it proved itself. So what one may have is bounded for a broker
    session   of a broker ends, and so does its link, unless it has shown its next one there in time
    lost      with the link all that the neighbour had here is gone: its agents are not live, its subscriptions have ended, and
              what was under way is lost, which readers see as `missed`. The link that comes next begins anew
    hostile   a neighbour is a broker with valid papers and may be broken or taken over. All that it can make grow has a bound, its
              agents and subscriptions are judged by our policy, its envelopes by the same rules as those of hosts; what breaks the
              protocol cuts its link, by name
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from bus.broker.accounts import Accounts
from bus.broker.admission import Admission
from bus.broker.asking import Asking
from bus.broker.counts import Counts
from bus.broker.groups import Groups
from bus.broker.host_link import HostLink
from bus.broker.interest import Interest
from bus.broker.joining import Joining
from bus.broker.lanes import Lanes
from bus.broker.listing import Listing
from bus.broker.moment import Moment
from bus.broker.neighbour import Neighbour
from bus.broker.neighbour_crossing import NeighbourCrossing
from bus.broker.neighbour_greeting import MAX_SECONDS, Meeting, check_broker
from bus.broker.neighbour_interest import NeighbourInterest
from bus.broker.neighbour_lanes import NeighbourLanes
from bus.broker.neighbour_seats import NeighbourSeats
from bus.broker.neighbour_serving import NeighbourServing
from bus.broker.offences import Offences
from bus.broker.pacing import Pacing
from bus.broker.publishing import Publishing
from bus.broker.requests import Requests
from bus.broker.router import Router
from bus.broker.seats import Seats
from bus.broker.subscribing import Subscribing
from bus.broker.watching import Watching
from bus.errors import BusError, ClosedError, VerificationError
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.identity.host.session import Session
from bus.protocol.frames import Frame
from bus.protocol.neighbour_frames import BOOT_BYTES

WEIGHT: Final = 4
"""Of its account: it brings the papers of many agents when it comes."""
MAX_NEIGHBOURS: Final = 64
"""Open; and so many more that are about to be."""
TOLD_COST: Final = 2
"""Of each agent and subscription of which a neighbour is told when it comes, in steps: so one that comes and goes pays for it."""


class Neighbours:
    def __init__(
        self,
        snapshot: Snapshot,
        verifier: Verifier,
        *,
        accounts: Accounts,
        admission: Admission,
        asking: Asking,
        counts: Counts,
        groups: Groups,
        hosts: Iterable[HostLink],
        interest: Interest,
        joining: Joining,
        lanes: Lanes,
        listing: Listing,
        offences: Offences,
        pacing: Pacing,
        publishing: Publishing,
        requests: Requests,
        router: Router,
        seats: Seats,
        subscribing: Subscribing,
        watching: Watching,
        lose: Callable[[Neighbour, BusError], None],
        now_ms: Callable[[], int],
        random: Callable[[int], bytes],
    ) -> None:
        """`lose`: take away at once all that one had."""
        self._snapshot, self._verifier = snapshot, verifier
        self._accounts, self._hosts, self._watching, self._lose, self._random = accounts, hosts, watching, lose, random
        self._offences, self._seats = offences, seats
        self._own: Session
        self._boot = random(BOOT_BYTES)
        self._open: dict[Neighbour, None] = {}
        self._half_open: dict[Neighbour, None] = {}
        self._places = seats.watch = NeighbourSeats(seats, joining, offences, self._open, now_ms=now_ms, random=random)
        self._lanes = NeighbourLanes(lanes, router, groups, offences)
        self._listening = interest.across = NeighbourInterest(interest, subscribing, self._open, self._lanes, offences)
        self._places.listening = self._listening
        crossing = NeighbourCrossing(
            admission=admission, counts=counts, lanes=self._lanes, listing=listing, offences=offences, pacing=pacing,
            publishing=publishing, requests=requests, router=router, seats=seats, watching=watching,
        )  # fmt: skip
        self._serving = NeighbourServing(
            asking=asking, crossing=crossing, groups=groups, interest=interest, lanes=self._lanes, listening=self._listening,
            seats=self._places,
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self._open)

    @property
    def met(self) -> int:
        """Of how many this broker knows all that they had when it came, and they what it had."""
        return sum(one.has_told and one.is_introduced for one in self._open)

    # ---- coming --------------------------------------------------------------------------------------------------------------

    def begin(self, neighbour: Neighbour, own: Session, moment: Moment) -> None:
        self._half_open[neighbour] = None
        self._own = own
        neighbour.meeting = Meeting(neighbour, own, self._verifier, boot=self._boot, now_ms=moment.now_ms, random=self._random)
        if len(self._half_open) > MAX_NEIGHBOURS:
            oldest = next(iter(self._half_open))  # an honest one takes milliseconds
            del self._half_open[oldest]
            self._watching.cut(oldest, "no_neighbour", "it has not proved itself, and others wait", now=moment.now)

    def frame(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """Raises RemoteProtocolError: the link is over."""
        if neighbour.is_open:
            if fields[0] == Frame.PAPERS and fields[2]:
                self._renewed(neighbour, fields, moment)
            else:
                self._serving.frame(neighbour, fields, moment)
            return
        try:
            if neighbour.meeting.received(fields, self._snapshot, moment):
                self._is_open(neighbour, moment)
        except VerificationError as error:
            self._watching.cut(neighbour, "no_neighbour", str(error), now=moment.now)

    def _renewed(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """Raises RemoteProtocolError("malformed"). What is not believed changes nothing: it has until its session ends."""
        try:
            neighbour.meeting.renewed(fields, self._snapshot, moment)
        except VerificationError as error:
            what = f"{neighbour.neighbour}: its new papers refused as {error.reason}"
            self._offences.note(neighbour.link.peer, what, str(error), now=moment.now)

    def _is_open(self, neighbour: Neighbour, moment: Moment) -> None:
        """Both have proved themselves: it hears what there is."""
        del self._half_open[neighbour]
        for other in [*self._open]:
            if other.neighbour == neighbour.neighbour:
                self._watching.cut(other, "came_again", f"{other.neighbour} has another link now", now=moment.now)
                self._lose(other, ClosedError("another link took its place"))
        account = self._accounts.of(f"broker {neighbour.neighbour}", now=moment.now, weight=WEIGHT)
        account.grow(moment.now)
        neighbour.intake.answer_to(account)
        if account.is_empty:
            self._watching.cut(neighbour, "comes_too_often", f"{neighbour.neighbour} has to wait for a moment", now=moment.now)
        elif len(self._open) >= MAX_NEIGHBOURS:
            self._watching.cut(neighbour, "too_many_neighbours", f"more than {MAX_NEIGHBOURS}", now=moment.now)
        else:
            self._introduce(neighbour)

    def _introduce(self, neighbour: Neighbour) -> None:
        neighbour.is_open = True
        self._open[neighbour] = None
        neighbour.meeting.renew(self._own)  # if it was renewed meanwhile
        listen = [one for host in self._hosts for one in host.subscriptions.values()]
        neighbour.intake.account.pay(TOLD_COST * (len(self._seats) + len(listen)))
        self._places.introduce(neighbour)
        self._listening.introduce(neighbour, listen)

    def take_session(self, own: Session) -> None:
        """This broker's identity was certified anew: those who are here believe it for no longer than they know of."""
        self._own = own
        for neighbour in self._open:
            neighbour.meeting.renew(own)

    # ---- following -----------------------------------------------------------------------------------------------------------

    def follow(self, snapshot: Snapshot, moment: Moment) -> None:
        """By another policy and trust: brokers that count no more are cut, and their agents and subscriptions judged."""
        self._snapshot = snapshot
        for neighbour in [*self._half_open, *self._open]:
            try:
                if neighbour.broker is not None:
                    check_broker(neighbour.broker, snapshot, now_ms=moment.now_ms)
            except VerificationError as error:
                self._watching.cut(neighbour, "revoked", str(error), now=moment.now)
                continue
            if neighbour.is_open:
                self._places.judge(neighbour, moment)
                self._listening.judge(neighbour, moment)

    # ---- going ---------------------------------------------------------------------------------------------------------------

    def tick(self, moment: Moment) -> None:
        now = moment.now
        self._lanes.tick(now)
        for neighbour in [*self._half_open]:
            if now - neighbour.began_at >= MAX_SECONDS:
                self._watching.cut(neighbour, "no_neighbour", "it has not proved itself within 5 s", now=now)
        for neighbour in [*self._open]:
            if neighbour.meeting.is_over(moment):
                detail = f"the session of {neighbour.neighbour} has ended, and it has shown no other"
                self._watching.cut(neighbour, "session_ended", detail, now=now)
            if self._listening.is_overdue(neighbour, now):
                self._watching.cut(neighbour, "interest_not_seen", "it does not say that its publishers know who listens", now=now)
        self._places.tick(moment)

    def lost(self, neighbour: Neighbour) -> None:
        """Its link is gone, and its agents and subscriptions were taken away before."""
        self._half_open.pop(neighbour, None)
        self._open.pop(neighbour, None)
        self._listening.lost(neighbour)
        self._lanes.lost(neighbour)
        neighbour.asked.clear()
        neighbour.pieces.clear()

    def statistics(self) -> dict[str, object]:
        return {
            "open": len(self._open),
            "agents": sum(len(one.agents) for one in self._open),
            "subscriptions": sum(len(one.subscriptions) for one in self._open),
            "set_aside": sum(len(one.agents_aside) + len(one.subscriptions_aside) for one in self._open),
            "not_opened": len(self._half_open),
            "durable": len(self._listening.kept),
        }
