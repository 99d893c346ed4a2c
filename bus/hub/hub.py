"""A hub: where agents are opened. It binds a host of this process with what gives an agent its papers, and owns no algorithm."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Protocol

from bus.agent.agent import Agent
from bus.clock import Clock
from bus.hub.agent_papers import Openable
from bus.hub.household import CLEAN_SECONDS


class Ruling(Protocol):
    """What decides and answers for a whole bus: in this process, or in the one that this one has joined."""

    async def papers_of(self, name: str) -> Openable: ...

    async def reload(self) -> bool: ...

    async def statistics(self) -> dict[str, Any]: ...


class Hub:
    """Made by `bus.open`."""

    def __init__(
        self, urls: Sequence[str], ruling: Ruling, open_agent: Callable[[Openable], Awaitable[Agent]], *, clock: Clock
    ) -> None:
        self.urls = tuple(urls)
        """Where others reach this bus."""
        self._ruling, self._open_agent, self._clock = ruling, open_agent, clock

    @property
    def url(self) -> str:
        """The first of them: for `bus.connect`."""
        return self.urls[0]

    def agent(self, name: str) -> Opening:
        """`async with` it to be this agent. Its key and certificate are made when it is opened for the first time.

        It can be left by any task and in any order. Entering raises NotPermittedError for a name that policy does not know,
        RevokedError, LocalProtocolError if it is open here already, AttestationError, TpmError.
        """

        async def open_it() -> Agent:
            return await self._open_agent(await self._ruling.papers_of(name))

        return Opening(open_it, clock=self._clock)

    async def reload(self) -> bool:
        """Sign the policy's files as they are now, and have everybody follow; whether they say something new.

        It happens by itself within seconds of a change. Raises PolicyError, and then the old policy stays.
        """
        return await self._ruling.reload()

    async def statistics(self) -> dict[str, Any]:
        """Since the start, and what is there now."""
        return await self._ruling.statistics()

    def __repr__(self) -> str:
        return f"<Hub {self.url}>"


class Opening:
    """An agent from its opening to its end. When the body leaves in peace, what it published is sent first, for 5 s at most."""

    def __init__(self, open_it: Callable[[], Awaitable[Agent]], *, clock: Clock) -> None:
        self._open_it, self._clock = open_it, clock
        self._agent: Agent | None = None

    async def __aenter__(self) -> Agent:
        self._agent = await self._open_it()
        return self._agent

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        agent, self._agent = self._agent, None
        if agent is None:
            return
        try:
            if error is None and agent.error is None:
                with self._clock.leave_within(CLEAN_SECONDS):
                    await agent.drain()
        except TimeoutError:
            pass
        finally:
            await agent.aclose()
