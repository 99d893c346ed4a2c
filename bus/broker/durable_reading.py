"""One consumer that is open, and the subscriptions that take from it: one, or the members of a group.

handed out   as far as a taker has credit, not too much that is large, and room in its link; of several the one with most credit,
             in turn among equals. Who could not open an epoch is asked after those who did not say so
shown        papers and kept grants go before the first delivery that needs them
not theirs   what policy does not let them hear (any more) is passed over
too old      and so is what has expired, which its reader would refuse. What it has by the date alone waits: that may be ahead
left         the last taker closes it; what was handed out and not settled goes to whoever opens it next. A member that leaves
             others behind gives back what it has, and they get it. What who leaves says nobody began is no delivery
at the end   if policy keeps its topics in another class now, it goes on there
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import anyio
from anyio.lowlevel import checkpoint

from bus.backbone.interface import DEAD, Consumer, ConsumerName, Delivery, PutOff, Span
from bus.broker.host_link import HostLink, Subscription
from bus.errors import BackboneError, BusError, ClosedError, RemoteProtocolError
from bus.flow.start import Start
from bus.protocol.frames import ACK, NAK, NOT_BEGUN, TERM, column, parse_dead_letter
from bus.protocol.header import Header
from bus.protocol.names import is_agent_name

AT_ONCE: Final = 128
"""Records that are handed out before others have their turn: a millisecond's work."""
USUAL_DELAY: Final = (1 << 64) - 1
"""In a SETTLE: the backbone knows best."""
AGAIN_MS: Final = 5_000
"""What has expired by the date alone is looked at again so often; a trust statement, which says what has passed, comes every five
minutes."""
EXPIRED: Final = "expired"
MAX_LACKS: Final = 1_024
MAX_NOT_BEGUN: Final = 16_384
"""Spans; what an honest host has in hand of one subscription is less."""
FOR_GOOD: Final = frozenset(("consumer_differs", "several_classes", "not_durable"))
"""What will be refused whenever it is asked."""


@dataclass(slots=True, eq=False)
class Taker:
    """A subscription that takes."""

    one: Subscription = field(repr=False)
    reading: Reading
    column: bytes
    """Its number as DELIVER names it."""
    held: dict[int, bytes] = field(default_factory=dict, repr=False)
    """In a group: what it was given and has not settled, and of which epoch."""
    lacks: dict[bytes, None] = field(default_factory=dict, repr=False)
    """In a group: epochs of which it put something off, for want of a key, and has acknowledged nothing since."""
    not_begun: list[Span] = field(default_factory=list, repr=False)
    """What it says, on its way out, that nobody there has looked at: no delivery. Until it has left, it is not handed out again."""
    is_begun: bool = False
    """Whether it was told that it is live."""
    shown: tuple[bytes, bytes, str] = (b"", b"", "")
    """Epoch, session and topic of what it was given last."""

    @property
    def free(self) -> int:
        """How many records it can be given now."""
        return self.one.credit if self.one.may_take and self.one.host.outbox.has_room else 0

    def settles(self, spans: list[Span], verb: int, *, could_not_open: bool) -> list[Span]:
        """What it has of these spans, as a member of a group."""
        found = _held(self.held, spans)
        if verb not in (ACK, NAK, TERM):
            return found
        for position, _ in found:
            epoch = self.held.pop(position)
            if could_not_open:
                self.lacks[epoch] = None
            elif self.lacks and verb == ACK:
                self.lacks.pop(epoch, None)
        while len(self.lacks) > MAX_LACKS:
            del self.lacks[next(iter(self.lacks))]
        return found


class What(NamedTuple):
    """What a reading reads."""

    name: ConsumerName
    class_: str
    pattern: str
    start: Start
    is_kept: bool
    """Not that of a subscription that listens live to dead letters: it is forgotten, and nobody acknowledges."""


class World(Protocol):
    """What a reading asks of its broker."""

    async def open(self, reading: Reading) -> Consumer: ...

    def opened(self, reading: Reading) -> None: ...

    def header(self, envelope: bytes) -> Header: ...

    def now_ms(self) -> int: ...

    def passed_ms(self) -> int:
        """An instant that is known to have passed, whatever the date is."""

    async def show(self, host: HostLink, agent: str, epoch: bytes, session: bytes, sender: str) -> None: ...

    def may_hear(self, agent: str, topic: str, *, dead: bool) -> bool: ...

    def records(self, class_: str) -> int: ...

    def given(self, taker: Taker, header: Header) -> None: ...

    def passed_over(self) -> None: ...

    def cannot_read(self, name: ConsumerName, error: BusError | ValueError) -> None:
        """It is to be said; whoever has it open is told no more than `busy`."""

    def end(self, subscription: Subscription, code: str) -> None: ...

    def closed(self, reading: Reading) -> None: ...


