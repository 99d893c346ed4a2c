"""One turn: each envelope is judged by its header, and passed on to those who listen, or refused.

    alias >= 2    a topic that the link opened; the header must name it
    alias 0       where the header's own topic says: `_grant.NAME`, `_reply.NAME.SESSION`, `_audit.NAME`
    alias 1       a grant that is kept with durable messages

What is refused is counted against the link that brought it, never against whom the header names: anybody can write a header.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, Final

from bus.broker.admission import Admission, Permit
from bus.broker.asking import Asking
from bus.broker.counts import Counts
from bus.broker.crossing import Crossing, Reader
from bus.broker.durable import Durable
from bus.broker.groups import Groups
from bus.broker.holding import Holding
from bus.broker.host_link import HostLink
from bus.broker.intake import NEW_EPOCH, REFUSED
from bus.broker.listing import Listing
from bus.broker.moment import Moment
from bus.broker.offences import Offences
from bus.broker.pacing import Pacing, Turn
from bus.broker.requests import Requests
from bus.broker.router import Route, Router
from bus.broker.seats import Seats
from bus.broker.watching import Watching
from bus.errors import RemoteProtocolError, VerificationError
from bus.identity.envelopes.arrival import check_times
from bus.identity.envelopes.believe import Believed
from bus.identity.envelopes.reserved import AUDIT, requester_of
from bus.protocol import envelope as envelopes
from bus.protocol import grants
from bus.protocol import header as headers
from bus.protocol.codec import malformed
from bus.protocol.frames import BY_ITS_TOPIC, FIRST_ALIAS, JUNK, KEPT_GRANT, Frame, numbers
from bus.protocol.handshake import told
from bus.protocol.header import GRANT, REPLY, REQUEST, Header

MAX_JUNK: Final = 4_096
"""Envelopes in a minute that nobody could have believed; a link that brings more is cut."""
HARMLESS: Final = frozenset(("not_permitted", "busy"))
"""Told codes of what an honest host may send too, when policy changes under it."""

_aliases: Final = lru_cache(maxsize=256)(numbers)
"""A host's turns mostly look like its last ones."""


