"""Gateways find each other on NATS, and each two of them have a link.

found       each says each second where it listens. Whom nobody has heard for GONE_SECONDS is forgotten
first       who comes says so before it listens itself: where nobody does, a server answers at once, and elsewhere all have said
            within LOOK_SECONDS that they are here
one link    of two gateways the one with the lesser id begins. `attach` gets the link at both ends, when the other end has shown
            that it has the key; one that ended is made anew at once, but not more often than once in HELLO_SECONDS
shunned     of two whose links end as soon as they are made one does not believe the other: it was revoked, or a clock is wrong.
            They try ever more rarely, once in LONGEST_PAUSE_SECONDS at last, and who is not believed says so in its log
lost        when our connection to NATS is lost, all links are: nobody knows what was under way. The others hear of it when it
            is back
hostile     any client of the account may say anything on these subjects. Who is a broker is proven above, on the link; here
            there are bounds to how many links and beginnings there are, and what makes no sense is counted and passed over. A
            client that is let in there can keep gateways apart (it says so much that others are not heard), and nothing else

An id is for one life of a gateway: one that begins again has another. What is said of presence is not proven, and nothing hangs
on it.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

import anyio

from bus.backbone.nats import neighbour_messages as messages
from bus.backbone.nats.connection import NO_RESPONDERS, Arrived, Connection, UnansweredError
from bus.backbone.nats.layout import Names
from bus.backbone.nats.neighbour_link import PIECE_BYTES, NeighbourLink
from bus.backbone.nats.sealing import EndKey, label
from bus.clock import Clock
from bus.errors import ClosedError, ConnectionLostError
from bus.transport.link import Link, Peer
from bus.transport.soon import Soon, scheduler

TICK_SECONDS: Final = 0.25
HERE_SECONDS: Final = 1.0
LOOK_SECONDS: Final = 2 * TICK_SECONDS
"""The others answer whoever is new to them with their next tick."""
HELLO_SECONDS: Final = 1.0
"""Between two beginnings with one other; one that is not finished by then is forgotten."""
SHORT_SECONDS: Final = 5.0
"""A link that lived for less was made in vain."""
SHORT_LINKS: Final = 3
"""So many in turn, and it is no accident."""
LONGEST_PAUSE_SECONDS: Final = 60.0
GONE_SECONDS: Final = 3.0
MAX_NEIGHBOURS: Final = 64
MAX_HALF_OPEN: Final = 64
MAX_HELLOS: Final = 16
"""That are answered between two ticks: each costs two operations with keys."""
_LEAST_PIECE_BYTES: Final = 256

SHUNNED: Final = (
    "another gateway ends each link to this one as soon as it is made: it takes this one for revoked, or a clock is wrong. Its log"
    " says why. If this one was revoked: `tpmbus host gateway` in another state folder makes another one"
)
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Beginning:
    """A link that is not open yet."""

    since: float
    other: bytes
    key: EndKey
    link: NeighbourLink | None = None
    """None until the other has answered."""


@dataclass(slots=True)
class _Other:
    """A gateway. With one whose id is greater than ours, it is for us to begin."""

    heard_at: float
    next_hello: float = 0.0
    link: NeighbourLink | None = None
    opened_at: float = 0.0
    short: int = 0
    """Links in turn that were made in vain."""
    shuns: bool = False
    """It ended them."""


@dataclass(slots=True)
class _Tally:
    links_made: int = 0
    links_lost: int = 0
    messages_sent: int = 0
    messages_heard: int = 0
    junk: int = 0


class Neighbours:
    """`attach` gets each link; whoever has it starts it, and may close it. `run` has to run, and so has the connection's."""

    def __init__(self, connection: Connection, names: Names, clock: Clock, attach: Callable[[Link], None]) -> None:
        self._connection, self._names, self._clock, self._attach = connection, names, clock, attach
        self.id = secrets.token_bytes(messages.ID_BYTES)
        self._soon: Soon
        self._others: dict[bytes, _Other] = {}
        self._beginnings: dict[bytes, _Beginning] = {}
        """By the label of our end, the oldest first."""
        self._links: dict[bytes, NeighbourLink] = {}
        """By the same."""
        self._hellos = 0
        self._here_at = 0.0
        """When to say again that we are here."""
        self._tally = _Tally()
        self._said_at: float | None = None
        self._look_until = 0.0
        self._looked = ""
        """What answers when nobody listens."""
        self.has_looked = False
        """Whoever was here when this gateway came is known."""

    @property
    def known(self) -> int:
        """Gateways that are here, linked or not."""
        return len(self._others)

    def statistics(self) -> dict[str, int]:
        tally = self._tally
        return {
            "neighbours": sum(not link.is_over for link in self._links.values()),
            "shunned_by": sum(other.shuns for other in self._others.values()),
            "half_open": len(self._beginnings),
            "links_made": tally.links_made,
            "links_lost": tally.links_lost,
            "messages_sent": tally.messages_sent,
            "messages_heard": tally.messages_heard,
            "junk": tally.junk,
        }

    async def run(self) -> None:
        """Until it is cancelled; then all links end. Raises ClosedError: the connection was closed."""
        self._soon = scheduler()
        stop_hearing = self._connection.when_lost(self._lost)
        ends: list[Callable[[], Awaitable[None]]] = []
        try:
            ends.append(await self._listen(self._names.to(self.id.hex()), self._heard))
            await self._look()
            ends.append(await self._listen(self._names.here, self._heard_here))
            await self._tick()
        finally:
            stop_hearing()
            self._connection.forget(self._looked)
            self._end_all("this gateway goes")
            with anyio.CancelScope(shield=True), suppress(UnansweredError, ClosedError, TimeoutError), self._clock.fail_after(1.0):
                for end in ends:
                    await end()
                await self._connection.flush()

    # ---- time ----------------------------------------------------------------------------------------------------------------

    async def _listen(self, subject: str, heard: Callable[[Arrived], None]) -> Callable[[], Awaitable[None]]:
        while True:
            with suppress(UnansweredError):
                return await self._connection.subscribe(subject, heard)
            await self._clock.sleep(HERE_SECONDS)

    async def _look(self) -> None:
        """Say for the first time that we are here. Raises ClosedError."""
        self._looked = self._connection.expect(self._nobody_is_here)
        self._look_until = self._clock.monotonic() + LOOK_SECONDS
        with suppress(UnansweredError):
            await self._connection.publish(self._names.here, messages.here(self.id), self._looked)

    def _nobody_is_here(self, arrived: Arrived | None) -> None:
        if arrived is not None and arrived.status == NO_RESPONDERS:
            self.has_looked = True

    async def _tick(self) -> None:
        before = self._clock.monotonic()
        while True:
            now = self._clock.monotonic()
            self.has_looked = self.has_looked or now >= self._look_until
            self._hellos = 0
            for mine, link in [*self._links.items()]:
                link.tick(now, may_judge=now - before < 2 * TICK_SECONDS)
                if link.is_over:
                    self._forget(mine)
            for other in self._others.values():
                if other.link is not None and now - other.opened_at >= SHORT_SECONDS:
                    other.short, other.shuns = 0, False
            for gone in [id_ for id_, other in self._others.items() if other.link is None and now - other.heard_at > GONE_SECONDS]:
                del self._others[gone]
            while self._beginnings and now - next(iter(self._beginnings.values())).since > HELLO_SECONDS:
                del self._beginnings[next(iter(self._beginnings))]
            if now >= self._here_at and self._connection.is_connected:
                self._here_at = now + HERE_SECONDS
                self._connection.send(self._names.here, messages.here(self.id))
            before = now
            await self._clock.sleep(TICK_SECONDS)

    # ---- beginning -----------------------------------------------------------------------------------------------------------

    def _heard_here(self, arrived: Arrived) -> None:
        other = messages.parse_here(arrived.data)
        if other is None:
            self._tally.junk += 1
        elif other != self.id:
            self._is_here(other)

    def _is_here(self, id_: bytes) -> None:
        now = self._clock.monotonic()
        other = self._others.get(id_)
        if other is None:
            if len(self._others) >= MAX_NEIGHBOURS:
                self._tally.junk += 1
                return
            other = self._others[id_] = _Other(now)
            self._here_at = 0.0  # it does not know of us either
        other.heard_at = now
        if id_ > self.id and other.link is None and now >= other.next_hello and len(self._beginnings) < MAX_HALF_OPEN:
            other.next_hello = now + min(LONGEST_PAUSE_SECONDS, HELLO_SECONDS * 2 ** max(0, other.short - 1))
            key = EndKey()
            self._beginnings[key.label] = _Beginning(now, id_, key)
            self._connection.send(self._names.to(id_.hex()), messages.hello(self.id, key.public))

    def _heard(self, arrived: Arrived) -> None:
        """What is for us alone."""
        data = arrived.data
        self._tally.messages_heard += 1
        if words := messages.parse_words(data):
            is_sense = self._heard_words(words)
        elif hello := messages.parse_keyed(data, messages.HELLO):
            is_sense = self._heard_hello(hello)
        elif welcome := messages.parse_keyed(data, messages.WELCOME):
            is_sense = self._heard_welcome(welcome)
        else:
            is_sense = False
        self._tally.junk += not is_sense

    def _heard_hello(self, hello: messages.Keyed) -> bool:
        self._hellos += 1
        if hello.who >= self.id or self._hellos > MAX_HELLOS or len(self._links) >= MAX_NEIGHBOURS:
            return False
        if len(self._beginnings) >= MAX_HALF_OPEN:
            return False
        begun = _Beginning(self._clock.monotonic(), hello.who, EndKey())
        link = self._link(begun, hello.key, we_began=False)
        if link is None:
            return False
        begun.link = link
        self._beginnings[begun.key.label] = begun
        self._connection.send(self._names.to(hello.who.hex()), messages.welcome(label(hello.key), begun.key.public))
        link.speak()
        return True

    def _heard_welcome(self, welcome: messages.Keyed) -> bool:
        begun = self._beginnings.get(welcome.who)
        if begun is None or begun.link is not None:
            return False
        begun.link = self._link(begun, welcome.key, we_began=True)
        if begun.link is None:
            return False
        begun.link.speak()
        return True

    def _link(self, begun: _Beginning, key: bytes, *, we_began: bool) -> NeighbourLink | None:
        """None: with this key nobody can agree."""
        try:
            sealing = begun.key.agree(key, we_began=we_began)
        except ValueError:
            return None
        keys = (begun.key.public, key) if we_began else (key, begun.key.public)
        return NeighbourLink(
            Peer("nats", f"gateway:{begun.other.hex()}", client_leaf=keys[0], server_leaf=keys[1]),
            sealing,
            label(key),
            partial(self._send, self._names.to(begun.other.hex())),
            soon=self._soon,
            now=self._clock.monotonic(),
            piece_bytes=max(_LEAST_PIECE_BYTES, min(PIECE_BYTES, self._connection.max_bytes - messages.OVERHEAD_BYTES)),
        )

    # ---- links ---------------------------------------------------------------------------------------------------------------

    def _send(self, subject: str, data: bytes) -> None:
        self._tally.messages_sent += 1
        self._connection.send(subject, data)

    def _heard_words(self, words: messages.Words) -> bool:
        link = self._links.get(words.label)
        if link is not None:
            is_sense = link.heard(words)
            if link.is_over:
                self._forget(words.label)
            return is_sense
        begun = self._beginnings.get(words.label)
        if begun is None or begun.link is None or not begun.link.heard(words):
            return False
        del self._beginnings[words.label]
        if not begun.link.is_over:
            self._open(words.label, begun.other, begun.link)
        return True

    def _open(self, mine: bytes, other: bytes, link: NeighbourLink) -> None:
        self._links[mine] = link
        self._tally.links_made += 1
        if other in self._others:
            self._others[other].link, self._others[other].opened_at = link, self._clock.monotonic()
        try:
            self._attach(link)
        except Exception:  # noqa: BLE001  what one link does to who gets it must not end the others
            _log.exception("what was given a link to another gateway failed, so the link was ended")
            link.close()

    def _forget(self, mine: bytes) -> None:
        link = self._links.pop(mine)
        self._tally.links_lost += 1
        for other in self._others.values():
            if other.link is link:
                other.link = None
                self._judge(other, was_ended=link.was_ended)
                if other.short:
                    return
        self._here_at = 0.0  # so that a new one is made at once

    def _judge(self, other: _Other, *, was_ended: bool) -> None:
        """A link to it is over. `was_ended`: at the other end."""
        now = self._clock.monotonic()
        other.short = 0 if now - other.opened_at >= SHORT_SECONDS else min(other.short + 1, 16)
        other.shuns = was_ended and other.short >= SHORT_LINKS
        if other.shuns and (self._said_at is None or now - self._said_at >= LONGEST_PAUSE_SECONDS):
            self._said_at = now
            _log.warning("%s", SHUNNED)

    def _lost(self) -> None:
        self._end_all("the connection to NATS was lost")
        self._here_at = 0.0

    def _end_all(self, why: str) -> None:
        self._beginnings.clear()
        for mine, link in [*self._links.items()]:
            link.leave(ConnectionLostError(why))
            self._forget(mine)
        self._others.clear()