class Reading:
    def __init__(self, what: What, world: World) -> None:
        self.what, self._world = what, world
        self.takers: dict[Subscription, Taker] = {}
        self.consumer: Consumer | None = None
        self.is_group = not is_agent_name(what.name.owner)
        self._is_dead = what.pattern.startswith(DEAD)
        self._most = 1
        self._turns = 0
        self._scope: anyio.CancelScope | None = None
        self._changed: anyio.Event | None = None
        self._not_begun: list[Span] = []
        """By the last who took."""

    @property
    def is_behind(self) -> bool:
        """Whether it reads what was kept elsewhere, before policy changed."""
        return self.consumer is not None and self.consumer.class_ != self.what.class_

    # ---- who takes -------------------------------------------------------------------------------------------------------------

    def add(self, one: Subscription) -> None:
        one.taker = self.takers[one] = Taker(one, self, column((one.number,)))
        self.wake()

    def leave(self, one: Subscription) -> None:
        taker = self.takers.pop(one)
        if not self.takers:
            self._not_begun = taker.not_begun
            self._stop()
        elif taker.held and self.consumer is not None:
            not_begun = taker.settles(taker.not_begun, NAK, could_not_open=False)
            self.consumer.settle_nowait(naks=[(position, position, 0) for position in taker.held], put_off=_as_not_begun(not_begun))

    def wake(self) -> None:
        """Somebody has credit or room again, or is new."""
        if self._changed is not None:
            self._changed.set()

    def move(self) -> None:
        """Policy keeps its topics elsewhere: it is closed and opened anew, where `World.open` says."""
        self._stop()

    def _stop(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    # ---- what is said of deliveries --------------------------------------------------------------------------------------------

    def settle(self, taker: Taker, verb: int, spans: list[Span], delay: int, reason: str) -> bool:
        """Whether it was open; what is said of a closed one is said in vain, and those records come again."""
        if self.consumer is None:
            return False
        if verb == NAK and reason == NOT_BEGUN:
            if len(taker.not_begun) + len(spans) <= MAX_NOT_BEGUN:
                taker.not_begun += spans
            return True
        if self.is_group:
            spans = taker.settles(spans, verb, could_not_open=verb == NAK and bool(reason))
        if verb == ACK:
            self.consumer.settle_nowait(acks=spans)
        elif verb == NAK and reason:  # nobody there could be handed it
            self.consumer.settle_nowait(
                put_off=[PutOff(first, last, 0 if delay == USUAL_DELAY else delay, reason) for first, last in spans]
            )
        elif verb == NAK:
            wait = None if delay == USUAL_DELAY else delay
            self.consumer.settle_nowait(naks=[(first, last, wait) for first, last in spans])
        elif verb == TERM:
            self.consumer.settle_nowait(terms=[(first, last, reason or "term") for first, last in spans])
        else:
            self.consumer.settle_nowait(touches=spans)
        return True

    async def settled(self) -> None:
        """Return when what was settled is on disk. Raises BackboneError."""
        if self.consumer is not None:
            try:
                await self.consumer.settle()
            except ClosedError:
                return  # it was written when it closed

    # ---- handing out -----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """As long as somebody takes."""
        try:
            while self.takers:
                with anyio.CancelScope() as self._scope:
                    await self._serve()
                self._scope = None
        finally:
            self._world.closed(self)

    async def _serve(self) -> None:
        try:
            consumer = await self._world.open(self)
            self._most = self._world.records(consumer.class_)
            self.consumer = consumer
            try:
                self._world.opened(self)
                while True:
                    await self._hand_out(consumer, await self._take(consumer))
                    await checkpoint()
            finally:
                with anyio.CancelScope(shield=True):
                    await _close(consumer, self._not_begun)
                self._not_begun = []
                self.consumer = None
        except (BusError, ValueError) as error:
            self._fail(error)

    def _fail(self, error: BusError | ValueError) -> None:
        code = getattr(error, "code", "")
        if code not in FOR_GOOD:
            self._world.cannot_read(self.what.name, error)
        for one in [*self.takers]:
            self._world.end(one, "malformed" if code in FOR_GOOD else "busy")

    async def _take(self, consumer: Consumer) -> list[Delivery]:
        while not (allowed := self._allowed()):
            await self._change()
        consumer.allow(allowed)
        return await consumer.take()

    def _allowed(self) -> int:
        free = sum(max(taker.free, 0) for taker in self.takers.values())
        return min(-(-free // self._most), AT_ONCE)

    async def _change(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()
        self._changed = None

    async def _hand_out(self, consumer: Consumer, deliveries: list[Delivery]) -> None:
        world, is_dead = self._world, self._is_dead
        taker: Taker | None = None
        for delivery in deliveries:
            try:
                header = world.header(parse_dead_letter(delivery.envelope)[2] if is_dead else delivery.envelope)
            except RemoteProtocolError:
                consumer.settle_nowait(terms=[(delivery.position, delivery.position, "malformed")])
                continue
            if not is_dead and self._has_expired(consumer, delivery.position, header.expires_ms):
                continue
            if taker is None or not self._may_go_on(taker, header):
                taker = await self._taker(header)
            if taker is None:
                world.passed_over()
                consumer.settle_nowait(acks=[(delivery.position, delivery.position)])
            else:
                self._give(consumer, taker, delivery, header)

    def _has_expired(self, consumer: Consumer, position: int, expires_ms: int) -> bool:
        """Its reader would refuse it, and it would be a dead letter of which nobody did wrong. The backbone itself passes over what
        had expired when it was told the time: a minute ago, or what its broker knew when it was killed.
        """
        world = self._world
        if expires_ms >= world.now_ms():
            return False
        if expires_ms <= world.passed_ms():
            world.passed_over()
            consumer.settle_nowait(acks=[(position, position)])
        else:
            consumer.settle_nowait(put_off=[PutOff(position, position, AGAIN_MS, EXPIRED)])
        return True

    def _may_go_on(self, taker: Taker, header: Header) -> bool:
        """Whether this is for who got the last one, with nothing else to be asked or shown."""
        one = taker.one
        return (
            not self.is_group
            and one.may_take
            and taker.shown == (header.epoch, header.session, header.topic)
            and one in self.takers
            and one.host.outbox.has_room
        )

    async def _taker(self, header: Header) -> Taker | None:
        """Who gets it, with all that it needs to open it; None if it is for nobody here."""
        while True:
            taker = self._pick(header)
            if taker is None:
                if self.takers and not any(self._may_hear(other, header.topic) for other in self.takers.values()):
                    return None
                await self._change()
                continue
            needs = header.epoch, header.session, header.topic
            if taker.shown == needs:
                return taker
            one = taker.one
            await self._world.show(one.host, one.agent, header.epoch, header.session, header.sender)
            taker.shown = needs
            if one in self.takers:
                return taker

    def _pick(self, header: Header) -> Taker | None:
        able = [taker for taker in self.takers.values() if taker.free > 0 and self._may_hear(taker, header.topic)]
        return max(able, key=lambda taker: _rank(taker, header.epoch), default=None)

    def _may_hear(self, taker: Taker, topic: str) -> bool:
        return self._world.may_hear(taker.one.agent, topic, dead=self._is_dead)

    def _give(self, consumer: Consumer, taker: Taker, delivery: Delivery, header: Header) -> None:
        position, one = delivery.position, taker.one
        if one.blocks:
            one.give(header.records, len(delivery.envelope))
        else:  # it drops at its own end what is too much
            one.credit -= header.records
        if self.is_group:
            taker.held[position] = header.epoch
            self._turns += 1
            one.picked = self._turns
        one.host.outbox.deliver_kept(taker.column, delivery.deliveries, position, delivery.envelope)
        self._world.given(taker, header)
        if not self.what.is_kept:
            consumer.settle_nowait(acks=[(position, position)])


async def _close(consumer: Consumer, not_begun: list[Span]) -> None:
    try:
        consumer.settle_nowait(put_off=_as_not_begun(not_begun))
        await consumer.settle()
    except (BackboneError, ClosedError):  # then some of it comes again
        pass
    finally:
        await consumer.aclose()


def _as_not_begun(spans: list[Span]) -> list[PutOff]:
    return [PutOff(first, last, 0, NOT_BEGUN) for first, last in spans]


def _rank(taker: Taker, epoch: bytes) -> tuple[bool, int, int]:
    return epoch not in taker.lacks, taker.free, -taker.one.picked


def _held(held: dict[int, bytes], spans: list[Span]) -> list[Span]:
    """What of these spans this member has. A span may be as long as numbers go; what it has is not."""
    found: dict[int, None] = {}
    for first, last in spans:
        within = range(first, last + 1) if last - first < len(held) else sorted(one for one in held if first <= one <= last)
        found.update((position, None) for position in within if position in held)
    return [(position, position) for position in found]
