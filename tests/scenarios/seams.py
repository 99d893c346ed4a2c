"""What a broker that lies is made of: it shakes hands with its own certificate as any other, and then does what a test says.

    host <--link--> Seam <--memory link--> the honest part of a broker

What hosts are linked to is all of this together. Between each host and the honest part is a seam, where the lies are told: it reads
and keeps every frame, and may withhold it, change it, tell it twice or later, or say something that nobody said. Where no lie is
told, everything is as it should be; so a test sees that what an honest broker does goes on beside the lie.

    liar.down, liar.up      what becomes of a frame to a host, and of one that a host sent: None leaves it as it is
    liar.pose(...)          from now on, who comes hears no broker at all, but somebody who says to be one
    seam.tell(...)          a frame to this host, of the liar's own making
    seam.said, seam.told    all frames that this host sent, and those that it was told
    liar.seen(...)          whether these bytes were in anything that any host ever sent
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bus.broker.broker import Broker
from bus.errors import BusError
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import ALL_DELIVERIES, Frame, column, encode, parse
from bus.protocol.handshake import HelloA, HelloB, Limits, broker_tbs, transcript
from bus.protocol.header import Header
from bus.protocol.papers import Papers, SessionCertificate
from bus.transport.link import Link
from bus.transport.memory import memory_pair

POSES = ("an_agents_papers", "unpinned", "another_signature", "no_signature", "open_at_once")
Lie = Callable[["Seam", list[Any]], "Iterable[list[Any]] | None"]


def honest(_seam: Seam, _frame: list[Any]) -> Iterable[list[Any]] | None:
    return None


class Liar:
    def __init__(self, broker: Broker, attach: Callable[[Link], None]) -> None:
        """`attach`: how links come to the honest part."""
        self.broker, self.attach = broker, attach
        self.down: Lie = honest
        self.up: Lie = honest
        self.seams: list[Seam] = []
        self.posed_to: list[list[Any]] = []
        """What was said to it where it posed as a broker."""
        self._heard: list[bytes] = []
        self._poses_as = ""

    def take(self, link: Link) -> None:
        """Of a host that comes."""
        if self._poses_as:
            link.start(lambda frames: self._answer_posing(link, frames), lambda _: None, lambda: None)
        else:
            self.seams.append(Seam(self, link))

    def heard(self, frame: bytes) -> None:
        self._heard.append(frame)

    def seen(self, *secrets: bytes) -> list[bytes]:
        """Those of these that were in anything that a host sent."""
        everything = b"|".join(self._heard)
        return [secret for secret in secrets if secret in everything]

    def seam_to(self, is_meant: Callable[[SessionCertificate], bool]) -> Seam:
        """The newest link of a host that showed such a certificate. Raises LookupError."""
        for seam in reversed(self.seams):
            if not seam.is_over and any(is_meant(shown) for _, shown in seam.papers_shown()):
                return seam
        raise LookupError("no such host has a link")

    def be_honest(self) -> None:
        self.down = self.up = honest
        self._poses_as, self.posed_to = "", []

    def pose(self, how: str) -> None:
        """As a broker, to whoever comes: with the papers of who comes, say, or with a signature that is none (see `POSES`)."""
        if how not in POSES:
            raise ValueError(how)
        self._poses_as = how

    def _answer_posing(self, link: Link, frames: list[bytes]) -> None:
        self.posed_to.extend(parse(data) for data in frames)
        kind, *fields = self.posed_to[-1]
        own = self.broker._links.own
        if kind != Frame.HELLO_A or own is None:
            return
        papers = HelloA.parse(fields[0]).papers[0] if self._poses_as == "an_agents_papers" else own.papers
        hello_b = HelloB(1, bytes(32), papers, Limits(), self.broker.now_ms()).encode()
        link.send(encode(Frame.HELLO_B, hello_b))
        if self._poses_as == "open_at_once":
            link.send(encode(Frame.INTEREST, 1, []))
        elif self._poses_as != "no_signature":
            signed = broker_tbs(transcript(fields[0], hello_b))
            link.send(encode(Frame.PROVE, bytes(64) if self._poses_as == "another_signature" else own.keys.sign(signed)))


class Seam:
    """The link of one host."""

    def __init__(self, liar: Liar, outside: Link) -> None:
        self.liar, self.outside = liar, outside
        self.inside, far = memory_pair()
        far.peer = outside.peer  # what the kernel and TLS say of the host, the honest part goes by
        self.said: list[list[Any]] = []
        self.told: list[list[Any]] = []
        self.is_over = False
        self.error: BusError | None = None
        """Why the link to the host ended."""
        self._deliveries: deque[bool] = deque()
        """Of each delivery that the host has not taken in: whether the honest part knows of it."""
        liar.attach(far)
        outside.start(self._from_host, self._host_lost, lambda: None)
        self.inside.start(self._from_broker, self._broker_lost, lambda: None)

    # ---- lying -----------------------------------------------------------------------------------------------------------------

    def tell(self, kind: Frame, *fields: Any) -> None:
        self._tell([int(kind), *fields], is_known=False)

    def deliver(self, envelope: bytes, *, subs: Iterable[int] = (), deliveries: int = 1, position: int = 0) -> None:
        self.tell(Frame.DELIVER, 0, column(subs), deliveries, position, envelope)

    def say(self, kind: Frame, *fields: Any) -> None:
        """To the honest part, in the host's name."""
        self.inside.send(encode(kind, *fields))

    # ---- what came -------------------------------------------------------------------------------------------------------------

    def envelopes(self, *, topic: str = "", kind: int = headers.DATA) -> list[bytes]:
        """What this host published, grants or data."""
        found = [data for frame in self.said if frame[0] == Frame.PUBLISH for data in frame[3]]
        return [data for data in found if (one := header_of(data)).kind == kind and one.topic.startswith(topic)]

    def deliveries(self, *, topic: str = "", kind: int = headers.DATA) -> list[list[Any]]:
        found = [frame for frame in self.told if frame[0] == Frame.DELIVER]
        return [frame for frame in found if (one := header_of(frame[5])).kind == kind and one.topic.startswith(topic)]

    def subs(self, pattern: str) -> list[int]:
        return [frame[1] for frame in self.said if frame[0] == Frame.SUBSCRIBE and frame[3] == pattern]

    def of(self, kind: Frame) -> list[list[Any]]:
        """What this host said of that kind."""
        return [frame for frame in self.said if frame[0] == kind]

    def papers_shown(self) -> Iterator[tuple[bytes, SessionCertificate]]:
        """And the certificates in them."""
        shown = [data for frame in self.of(Frame.HELLO_A) for data in HelloA.parse(frame[1]).papers]
        shown += [data for frame in self.of(Frame.PAPERS) for data in frame[1]]
        for data in shown:
            try:
                yield data, SessionCertificate.parse(Papers.parse(data).session)
            except BusError:
                continue  # an inbox certificate

    # ---- between ---------------------------------------------------------------------------------------------------------------

    def _from_host(self, frames: list[bytes]) -> None:
        for data in frames:
            self.liar.heard(data)
            frame = parse(data)
            self.said.append(frame)
            if frame[0] == Frame.CREDIT and frame[1] == ALL_DELIVERIES:
                frame = [*frame[:2], self._known_of(frame[2])]
                if not frame[2]:
                    continue
            changed = self.liar.up(self, frame)
            for one in [frame] if changed is None else changed:
                self.inside.send(encode(*one))

    def _known_of(self, count: int) -> int:
        """How many of the next so many deliveries the honest part has made."""
        return sum(self._deliveries.popleft() for _ in range(min(count, len(self._deliveries))))

    def _from_broker(self, frames: list[bytes]) -> None:
        for data in frames:
            frame = parse(data)
            changed = self.liar.down(self, frame)
            if changed is None:
                self._tell(frame, is_known=True)
                continue
            is_owed = frame[0] == Frame.DELIVER
            for one in changed:
                self._tell(one, is_known=is_owed and one[0] == Frame.DELIVER)
                is_owed = is_owed and one[0] != Frame.DELIVER
            if is_owed:
                self.say(Frame.CREDIT, ALL_DELIVERIES, 1)  # withheld: that is nobody's business

    def _tell(self, frame: list[Any], *, is_known: bool) -> None:
        self.told.append(frame)
        if frame[0] == Frame.DELIVER:
            self._deliveries.append(is_known)
        self.outside.send(encode(*frame))

    def _host_lost(self, error: BusError) -> None:
        self.is_over, self.error = True, error
        self.inside.close()

    def _broker_lost(self, error: BusError) -> None:
        self.is_over = True
        self.outside.close()


def header_of(envelope: bytes) -> Header:
    return headers.parse(envelopes.split(envelope)[0])


def changed(envelope: bytes, **fields: Any) -> bytes:
    """With something else in the header."""
    header, sealed = envelopes.split(envelope)
    return envelopes.join(headers.parse(header)._replace(**fields).encode(), sealed)


def withheld(*kinds: int) -> Lie:
    """Frames of these kinds never arrive."""
    return lambda _, frame: [] if frame[0] in kinds else None


def sealed_with(opened: Any, seq: int, header: bytes, plaintext: bytes) -> bytes:
    """As whoever has the key of an epoch can seal."""
    guard = os.urandom(4)
    return guard + bytes(opened._cipher.encrypt(guard + seq.to_bytes(8, "big"), plaintext, header))


__all__ = ["POSES", "Liar", "Seam", "changed", "header_of", "honest", "sealed_with", "withheld"]
