"""What a host sends: records wait in lanes, and turns take along as much as the far end lets them.

    put       a lane has something: it is listed, and the writer woken; nothing else happens in `publish`
    turn      grants first, then what is sealed, by the lanes' order; one write, one signature. What is to be kept goes its own way
    credited  the far end has taken it in; until then it is kept, and after a lost link sent again byte for byte
    refused   whoever waits for it hears so, else it is reported

One turn in one step of the loop, so that others have theirs in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any, Final

import anyio

from bus.agent.gathering import Gathering
from bus.agent.identity_turns import IdentityTurns, Start
from bus.agent.lane import Lane
from bus.agent.opened_topics import OpenTopics
from bus.agent.outcomes import Outcomes, Refused, Turn
from bus.agent.readiness import Readiness
from bus.agent.sealing_turns import Part, SealingTurns, Sent
from bus.agent.way import MOST_TURN_BYTES, TURN_BYTES, Way
from bus.clock import Clock
from bus.errors import BusError
from bus.flow.rounds import Rounds
from bus.identity.epochs.keyring import Keyring
from bus.identity.host.sessions import Sessions
from bus.protocol.frames import BY_ITS_TOPIC, MAX_ROWS, MAX_TURNS_OUT, Frame, column, encode
from bus.transport.link import Link
from bus.transport.soon import Soon, scheduler

_U32: Final = (1 << 32) - 1


class Outbox:
    def __init__(
        self,
        keyring: Keyring,
        sessions: Sessions,
        sealing: SealingTurns,
        clock: Clock,
        *,
        start: Start,
        refused: Refused,
        failed: Callable[[BaseException], None],
    ) -> None:
        """`failed` hears of an error of our own, which nothing can go on after."""
        self._keyring, self._sealing, self._clock = keyring, sealing, clock
        self._failed = failed
        self._outcomes = Outcomes(refused)
        self._link: Link | None = None
        self._soon: Soon
        """Since there is a link."""
        self._woken = False
        self._live, self._kept = self._ways = Way(), Way()
        self._to_sign: Rounds[Lane] = Rounds()
        """Lanes that have something for their identity key: before it has signed, that needs no place in a window."""
        self._by_identity = IdentityTurns(
            sealing,
            start,
            sealed=self._signed,
            failed=self._outcomes.fail,
            settled=self._may_go_on,
            may_seal=self._may_seal,
        )
        self._readiness = Readiness(
            keyring,
            sessions,
            grant=lambda lane, alias, grant: self._way(lane).grant(alias, grant),
            unheard=self._outcomes.unheard,
            failed=self.fail_all,
        )
        self._turns: dict[int, Turn] = {}
        self._last = 0
        self._progress: anyio.Event | None = None
        self.gathering = Gathering(self._ways, clock)
        self.topics = OpenTopics(self._send, self._wake_lanes, lambda: {one.lane.topic for one in self._on_the_way()})
        self.counts = self._outcomes.counts

    # ---- what agents do ------------------------------------------------------------------------------------------------------

    def put(self, lane: Lane) -> None:
        """This lane has something new."""
        if lane.ready or not lane.may_begin:
            return
        if lane.topic is None:
            self._attach(lane)
        lane.since = self._clock.monotonic()
        self._rounds(lane).add(lane)
        self.wake()

    def now(self) -> float:
        """Of the clock that lanes' times are of."""
        return self._clock.monotonic()

    def wake(self) -> None:
        if not self._woken and self._link is not None:
            self._woken = True
            self._soon(self._turn)

    def control(self, alias: int, envelope: bytes) -> bool:
        """A grant for somebody who asked, to go before everything else. False if too many wait already."""
        if not self._live.may_grant:
            return False
        self._live.grant(alias, envelope)
        self.wake()
        return True

    def close_lane(self, lane: Lane) -> None:
        """Its agent is closed. What waits in it is dropped, and whoever waits for that is told by the caller."""
        self._rounds(lane).discard(lane)
        self._readiness.forget(lane)
        if lane.topic is not None:
            lane.topic.lanes.pop(lane, None)

    def fail_all(self, lane: Lane, error: BusError) -> None:
        """Nothing of what waits in this lane is sent."""
        self._outcomes.fail_all(lane, error)
        self._moved()

    async def drained(self, agent: str = "", lanes: Iterable[Lane] = ()) -> None:
        """Return when nothing waits and everything is credited: of all, or of this agent with these lanes."""
        while not (self._is_done(agent, lanes) if agent else self.is_idle):
            if self._progress is None:
                self._progress = anyio.Event()
            await self._progress.wait()

    def _is_done(self, agent: str, lanes: Iterable[Lane]) -> bool:
        return not (
            any(lane.waiting or lane.signing for lane in lanes) or any(one.lane.agent == agent for one in self._on_the_way())
        )

    def _on_the_way(self) -> Iterator[Sent]:
        """What is sealed and not credited."""
        for sent in chain((way.sealed for way in self._ways), (turn.sent for turn in self._turns.values())):
            yield from sent

    def _moved(self) -> None:
        """Whoever waits for the end looks again."""
        if self._progress is not None:
            self._progress.set()
            self._progress = None

    @property
    def is_idle(self) -> bool:
        return not (
            self._turns or self._by_identity.signing or self._readiness.stalled or self._has_something() or self._waiting_lanes()
        )

    def _has_something(self) -> bool:
        return self._live.has_something or self._kept.has_something or bool(self._to_sign)

    def _waiting_lanes(self) -> bool:
        return any(lane.waiting for topic in self.topics for lane in topic.lanes)

    # ---- what the broker says ------------------------------------------------------------------------------------------------

    def connected(self, link: Link) -> None:
        """Open everything, and send again what was not credited."""
        self._link, self._soon = link, scheduler()
        for way in self._ways:
            way.window.is_far = link.peer.kind == "tls"
        self.topics.open_again(self._clock.monotonic())
        for turn in self._turns.values():
            link.send(turn.frame)
            turn.window.sent(self._clock.monotonic())
        self.wake()

    def worked(self) -> None:
        """After each slice of what came."""
        if self.gathering.goes_on:
            self.wake()

    def tick(self) -> None:
        self.topics.tick(self._clock.monotonic())

    def lost(self) -> None:
        self._link = None
        self._woken = False
        self.gathering.is_over()
        for way in self._ways:
            way.window.lost()
        self.topics.lost()

    def credited(self, first: int, count: int) -> None:
        turns = self._turns
        numbers: Iterable[int] = range(first, first + count)
        if count > len(turns):  # numbers are the broker's word; what is out is ours
            numbers = [number for number in turns if (number - first) & _U32 < count]
        now = self._clock.monotonic()
        for number in numbers:
            turn = turns.pop(number & _U32, None)
            if turn is None:
                continue
            turn.window.credited(1, now)
            if turn.unstored:
                self._outcomes.not_stored(turn)
        if self._has_something():
            self.wake()
        self._moved()

    def stored(self, turn: int, rows: list[tuple[bytes, int]]) -> None:
        """These are on disk: the broker says so before it credits their turn."""
        found = self._turns.get(turn)
        if found is not None:
            self._outcomes.stored(found, rows)

    def refused(self, id_: bytes, code: str) -> None:
        """The broker does not take an envelope."""
        for turn in self._turns.values():
            for sent in turn.sent:
                if sent.id == id_:
                    self._outcomes.refused(sent, code, self._keyring.now_ms())
                    return

    def follow(self) -> None:
        """Policy, trust or sessions changed: what could not go on may go on now, and everything is looked at again."""
        for lane in self._readiness.looked_at_again():
            if lane.waiting and lane.may_begin:
                self._rounds(lane).add(lane)
        self.wake()

    # ---- turns ---------------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """One on each way that is open. Called by the loop, so nothing may be raised."""
        self._woken = False
        link = self._link
        if link is None:
            return
        try:
            self._draft()
            if not link.writable or self.gathering.must_wait():
                return
            ways = [way for way in self._ways if way.has_something and way.window.is_open]
            self._gather(link, ways)
        except BaseException as error:  # noqa: BLE001  an error of our own: the host ends with it
            self._failed(error)
            return
        for way in ways:
            if way.has_something and way.window.is_open:
                self.wake()
        self._moved()

    def _gather(self, link: Link, ways: list[Way]) -> None:
        """Both ways' records under one signature."""
        now_ms = self._keyring.now_ms() if ways else 0
        parts = [part for way in ways if way.may_seal for part in self._parts(way, now_ms)]
        for sent in self._sealing.by_session(parts, now_ms) if parts else ():
            self._way(sent.lane).seal(sent)
        gone: list[Sent] = []
        for way in ways:
            while way.has_a_turn_of_grants and len(self._turns) < MAX_TURNS_OUT:  # they go before whatever they open
                self._send_turn(link, way, [])
            if len(self._turns) < MAX_TURNS_OUT:
                taken = way.take_sealed()
                self._send_turn(link, way, taken)
                gone += taken
        link.flush()
        self._outcomes.sent(gone)  # while it travels
        if gone:
            self._by_identity.may_go_on()

    def _send_turn(self, link: Link, way: Way, sent: list[Sent]) -> None:
        aliases, envelopes, unstored = [], [], 0
        for alias, envelope in way.take_grants():
            aliases.append(alias)
            envelopes.append(envelope)
        for one in sent:
            aliases.append(one.lane.topic.alias if one.lane.topic is not None else BY_ITS_TOPIC)
            envelopes.append(one.envelope)
            unstored += one.lane.rule.is_durable
        if not envelopes:
            return
        self._last = (self._last + 1) & _U32
        frame = encode(Frame.PUBLISH, self._last, column(aliases), envelopes)
        link.send(frame)
        self._turns[self._last] = Turn(frame, sent, unstored, way.window)
        way.window.sent(self._clock.monotonic())

    def _parts(self, way: Way, now_ms: int) -> list[Part]:
        """What the lanes send: one envelope each, or a few of one record."""
        parts: list[Part] = []
        again: list[tuple[Lane, int]] = []
        size, rows = 0, 0
        while size < TURN_BYTES and rows < MAX_ROWS // 4 and (found := way.rounds.next()) is not None:
            lane, allowed = found
            if parts and size + lane.first_bytes() > MOST_TURN_BYTES - TURN_BYTES:
                way.rounds.add(lane)
                break
            if not self._readiness.is_ready(lane, now_ms):
                continue
            is_single = lane.is_single
            taken = lane.take(allowed)
            parts.append(Part(lane, taken))
            size += taken.size_bytes
            rows += len(taken.payloads) if is_single else 1
            again.append((lane, taken.size_bytes))
        for lane, sent_bytes in again:
            way.rounds.sent(lane, sent_bytes, more=bool(lane.waiting))
        return parts

    def _draft(self) -> None:
        """What its identity key signs first goes to that."""
        rounds, now_ms = self._to_sign, self._keyring.now_ms() if self._to_sign else 0
        while (found := rounds.next()) is not None:
            lane, allowed = found
            if self._readiness.is_ready(lane, now_ms):
                self._by_identity.sign(Part(lane, lane.take(allowed)), now_ms)
                if lane.waiting and lane.may_begin:
                    rounds.add(lane)

    # ---- by identity ---------------------------------------------------------------------------------------------------------

    def _signed(self, sent: Sent) -> None:
        self._way(sent.lane).seal(sent)
        self.wake()

    def _may_seal(self, lane: Lane) -> bool:
        """While its readers are behind, what is signed waits; it may be signed all the same."""
        return lane.topic is not None and lane.topic.may_send and self._way(lane).may_seal

    def _may_go_on(self, lane: Lane) -> None:
        """Its key has signed, or failed."""
        if lane.waiting and lane.may_begin:
            self._rounds(lane).add(lane)
        self.wake()
        self._moved()

    # ---- small things --------------------------------------------------------------------------------------------------------

    def _way(self, lane: Lane) -> Way:
        return self._kept if lane.rule.is_durable else self._live

    def _rounds(self, lane: Lane) -> Rounds[Lane]:
        return self._to_sign if lane.by_identity else self._way(lane).rounds

    @property
    def out(self) -> int:
        """Turns that the far end has not taken in."""
        return len(self._turns)

    @property
    def window(self) -> int:
        """How many of what is said live may be out."""
        return self._live.window.size

    def _attach(self, lane: Lane) -> None:
        lane.topic = self.topics.get(lane.key.topic)
        lane.topic.lanes[lane] = None

    def _wake_lanes(self, topic: Any) -> None:
        for lane in topic.lanes:
            if lane.waiting and lane.may_begin:
                self._rounds(lane).add(lane)
        self._by_identity.may_go_on()
        self.wake()

    def _send(self, frame: bytes) -> None:
        if self._link is not None:
            self._link.send(frame)
