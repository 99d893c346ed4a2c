"""A broker that lies: it shakes hands with its own certificate as any other, and then does with every frame what a test says.

    host <--link--> Seam <--memory link--> an honest broker

What hosts are linked to is all of this together. Between each host and the honest part is a seam, where the lies are told: it reads
and keeps every frame, and may withhold it, change it, tell it twice or later, or say something that nobody said. Where no lie is
told, everything is as it should be; so a test sees that what an honest broker does goes on beside the lie.

    liar.down, liar.up      what becomes of a frame to a host, and of one that a host sent: None leaves it as it is
    seam.tell(...)          a frame to this host, of the liar's own making
    seam.said, seam.told    all frames that this host sent, and those that it was told
    liar.seen(...)          whether these bytes were in anything that any host ever sent
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

import bus.testing
from bus.agent.host import Host
from bus.errors import BusError
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import ALL_DELIVERIES, Frame, column, encode, parse
from bus.protocol.header import Header
from bus.testing.memory_hub import MemoryHost
from bus.transport.link import Link
from bus.transport.listening_links import listening
from bus.transport.memory import memory_pair

POLICY = """
version: 1
agents: {LEAD: lead, SECOND: lead, PAINTER: worker, MASON: worker, CLERK: clerk, WATCH: watch, GUEST: guest}
roles:
  lead:
    key: ecc384/sha3-384
    publish: [tasks.>, work.>, control.>, ask.>, plans.>]
    subscribe: [results.>, tasks.>, plans.>]
    inbox: x25519
  worker:
    key: ecc256/sha256
    publish: [results.>]
    subscribe: [tasks.>, work.>, control.>, ask.>]
    inbox: x25519
    groups: [{group: crew}]
  clerk: {key: ecc256/sha256, publish: [results.>], subscribe: [plans.>], inbox: x25519}
  watch: {key: ecc256/sha256, publish: [results.>], subscribe: ['>'], inbox: x25519}
  guest: {key: ecc256/sha256, subscribe: [open.>]}
topics:
  - {match: control.>, signed_by: identity, priority: critical}
  - {match: tasks.>, priority: normal, priorities: [critical, normal, bulk]}
  - {match: work.>, class: durable, retention: 1d, dead_readers: [WATCH]}
audit_readers: [WATCH]
trust: {max_age: 5m}
"""

Lie = Callable[["Seam", list[Any]], "Iterable[list[Any]] | None"]


def honest(_seam: Seam, _frame: list[Any]) -> Iterable[list[Any]] | None:
    return None


class Liar:
    def __init__(self, hub: Any, url: str) -> None:
        self.hub, self.url = hub, url
        self.down: Lie = honest
        self.up: Lie = honest
        self.seams: list[Seam] = []
        self._heard: list[bytes] = []

    def take(self, link: Link) -> None:
        self.seams.append(Seam(self, link))

    def heard(self, frame: bytes) -> None:
        self._heard.append(frame)

    def seen(self, *secrets: bytes) -> list[bytes]:
        """Those of these that were in anything that a host sent."""
        everything = b"|".join(self._heard)
        return [secret for secret in secrets if secret in everything]

    def host(self) -> MemoryHost:
        """A process of its own, whose broker this is."""
        made = MemoryHost(self.url, self.hub._world, self.hub._tasks, is_apart=True)
        self.hub._hosts.append(made)
        return made

    def seam_of(self, agent: Any) -> Seam:
        """The newest link of the host of this agent."""
        session = inside(agent).sessions.held[agent.name].id
        for seam in reversed(self.seams):
            if not seam.is_over and any(session in seen for seen in seam.papers_shown()):
                return seam
        raise LookupError(agent.name)

    def be_honest(self) -> None:
        self.down = self.up = honest


class Seam:
    """The link of one host."""

    def __init__(self, liar: Liar, outside: Link) -> None:
        self.liar, self.outside = liar, outside
        self.inside, far = memory_pair()
        self.said: list[list[Any]] = []
        self.told: list[list[Any]] = []
        self.is_over = False
        self.error: BusError | None = None
        """Why the link to the host ended."""
        self._deliveries: deque[bool] = deque()
        """Of each delivery that the host has not taken in: whether the honest part knows of it."""
        liar.hub.broker.attach(far)
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

    def papers_shown(self) -> Iterator[bytes]:
        from bus.protocol.handshake import HelloA
        from bus.protocol.papers import Papers, SessionCertificate

        shown = [data for frame in self.of(Frame.HELLO_A) for data in HelloA.parse(frame[1]).papers]
        shown += [data for frame in self.of(Frame.PAPERS) for data in frame[1]]
        for data in shown:
            try:
                yield SessionCertificate.parse(Papers.parse(data).session).id
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


@asynccontextmanager
async def lying(policy: str = POLICY, *, url: str = "", **options: Any) -> AsyncIterator[Liar]:
    """A liar, and a world of agents. With `url`, it listens there, on a socket of the kernel's."""
    async with bus.testing.open(policy=policy, **options) as hub:
        place = url or hub.url.replace("testing", "lying")
        liar = Liar(hub, place)
        async with listening(place, lambda link: liar.take(link)):  # noqa: PLW0108  a test may put another in its place
            yield liar
            hub.close()


def inside(agent: Any) -> Host:
    """The host of an agent, for what an agent is not asked."""
    host: Host = agent._host
    return host


def header_of(envelope: bytes) -> Header:
    return headers.parse(envelopes.split(envelope)[0])


def refused(agent: Any) -> dict[str, int]:
    """What its host refused of what came, by reason."""
    refusals: dict[str, int] = inside(agent).statistics()["refusals"]
    return {key.removeprefix("in:"): count for key, count in refusals.items() if key.startswith("in:")}


async def soon(waited: Awaitable[Any]) -> Any:
    """What has to come without any time passing."""
    with anyio.fail_after(60):
        return await waited


async def bodies(liar: Liar, subscription: Any) -> list[Any]:
    """All that has come."""
    await liar.hub.settle()
    return [(await anext(subscription)).body for _ in range(subscription.pending)]


def secrets_of(*agents: Any) -> list[bytes]:
    """Everything that must never leave the hosts of these: private keys, secrets and keys of epochs."""
    from bus.protocol.epochs import _derive

    found: list[bytes] = []
    for agent in agents:
        host = inside(agent)
        keyring = host.keyring
        for session in host.sessions.held.values():
            found += [session.keys._signing[:32], session.keys._opening.to_bytes()]
        for sealing in keyring._sealing._by_id.values():
            found += [sealing.grantable.secret, _derive(sealing.grantable.secret, sealing.epoch.params_bytes)[1]]
        found += [one.secret for one in keyring._regranting._kept.values()]
        found += [own.key.to_bytes() for own in keyring._keys.table.values() if not own.sessions]
    return [one for one in found if one]


__all__ = [
    "POLICY", "Liar", "Seam", "bodies", "header_of", "honest", "inside", "lying", "refused", "secrets_of", "soon",
]  # fmt: skip