class Publishing:
    def __init__(
        self,
        *,
        admission: Admission,
        asking: Asking,
        counts: Counts,
        durable: Durable,
        groups: Groups,
        holding: Holding,
        listing: Listing,
        offences: Offences,
        pacing: Pacing,
        requests: Requests,
        router: Router,
        seats: Seats,
        watching: Watching,
    ) -> None:
        self._admission, self._asking, self._counts, self._durable = admission, asking, counts, durable
        self._groups, self._holding, self._offences, self._pacing = groups, holding, offences, pacing
        self._listing, self._watching = listing, watching
        self._requests, self._router, self._seats = requests, router, seats

    def turn(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        """A PUBLISH. Raises RemoteProtocolError("malformed") for a turn that may not be; what is in it is judged one by one."""
        turn = self._pacing.begin(host, fields[1], now=moment.now)
        self._counts.turns += 1
        self._counts.received += len(fields[3])
        for alias, envelope in zip(_aliases(fields[2]), fields[3], strict=True):
            self._envelope(host, alias, envelope, turn, moment)
        self._pacing.begun(turn)

    def _envelope(self, host: HostLink, alias: int, envelope: bytes, turn: Turn, moment: Moment) -> None:
        header: Header | None = None
        refused = ""
        try:
            header = headers.parse(envelopes.split(envelope)[0])
            crossing = Crossing(header, envelope, _session(host, header), turn)
            if alias >= FIRST_ALIAS:
                self._on_topic(host, alias, crossing, moment)
            else:
                self.by_its_topic(alias, crossing, moment)
        except (VerificationError, RemoteProtocolError) as error:
            refused = error.reason
            self._refuse(host, error, b"" if header is None else header.id, moment)
        if self._listing.is_watched and header is not None:
            self._listing.passed(header, len(envelope), refused, now_ms=moment.now_ms)

    # ---- topics --------------------------------------------------------------------------------------------------------------

    def _on_topic(self, host: HostLink, alias: int, crossing: Crossing, moment: Moment) -> None:
        header, lane = crossing.header, host.lanes.get(alias)
        if lane is None or lane.topic != header.topic:
            raise malformed("an alias that is not open, or of another topic than the envelope's")
        permit = self._admission.permit(crossing.believed, header.topic)
        self.check(permit, crossing, moment)
        if header.flags:
            if header.flags != REQUEST or header.records != 1:
                raise malformed("what goes on a topic is no reply, and a request is one record")
            crossing.asked = self._requests.open(header, now_ms=moment.now_ms)
            crossing.asked.copies += 1
        crossing.lane = lane
        if permit.is_durable:
            self._durable.publish(crossing)
            self.admitted(header)
            return
        self.admitted(header)
        self.spread(crossing, self._router.route(header.topic), now=moment.now)

    def stored(self, crossings: Iterable[Crossing], *, now: float) -> None:
        """These are kept now: to all who listen live on their topics."""
        for crossing in crossings:
            route = self._router.route(crossing.header.topic)
            if route.is_heard:
                self._cross(crossing, route, now=now)

    def spread(self, crossing: Crossing, route: Route, *, now: float) -> None:
        """To all who listen on its topic."""
        if not route.is_heard:
            self._counts.unheard += 1
        else:
            self._counts.routed += 1
            self._cross(crossing, route, now=now)
        if crossing.asked is not None:
            crossing.was_dropped()  # who asks nobody, since its last reader has just left, need not wait for nothing

    def _cross(self, crossing: Crossing, route: Route, *, now: float) -> None:
        for reader in route.plain:
            self._holding.cross(crossing, reader, now=now)
        if route.groups:
            self._groups.cross(crossing, route, now=now)

    def check(self, permit: Permit, crossing: Crossing, moment: Moment) -> None:
        """Return if it may pass. Raises VerificationError, RemoteProtocolError("malformed")."""
        header = crossing.header
        permit.check(header, len(crossing.envelope), self._admission.snapshot.judged_at(moment.now_ms))
        if permit.epoch != header.epoch and self._note(crossing):
            permit.epoch = header.epoch

    def _note(self, crossing: Crossing) -> bool:
        """Of which epoch this is. False: it comes from a neighbour at which its sender is not, and whose word for that is none."""
        header, host = crossing.header, crossing.turn.host
        if host.is_neighbour and self._seats.host_of(header.sender) is not host:
            return False
        if self._asking.note(header.epoch, header.sender, host.neighbour):
            host.intake.charge(NEW_EPOCH)
        return True

    # ---- what goes by its own topic ------------------------------------------------------------------------------------------

    def by_its_topic(self, alias: int, crossing: Crossing, moment: Moment) -> None:
        """Raises VerificationError, RemoteProtocolError("malformed")."""
        header = crossing.header
        if header.kind == GRANT:
            self._grant(alias, crossing, moment)
        elif alias == KEPT_GRANT:
            raise malformed("only grants are kept")
        elif header.flags == REPLY:
            self._reply(crossing, moment)
        elif header.topic.startswith(AUDIT) and not header.flags:
            self.check(self._admission.permit(crossing.believed, header.topic), crossing, moment)
            self.admitted(header)
            is_far = crossing.turn.host.is_neighbour
            route = self._router.here(header.topic, frozenset()) if is_far else self._router.route(header.topic)
            self.spread(crossing, route, now=moment.now)
        else:
            raise malformed("only grants, replies and audit records go by their own topic")

    def _grant(self, alias: int, crossing: Crossing, moment: Moment) -> None:
        header, snapshot = crossing.header, self._admission.snapshot
        reader = grants.reader_of(header)
        grants.check_size(len(crossing.envelope), header)
        check_times(header, header.expires_ms, now_ms=snapshot.judged_at(moment.now_ms))
        # Not by its own topic: there would be one standing for each reader, and all say the same.
        snapshot.standing(crossing.believed, AUDIT + crossing.believed.name).check_signer(header)
        self._note(crossing)
        if alias != BY_ITS_TOPIC:
            self._durable.keep(crossing)
        self.admitted(header)
        if alias != BY_ITS_TOPIC and reader == header.sender:  # it is for whoever that will be when this process is gone
            self._counts.unheard += 1
        else:
            self._to(reader, crossing, is_grant=True)

    def _reply(self, crossing: Crossing, moment: Moment) -> None:
        header = crossing.header
        requester = requester_of(header.topic)
        asked = self._requests.find(requester, header.ref) if requester is not None else None
        if requester is None or header.records != 1 or not header.ref:
            raise malformed("a reply is one record, says to which request, and goes to the requester's session")
        if asked is None or not asked.may_answer(header.sender):
            raise VerificationError("not_permitted", agent=header.sender, detail="nobody asked it that here")
        self.check(self._admission.permit(crossing.believed, asked.topic, reply=True), crossing, moment)
        self.admitted(header)
        self._to(requester, crossing, is_grant=False)

    def _to(self, agent: str, crossing: Crossing, *, is_grant: bool) -> None:
        """To the link on which this agent is live."""
        host = self._seats.host_of(agent)
        if host is None or (host.is_neighbour and crossing.turn.host.is_neighbour):  # nothing is passed on twice
            self._counts.unheard += 1
            return
        self._counts.routed += 1
        self._counts.copies += 1
        crossing.turn.pending += 1
        (host.outbox.put_first if is_grant else host.outbox.put)(crossing, Reader.of(host, ()))

    # ---- counting ------------------------------------------------------------------------------------------------------------

    def admitted(self, header: Header) -> None:
        self._counts.admitted += 1
        self._counts.records += header.records

    def _refuse(self, host: HostLink, error: VerificationError | RemoteProtocolError, id_: bytes, moment: Moment) -> None:
        code = told(error.reason)
        self._counts.refused[error.reason] += 1
        self._offences.note(host.link.peer, f"envelopes refused as {error.reason}", str(error), now=moment.now)
        host.intake.charge(REFUSED)
        host.refuse(code, id_)
        if code not in HARMLESS:
            host.junk += 1
            if host.junk > MAX_JUNK and not host.cut_for:  # the rest of its turn is looked at, and counted
                host.send(Frame.DRAIN, JUNK)
                self._watching.cut(
                    host, JUNK, f"more than {MAX_JUNK} envelopes in a minute that nobody could believe", now=moment.now
                )


def _session(host: HostLink, header: Header) -> Believed:
    found = host.sessions.get(header.session)
    if found is None:
        raise VerificationError("untrusted", agent=header.sender, detail="no session of an agent that is on this link")
    return found
