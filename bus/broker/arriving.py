"""Links that are not open yet: few at a time, for 5 seconds, and their papers are looked at a few in each turn of the loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from bus.broker.counts import Counts
from bus.broker.greeting import Greeting
from bus.broker.host_link import HostLink
from bus.broker.joining import Joining
from bus.broker.moment import Moment
from bus.broker.offences import Offences
from bus.errors import NotPermittedError, RemoteProtocolError, VerificationError
from bus.identity.envelopes.believe import Believed
from bus.identity.host.session import Session
from bus.protocol.frames import Frame
from bus.protocol.handshake import MAX_SECONDS, Limits, told

MAX_HALF_OPEN: Final = 1_024
"""One more, and the oldest has to go: an honest one takes milliseconds."""
AT_ONCE: Final = 4
"""Papers: each may take a quarter of a millisecond."""


class Arriving:
    def __init__(
        self, limits: Limits, *, counts: Counts, joining: Joining, offences: Offences, random: Callable[[int], bytes]
    ) -> None:
        self._limits, self._counts, self._joining, self._offences, self._random = limits, counts, joining, offences, random
        self._greetings: dict[HostLink, Greeting] = {}

    def __len__(self) -> int:
        return len(self._greetings)

    def begin(self, host: HostLink, own: Session, *, now: float) -> None:
        """A new link; what comes on it goes to `frame`."""
        self._greetings[host] = Greeting(host, own, self._limits, now=now)
        if len(self._greetings) > MAX_HALF_OPEN:
            self.fail(next(iter(self._greetings)), "busy", "too many links in a handshake", now=now)

    def frame(self, host: HostLink, fields: list[Any], moment: Moment) -> bool:
        """Whether both sides have proved themselves now, and its papers come next (`believe`)."""
        greeting = self._greetings[host]
        try:
            greeting.received(fields, now_ms=moment.now_ms, random=self._random)
        except (RemoteProtocolError, VerificationError) as error:
            self.fail(host, told(error.reason), str(error), now=moment.now)
        return greeting.is_done and not host.cut_for

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
            self.fail(host, code, str(error), now=moment.now)
            return True
        if len(believed) < len(greeting.papers):
            return False
        del self._greetings[host]
        host.is_open = True
        self._counts.handshakes["open"] += 1
        self._joining.join(host, believed, moment)
        return True

    def fail(self, host: HostLink, code: str, detail: str, *, now: float) -> None:
        """Its handshake is over."""
        if self._greetings.pop(host, None) is not None:
            self._counts.handshakes[code] += 1
            self._offences.note(host.link.peer, f"handshake refused as {code}", detail, now=now)
            host.send(Frame.REFUSE, code, b"")
            host.cut(code)

    def tick(self, now: float) -> None:
        for host, greeting in [*self._greetings.items()]:
            if now - greeting.began_at < MAX_SECONDS:
                break
            self.fail(host, "busy", "no handshake within 5 s", now=now)

    def lost(self, host: HostLink) -> None:
        if self._greetings.pop(host, None) is not None:
            self._counts.handshakes["lost"] += 1
