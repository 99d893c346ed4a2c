"""What each frame of an open link does: one row of a table for each that a host may send, and no other is allowed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from bus.broker.asking import Asking
from bus.broker.durable import Durable
from bus.broker.groups import Groups
from bus.broker.holding import Holding
from bus.broker.host_link import HostLink
from bus.broker.interest import Interest
from bus.broker.joining import Joining
from bus.broker.lanes import Lanes
from bus.broker.moment import Moment
from bus.broker.offences import Offences
from bus.broker.petitions import Petitions
from bus.broker.publishing import Publishing
from bus.broker.router import Router
from bus.broker.subscribing import Subscribing
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol.codec import malformed
from bus.protocol.frames import ALL_DELIVERIES, FIRST_ALIAS, Frame
from bus.protocol.handshake import Limits, told
from bus.protocol.header import EPOCH_ID_BYTES, is_topic
from bus.protocol.papers import claimed

CLOSED: Final = "closed"
"""One of the host's agents has left; the others go on."""
Handler = Callable[[HostLink, list[Any], Moment], None]


class Serving:
    def __init__(
        self,
        snapshot: Snapshot,
        limits: Limits,
        *,
        asking: Asking,
        durable: Durable,
        groups: Groups,
        holding: Holding,
        interest: Interest,
        joining: Joining,
        lanes: Lanes,
        offences: Offences,
        petitions: Petitions,
        publishing: Publishing,
        router: Router,
        subscribing: Subscribing,
    ) -> None:
        self._snapshot, self._limits = snapshot, limits
        self._asking, self._groups, self._holding, self._interest = asking, groups, holding, interest
        self._joining, self._lanes, self._offences, self._router = joining, lanes, offences, router
        self._subscribing, self._durable = subscribing, durable
        self._table: Final[Mapping[int, Handler]] = {
            Frame.PUBLISH: publishing.turn,
            Frame.CREDIT: self._credit,
            Frame.OPEN: self._open,
            Frame.SUBSCRIBE: subscribing.begin,
            Frame.UNSUBSCRIBE: self._unsubscribe,
            Frame.INTEREST_SEEN: self._interest_seen,
            Frame.ASK: self._ask,
            Frame.PAPERS: self._papers,
            Frame.TRUST: self._nothing,
            Frame.AUTHORITY: petitions.ask,
            Frame.SETTLE: self._settle,
            Frame.PING: self._ping,
            Frame.PONG: self._nothing,
            Frame.DRAIN: self._drain,
            Frame.REFUSE: self._refuse,
        }

    def follow(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def judge_lanes(self, host: HostLink) -> None:
        """By another policy, others may publish or listen there, and the unit may be another one."""
        for lane in host.lanes.values():
            self._lanes.judge(lane, self._snapshot)
            self._interest.opened(lane)
            unit = self._router.unit(lane.topic)
            if unit != lane.unit:
                lane.unit = unit
                lane.say()

    def frame(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        """Raises RemoteProtocolError("malformed"): the link is over."""
        handler = self._table.get(fields[0])
        if handler is None:
            raise malformed(f"a host does not send {Frame(fields[0]).name} on an open link")
        handler(host, fields, moment)

    def _credit(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        _, number, count = fields
        if number == ALL_DELIVERIES:
            had_room = host.outbox.has_room
            host.outbox.taken_in(count)
            if not had_room:
                self._durable.go_on(host)
            return
        one = host.subscriptions.get(number)  # of one that has just ended, credit may still come
        if one is not None and one.taker is not None:
            self._durable.credit(one, count)
        elif one is not None and one.blocks:
            self._holding.credit(one, count, now=moment.now, now_ms=moment.now_ms)
            if one.group:
                self._groups.go_on(now=moment.now, now_ms=moment.now_ms)

    def _open(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        _, alias, topic = fields
        if not topic:
            lane = host.lanes.get(alias)
            if lane is not None:
                self._lanes.close(lane)
            return
        if alias < FIRST_ALIAS or alias in host.lanes or not is_topic(topic) or len(host.lanes) >= self._limits.topics:
            raise malformed("an alias is opened once, from 2 on, for a topic, and not more often than the limits say")
        lane = self._lanes.open(host, alias, topic, self._snapshot)
        lane.unit = self._router.unit(topic)
        self._interest.opened(lane)
        lane.say()

    def _unsubscribe(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        one = host.subscriptions.get(fields[1])
        if one is not None:
            self._subscribing.drop(one, moment)

    def _interest_seen(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        self._interest.seen(host, fields[1])

    def _ask(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        _, id_, papers = fields
        if len(id_) == EPOCH_ID_BYTES:
            asks = host.sessions.get(claimed(papers).session)
            if asks is None:
                host.refuse("unverified", id_)  # others would have to look at them, and seal to whatever key they name
            elif not self._durable.ask(host, asks.name, id_, papers):
                self._asking.ask(host, id_, papers, now=moment.now)
            return
        found = self._joining.find(id_)
        if found is not None:
            host.tell_session(found.id, found.papers.encode())
        elif not self._durable.ask_papers(host, id_):
            host.refuse("not_permitted", id_)

    def _papers(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        for name, session, reason, detail in self._joining.papers(host, fields[1], fields[2], moment):
            self._offences.note(host.link.peer, f"papers refused as {reason}", detail, now=moment.now)
            if name in host.agents:  # under an older session, which goes on
                host.refuse(told(reason), session)
            elif name:
                host.answer(Frame.DRAIN, f"{'revoked' if reason == 'revoked' else told(reason)} {name}")

    def _refuse(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        _, code, ref = fields
        if len(ref) == EPOCH_ID_BYTES:
            self._asking.refused(host, code, ref)

    def _ping(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        self._durable.ping(host, fields[1])

    def _settle(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        self._durable.settle(host, fields)

    def _drain(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        word, _, agent = fields[1].partition(" ")
        if word == CLOSED:
            self._joining.close(host, agent, moment)
        else:
            host.cut("bye")

    def _nothing(self, host: HostLink, fields: list[Any], moment: Moment) -> None:
        """It needs no answer here: trust comes to a broker from its own authority."""
