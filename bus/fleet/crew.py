"""The agents that one process runs: opened together, each with what its role does, and with its part in the reference traffic.

An agent is a task of its own. When it ends before the others (revoked, or somebody else took its name over) that is noted, and the
others go on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

import anyio
from anyio.abc import TaskGroup, TaskStatus

from bus.clock import Clock
from bus.errors import BusError
from bus.fleet.handlers import RoleHandlers
from bus.fleet.player import Player
from bus.hub.household import alone

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from bus.agent.agent import Agent

_log = logging.getLogger(__name__)
OPEN_AT_ONCE: Final = 16
"""Agents that are being opened: enough to fill the TPM's batches, and few enough to keep the loop free."""
TAKEN_IN_SECONDS: Final = 10.0


class Place(Protocol):
    """Where agents are opened: a hub, or a connection to one."""

    def agent(self, name: str) -> AbstractAsyncContextManager[Agent]: ...


class Crew:
    """`roles` is the role of each agent to run; `does` what each role does (nothing where it is not in there)."""

    def __init__(
        self, place: Place, roles: Mapping[str, str], does: Mapping[str, RoleHandlers], player: Player | None, *, clock: Clock
    ) -> None:
        self._place, self._roles, self._does, self._player, self._clock = place, roles, does, player, clock
        self._opening = anyio.CapacityLimiter(OPEN_AT_ONCE)
        self._speak_up = anyio.Event()
        self._speaking: set[anyio.CancelScope] = set()
        self._is_silent, self._rate = False, 0.0
        self.agents: dict[str, Agent] = {}
        """Those that are open now."""
        self.lost: Counter[str] = Counter()
        """Agents that ended before the others, by why."""

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled; started when all are open and listen."""
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as opening:
                for name in self._roles:
                    opening.start_soon(self._start, tasks, name)
            task_status.started()
            await self._speak_up.wait()
            if self._player is not None and self._rate > 0:
                await self._player.send(self.agents, rate=self._rate, until=self.until_silent())
            await anyio.sleep_forever()

    async def speak_up(self, *, rate: float) -> None:
        """All who are to listen do: from now on there is something to hear. `rate`: the reference traffic's, of all processes."""
        self._rate = rate
        self._speak_up.set()

    async def fall_silent(self) -> None:
        """Nobody says anything of their own accord any more; return when what was said has been taken in, or is not after a while:
        with a disk that is broken for good, that may never be.
        """
        self._is_silent = True
        for scope in [*self._speaking]:
            scope.cancel()
        with suppress(TimeoutError), self._clock.fail_after(TAKEN_IN_SECONDS):
            async with anyio.create_task_group() as tasks:
                for agent in self.agents.values():
                    tasks.start_soon(self._taken_in, agent)

    async def _taken_in(self, agent: Agent) -> None:
        """What an agent said and nobody took in is in the books; the fleet ends all the same."""
        try:
            await agent.drain()
        except BusError as error:
            _log.warning("not all that %s said was taken in: %s", agent.name, error)

    @contextmanager
    def until_silent(self) -> Iterator[anyio.CancelScope]:
        """What is within is cancelled when nobody is to say anything new."""
        scope = anyio.CancelScope()
        self._speaking.add(scope)
        if self._is_silent:
            scope.cancel()
        try:
            with scope:
                yield scope
        finally:
            self._speaking.discard(scope)

    async def _start(self, tasks: TaskGroup, name: str) -> None:
        async with self._opening:
            await tasks.start(self._live, name)

    async def _live(self, name: str, *, task_status: TaskStatus[None]) -> None:
        is_started = False
        try:
            async with alone(), AsyncExitStack() as stack:
                agent = await stack.enter_async_context(self._place.agent(name))
                does = self._does.get(self._roles[name])
                if does is not None:
                    await stack.enter_async_context(agent.serving(does.handlers(agent)))
                tasks = await stack.enter_async_context(anyio.create_task_group())
                if self._player is not None:
                    for row in self._player.listens(name):
                        await tasks.start(self._player.listen, agent, row)
                self.agents[name] = agent
                is_started = True
                task_status.started()
                await self._speak_up.wait()
                if does is not None:
                    await does.keep_beating(agent, self._clock, self.until_silent)
                await anyio.sleep_forever()
        except BusError as error:
            self._note(name, error)
        finally:
            self.agents.pop(name, None)
        if not is_started:
            task_status.started()

    def _note(self, name: str, error: BusError) -> None:
        self.lost[type(error).__name__] += 1
        _log.warning("%s ended before the others: %s", name, error)

    async def reading(self) -> dict[str, Any]:
        found: dict[str, Any] = {"agents": len(self.agents), "lost": dict(self.lost)}
        return found if self._player is None else found | {"play": self._player.reading()}
