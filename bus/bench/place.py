"""Where the agents of a process are opened: on a hub of their own, as part of one in another process, or over TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from bus.agent.agent import Agent
from bus.bench.part import ROLE, Part
from bus.hub.hub import Hub
from bus.hub.open import connect, open, supervise  # noqa: A004  as people call it: bus.open


class Place(Protocol):
    def agent(self, name: str) -> AbstractAsyncContextManager[Agent]: ...


class Dialling:
    """Each agent with a link of its own, to an address."""

    def __init__(self, url: str, state: str) -> None:
        self._url, self._state = url, state

    def agent(self, name: str) -> AbstractAsyncContextManager[Agent]:
        return connect(self._url, agent=name, state=self._state)


@asynccontextmanager
async def opened(part: Part) -> AsyncIterator[tuple[Place, Hub | None]]:
    """With the hub, if this process has it."""
    if part.is_hub:
        begin = supervise if part.scenario.kill_broker else open
        policy = Path(part.policy) if part.policy.endswith(".yaml") else part.policy
        agents = dict.fromkeys(part.agents, ROLE)
        async with begin(
            state=part.state, policy=policy, agents=agents, tpm=part.tpm, listen=part.listen, backbone=part.backbone
        ) as hub:
            yield hub, hub
    elif part.url is not None:
        yield Dialling(part.url, part.state), None
    else:
        async with open(state=part.state, tpm=part.tpm, join=True) as hub:
            yield hub, None


def host_statistics(agents: dict[str, Agent]) -> list[dict[str, Any]]:
    """Of the hosts of this process: one for all, or one each."""
    hosts = {id(agent._host): agent._host for agent in agents.values()}  # noqa: SLF001  numbers of this very process; a joined hub tells the hub's
    return [host.statistics() for host in hosts.values()]
