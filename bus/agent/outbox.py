"""What a host sends: records wait in lanes, and turns take along as much as the far end lets them.

    put       a lane has something: it is listed, and the writer woken; nothing else happens in `publish`
    turn      grants first, then what is sealed, by the lanes' order; one write, one signature. What is to be kept goes its own way
    credited  the far end has taken it in; until then it is kept, and after a lost link sent again byte for byte
    refused   whoever waits for it hears so, else it is reported

One turn in one step of the loop, so that others have theirs in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any, Final

import anyio

from bus.agent.gathering import Gathering
from bus.agent.identity_turns import IdentityTurns, Start
from bus.agent.lane import Lane
from bus.agent.opened_topics import OpenTopics
from bus.agent.outcomes import Outcomes, Refused, Turn
from bus.agent.sealing_turns import Part, SealingTurns, Sent
from bus.agent.way import MOST_TURN_BYTES, TURN_BYTES, Way
from bus.clock import Clock
from bus.errors import BusError, NotPermittedError, SessionEndedError, TrustStaleError, VerificationError
from bus.identity.envelopes.reserved import why_not_publish
from bus.identity.epochs.keyring import Keyring
from bus.identity.host.sessions import Sessions
from bus.protocol.frames import BY_ITS_TOPIC, KEPT_GRANT, MAX_ROWS, MAX_TURNS_OUT, Frame, column, encode
from bus.protocol.header import REPLY
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
        self._keyring, self._sessions, self._sealing, self._clock = keyring, sessions, sealing, clock
        self._failed = failed
        self._outcomes = Outcomes(refused)
        self._link: Link | None = None
        self._soon: Soon
        """Since there is a link."""
        self._woken = False
        self._live, self._kept = self._ways = Way(), Way()
        self._by_identity = IdentityTurns(
            sealing,
            start,
            sealed=self._signed,
            failed=self._outcomes.fail,
            settled=self._may_go_on,
            may_seal=lambda lane: self._way(lane).may_seal,
        )
        self._stalled: dict[Lane, None] = {}
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
        self._way(lane).rounds.add(lane)
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
        self._way(lane).rounds.discard(lane)
        self._stalled.pop(lane, None)
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
        return not (self._turns or self._by_identity.signing or self._stalled or self._has_something() or self._waiting_lanes())

    def _has_something(self) -> bool:
        return self._live.has_something or self._kept.has_something

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
                    self._outcomes.refused(sent, code)
                    return

    def follow(self) -> None:
        """Policy, trust or sessions changed: what could not go on may go on now, and everything is looked at again."""
        stalled, self._stalled = self._stalled, {}
        for lane in stalled:
            lane.trouble = None
            if lane.waiting and lane.may_begin:
                self._way(lane).rounds.add(lane)
        self.wake()

    # ---- turns ---------------------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        """One on each way that is open. Called by the loop, so nothing may be raised."""
        self._woken = False
        link = self._link
        if link is None or not link.writable or self.gathering.must_wait():
            return
        try:
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
        self._by_identity.turn_left()

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
            if not self._prepare(lane, now_ms):
                continue
            is_single = lane.is_single
            taken = lane.take(allowed)
            if lane.by_identity:
                self._by_identity.sign(Part(lane, taken), now_ms)
                if lane.waiting and lane.may_begin:
                    way.rounds.add(lane)
                continue
            parts.append(Part(lane, taken))
            size += taken.size_bytes
            rows += len(taken.payloads) if is_single else 1
            again.append((lane, taken.size_bytes))
        for lane, sent_bytes in again:
            way.rounds.sent(lane, sent_bytes, more=bool(lane.waiting))
        return parts

    def _prepare(self, lane: Lane, now_ms: int) -> bool:
        """Whether it can go on now; if not, whatever makes it able to lists it again."""
        topic = lane.topic
        if topic is None or not topic.may_send or not lane.may_begin or (topic.expected and not lane.rule.is_durable):
            return False
        sealing = lane.sealing
        if sealing is not None and sealing.still_good(now_ms):
            return True
        if not topic.readers and not lane.rule.is_durable:
            self._outcomes.unheard(lane)
            return False
        return self._refresh(lane)

    def _refresh(self, lane: Lane) -> bool:
        """Ask for its epoch again, and have its readers granted it."""
        topic, way = lane.topic, self._way(lane)
        try:
            self._check_may(lane)
            sealing = self._keyring.epoch(lane.use)
            if topic is not None:
                listening, durable = topic.readers
                for grant in self._keyring.grants(sealing, durable=durable).grants if lane.rule.is_durable else ():
                    way.grant(KEPT_GRANT, grant)
                for grant in self._keyring.grants(sealing, listening=listening).grants:  # to keys that are in memory alone
                    way.grant(BY_ITS_TOPIC, grant)
        except (SessionEndedError, VerificationError) as error:
            self._stall(lane, error)
            return False
        except NotPermittedError as error:
            self.fail_all(lane, error)
            return False
        lane.sealing = sealing
        return True

    def _stall(self, lane: Lane, error: SessionEndedError | VerificationError) -> None:
        """Until there is a session again, which is a moment; or news of trust, for which nobody knows how long it waits."""
        self._stalled[lane] = None
        until = self._keyring.snapshot.trust.statement.next_update_ms
        lane.trouble = TrustStaleError(until) if self._keyring.now_ms() > until else error
        if not isinstance(lane.trouble, SessionEndedError):
            self.fail_all(lane, lane.trouble)
            return
        with suppress(SessionEndedError):
            self._sessions.current(lane.agent)  # the clock may have been set: then it is renewed now, and not when it was due

    def _check_may(self, lane: Lane) -> None:
        """Policy may have changed since it was accepted."""
        if lane.key.flags != REPLY:
            rule = why_not_publish(self._keyring.snapshot.policy, lane.agent, lane.key.topic)
            if rule is not None:
                raise NotPermittedError(lane.agent, f"publish {lane.key.topic}", rule)

    # ---- by identity ---------------------------------------------------------------------------------------------------------

    def _signed(self, sent: Sent) -> None:
        self._way(sent.lane).seal(sent)
        self.wake()

    def _may_go_on(self, lane: Lane) -> None:
        """Its key has signed, or failed."""
        if lane.waiting and lane.may_begin:
            self._way(lane).rounds.add(lane)
        self.wake()
        self._moved()

    # ---- small things --------------------------------------------------------------------------------------------------------

    def _way(self, lane: Lane) -> Way:
        return self._kept if lane.rule.is_durable else self._live

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
                self._way(lane).rounds.add(lane)
        self.wake()

    def _send(self, frame: bytes) -> None:
        if self._link is not None:
            self._link.send(frame)
