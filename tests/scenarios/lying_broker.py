"""A broker that lies, and a world of agents, in the process of a test: nothing there takes any time (see `seams` for its lies)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from seams import Liar, Seam

import bus.testing
from bus.agent.host import Host
from bus.testing.memory_hub import MemoryHost
from bus.transport.listening_links import listening

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


class LiarInMemory(Liar):
    def __init__(self, hub: Any, url: str) -> None:
        super().__init__(hub.broker, hub.broker.attach)
        self.hub, self.url = hub, url

    def host(self) -> MemoryHost:
        """A process of its own, whose broker this is."""
        made = MemoryHost(self.url, self.hub._world, self.hub._tasks, is_apart=True)
        self.hub._hosts.append(made)
        return made

    def seam_of(self, agent: Any) -> Seam:
        """The newest link of the host of this agent."""
        session = inside(agent).sessions.held[agent.name].id
        return self.seam_to(lambda shown: shown.id == session)


@asynccontextmanager
async def lying(policy: str = POLICY, *, url: str = "", **options: Any) -> AsyncIterator[LiarInMemory]:
    """A liar, and a world of agents. With `url`, it listens there, on a socket of the kernel's."""
    async with bus.testing.open(policy=policy, **options) as hub:
        place = url or hub.url.replace("testing", "lying")
        liar = LiarInMemory(hub, place)
        async with listening(place, lambda link: liar.take(link)):  # noqa: PLW0108  a test may put another in its place
            yield liar
            hub.close()


def inside(agent: Any) -> Host:
    """The host of an agent, for what an agent is not asked."""
    host: Host = agent._host
    return host


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


__all__ = ["POLICY", "LiarInMemory", "bodies", "inside", "lying", "refused", "secrets_of", "soon"]
