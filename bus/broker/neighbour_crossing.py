"""What a neighbour brings: judged as if a host had brought it, and given to the readers here; to no other neighbour.

papers     of its session were shown on this link. Whether the signature holds is for the readers, as ever
policy     and time and size are asked again: a neighbour that goes by another policy changes nothing here
kept       never here: the broker of its sender has it on disk, and gives it to neighbours for those who listen live
seat       requests and epochs are noted in the name of an agent that is live at this very neighbour, and of no other: else one
           that lies would push out those of agents elsewhere, by headers that anybody can write. A request of another is refused,
           because no answer would go there
requests   so who gets one may answer it here; the answer goes back where the request came from. Of one neighbour so many, whatever
           number of agents it says to have
pace       each delivery is a turn, credited when the readers here have taken it in, or after 5 ms; a reader that blocks and is full
           stops the topic at the neighbour (`neighbour_lanes`)
refused    is counted here. What nobody could believe is counted against the neighbour, which is cut for too much of it
"""

from __future__ import annotations

from typing import Any, Final

from bus.broker.admission import Admission
from bus.broker.counts import Counts
from bus.broker.crossing import Crossing
from bus.broker.listing import Listing
from bus.broker.moment import Moment
from bus.broker.neighbour import Neighbour
from bus.broker.neighbour_lanes import NeighbourLanes
from bus.broker.offences import Offences
from bus.broker.outbox import MAX_UNTAKEN
from bus.broker.pacing import Pacing
from bus.broker.publishing import MAX_JUNK, Publishing
from bus.broker.requests import Asked, Requests
from bus.broker.router import Router
from bus.broker.seats import Seats
from bus.broker.watching import Watching
from bus.errors import RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.codec import malformed
from bus.protocol.frames import BY_ITS_TOPIC, JUNK, numbers
from bus.protocol.header import GRANT, REPLY, REQUEST, Header
from bus.protocol.topics import is_reserved

MAX_TURNS: Final = 3 * MAX_UNTAKEN
"""More than a neighbour that waits for credit can have out."""
MAX_BROUGHT: Final = 16_384
"""Requests of one neighbour that are remembered: a quarter of all. The oldest of them go."""
REFUSED_PRICE: Final = 10
"""Of what an honest neighbour may bring too, for a moment, when policy or trust have changed."""
_NOBODY: Final[frozenset[str]] = frozenset()


class NeighbourCrossing:
    def __init__(
        self,
        *,
        admission: Admission,
        counts: Counts,
        lanes: NeighbourLanes,
        listing: Listing,
        offences: Offences,
        pacing: Pacing,
        publishing: Publishing,
        requests: Requests,
        router: Router,
        seats: Seats,
        watching: Watching,
    ) -> None:
        self._admission, self._counts, self._listing, self._offences = admission, counts, listing, offences
        self._pacing, self._publishing, self._requests, self._router = pacing, publishing, requests, router
        self._lanes, self._seats, self._watching = lanes, seats, watching
        self._brought: dict[str, dict[tuple[str, bytes], None]] = {}
        """Requests, by the broker that brought them: who asks, and the id."""

    def deliver(self, neighbour: Neighbour, fields: list[Any], moment: Moment) -> None:
        """A DELIVER. Raises RemoteProtocolError("malformed") for a number that is out already."""
        _, number, chosen, _, _, envelope = fields
        turn = self._pacing.begin(neighbour, number, now=moment.now, most=MAX_TURNS)
        self._counts.turns += 1
        self._counts.turns_of_neighbours += 1
        self._counts.received += 1
        header: Header | None = None
        refused = ""
        try:
            header = headers.parse(envelopes.split(envelope)[0])
            crossing = Crossing(header, envelope, _shown(neighbour, header), turn)
            if header.kind == GRANT or header.flags == REPLY or is_reserved(header.topic):
                self._publishing.by_its_topic(BY_ITS_TOPIC, crossing, moment)
            else:
                self._on_topic(neighbour, crossing, chosen, moment)
        except (VerificationError, RemoteProtocolError) as error:
            refused = error.reason
            self._refuse(neighbour, error, moment)
        if self._listing.is_watched and header is not None:
            self._listing.passed(header, len(envelope), refused, now_ms=moment.now_ms)
        self._pacing.begun(turn)

    def _on_topic(self, neighbour: Neighbour, crossing: Crossing, chosen: bytes, moment: Moment) -> None:
        header = crossing.header
        self._publishing.check(self._admission.permit(crossing.believed, header.topic), crossing, moment)
        if header.flags:
            if header.flags != REQUEST or header.records != 1:
                raise malformed("what goes on a topic is no reply, and a request is one record")
            crossing.asked = self._asked(neighbour, header, moment)
            crossing.asked.copies += 1
        crossing.lane = self._lanes.of(neighbour, header.topic)
        self._publishing.admitted(header)
        groups = _groups(neighbour, chosen) if chosen else _NOBODY
        self._publishing.spread(crossing, self._router.here(header.topic, groups), now=moment.now)

    def _asked(self, neighbour: Neighbour, header: Header, moment: Moment) -> Asked:
        if self._seats.host_of(header.sender) is not neighbour:
            raise VerificationError("not_permitted", agent=header.sender, detail="it asks, and is not live at this neighbour")
        if self._requests.find(header.sender, header.id) is None:
            brought = self._brought.setdefault(neighbour.neighbour, {})
            brought[header.sender, header.id] = None
            if len(brought) > MAX_BROUGHT:
                oldest = next(iter(brought))
                del brought[oldest]
                self._requests.drop(*oldest)
        return self._requests.open(header, now_ms=moment.now_ms)

    def _refuse(self, neighbour: Neighbour, error: VerificationError | RemoteProtocolError, moment: Moment) -> None:
        self._counts.refused[error.reason] += 1
        what = f"envelopes that {neighbour.neighbour} brings refused as {error.reason}"
        self._offences.note(neighbour.link.peer, what, str(error), now=moment.now)
        neighbour.intake.charge(REFUSED_PRICE)
        if isinstance(error, RemoteProtocolError):
            neighbour.junk += 1
            if neighbour.junk > MAX_JUNK:
                self._watching.cut(neighbour, JUNK, f"more than {MAX_JUNK} envelopes in a minute that are none", now=moment.now)


def _shown(neighbour: Neighbour, header: Header) -> Believed:
    found = neighbour.known.get(header.session)
    if found is None:
        raise VerificationError("untrusted", agent=header.sender, detail="a session whose papers this neighbour has not shown")
    return found


def _groups(neighbour: Neighbour, chosen: bytes) -> frozenset[str]:
    """For which groups this broker was chosen, by numbers of subscriptions that the neighbour was told of."""
    found = set()
    for number in numbers(chosen):
        one = neighbour.mine.get(number)
        group = one.group if one is not None else neighbour.groups_left.get(number, "")
        if group:
            found.add(group)
    return frozenset(found)
