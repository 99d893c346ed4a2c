"""Links that are not open yet: so many, for 5 seconds, with so much of papers in all; a few of these are looked at in each turn.

Where there are too many, the oldest has to go: an honest one takes milliseconds, so it is not among the oldest for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from typing import Any, Final

from bus.broker.accounts import Accounts
from bus.broker.counts import Counts
from bus.broker.greeting import Greeting
from bus.broker.host_link import HostLink
from bus.broker.joining import Joining
from bus.broker.moment import Moment
from bus.broker.offences import Offences
from bus.errors import BusError, NotPermittedError, RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed
from bus.identity.host.session import Session
from bus.protocol.frames import Frame, encode
from bus.protocol.handshake import MAX_SECONDS, Limits, told
from bus.transport.link import Peer
from bus.transport.soon import soon

MAX_HALF_OPEN: Final = 1_024
MAX_BYTES: Final = 32 << 20
"""Of papers that nobody has vouched for yet; one host may bring a mebibyte."""
AT_ONCE: Final = 4
"""Papers: each may take a quarter of a millisecond. And links that are given up."""


class Arriving:
    def __init__(
        self,
        limits: Limits,
        accounts: Accounts,
        counts: Counts,
        joining: Joining,
        offences: Offences,
        *,
        random: Callable[[int], bytes],
    ) -> None:
        self._limits, self._counts, self._joining, self._offences, self._random = limits, counts, joining, offences, random
        self._accounts = accounts
        self._greetings: dict[HostLink, Greeting] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._greetings)

    def begin(self, host: HostLink, own: Session, *, now: float) -> None:
        """A new link; what comes on it goes to `frame`."""
        self._greetings[host] = Greeting(host, own, self._limits, now=now - host.link.peer.silent_seconds)
        self._make_room(now)

    def frame(self, host: HostLink, fields: list[Any], moment: Moment) -> bool:
        """Whether both sides have proved themselves now, and its papers come next (`believe`)."""
        greeting = self._greetings[host]
        try:
            greeting.received(fields, now_ms=moment.now_ms, random=self._random)
        except (RemoteProtocolError, VerificationError) as error:
            self.fail(host, told(error.reason), str(error), now=moment.now)
            return False
        if not greeting.is_done:
            self._bytes += greeting.size
            self._make_room(moment.now)
        return greeting.is_done

    def _make_room(self, now: float) -> None:
        while len(self._greetings) > MAX_HALF_OPEN or (self._bytes > MAX_BYTES and len(self._greetings) > 1):
            self.fail(next(iter(self._greetings)), "busy", "too many links in a handshake", now=now)

    def believe(self, host: HostLink, believed: list[Believed], moment: Moment) -> bool:
        """A few more of its papers; True when that is over, for good (the link is open) or bad."""
        greeting = self._greetings.get(host)
        if greeting is None:
            return True
        try:
            some = greeting.papers[len(believed) : len(believed) + AT_ONCE]
            believed += [self._joining.believed(host, data, moment) for data in some]
        except (RemoteProtocolError, VerificationError, NotPermittedError) as error:
            code = "not_permitted" if isinstance(error, NotPermittedError) else told(error.reason)
            if name := self._joining.revoked(greeting.papers[len(believed)]):
                host.send(Frame.DRAIN, f"revoked {name}")
            self.fail(host, code, str(error), now=moment.now)
            return True
        if len(believed) < len(greeting.papers):
            return False
        self._end(host, "open")
        host.is_open = True
        host.intake.answer_to(self._accounts.of(believed[0].name, now=moment.now))
        self._joining.join(host, believed, moment)
        self._joining.judge(host, moment)  # trust may have changed since the first of them was looked at
        return True

    def fail(self, host: HostLink, code: str, detail: str, *, now: float) -> None:
        """Its handshake is over."""
        if self._end(host, code):
            self._offences.note(host.link.peer, f"handshake refused as {code}", detail, now=now)
            host.send(Frame.REFUSE, code, b"")
            host.cut(code)

    def turn_away(self, peer: Peer, why: str, *, now: float) -> bytes:
        """The same for one that never said a word: nothing was made for it. The frame that it is told."""
        self._counts.links += 1
        self._counts.handshakes["busy"] += 1
        self._offences.note(peer, "handshake refused as busy", why, now=now)
        return encode(Frame.REFUSE, "busy", b"")

    def tick(self, now: float) -> None:
        """Whose time is over has to go: a few in each turn of the loop, because who came as a crowd would go as one."""
        late = [host for host, greeting in self._greetings.items() if now - greeting.began_at >= MAX_SECONDS]
        self._let_go(iter(late), now)

    def _let_go(self, late: Iterator[HostLink], now: float) -> None:
        some = [*islice(late, AT_ONCE)]
        for host in some:
            self.fail(host, "busy", "no handshake within 5 s", now=now)
        if some:
            soon(partial(self._let_go, late, now))

    def lost(self, host: HostLink, error: BusError, *, now: float) -> None:
        """Its link is gone; over what it said, if that was no frame."""
        if isinstance(error, RemoteProtocolError):
            self.fail(host, told(error.reason), str(error), now=now)
        self._end(host, "lost")

    def _end(self, host: HostLink, how: str) -> bool:
        """Whether it was in a handshake."""
        greeting = self._greetings.pop(host, None)
        if greeting is None:
            return False
        self._bytes -= greeting.size
        self._counts.handshakes[how] += 1
        return True
