"""Who is live where: one link for each agent. Whoever proves itself later takes over, and the older link hears of it.

The link may be that of a neighbour: then the agent is live at that broker.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from bus.broker.admission import AGAIN_MS
from bus.broker.host_link import HostLink
from bus.identity.envelopes.believe import Believed

MAX_SESSIONS: Final = 8
"""Of one agent on one link: its current one, and those under which something may still come."""


class Watch(Protocol):
    """Who wants to hear of it."""

    def taken(self, host: HostLink, believed: Believed, *, is_new: bool) -> None:
        """These papers are on this link now; `is_new` if their agent was not."""

    def left(self, host: HostLink, agent: str) -> None: ...


class Seats:
    def __init__(self) -> None:
        self._of: dict[str, HostLink] = {}
        self.watch: Watch | None = None

    def __len__(self) -> int:
        return len(self._of)

    def __iter__(self) -> Iterator[tuple[str, HostLink]]:
        return iter([*self._of.items()])

    def host_of(self, agent: str) -> HostLink | None:
        return self._of.get(agent)

    def newest(self, agent: str) -> Believed | None:
        """The newest papers of an agent that is live."""
        host = self._of.get(agent)
        return None if host is None else host.agents[agent]

    def take(self, host: HostLink, believed: Believed) -> HostLink | None:
        """Whoever these papers are of is on this link now. Gives the link that the agent was on before, if that is another one."""
        older = self._of.get(believed.name)
        self._of[believed.name] = host
        mine = host.sessions_of.setdefault(believed.name, {})
        host.sessions[believed.id] = mine[believed.id] = believed
        known = host.agents.get(believed.name)
        if known is None or known.not_before_ms <= believed.not_before_ms:
            host.agents[believed.name] = believed
        if len(mine) > MAX_SESSIONS:
            self.end(host, min(mine.values(), key=lambda one: one.not_before_ms))
        if self.watch is not None:
            self.watch.taken(host, believed, is_new=known is None or older is not host)
        return None if older is host else older

    def end(self, host: HostLink, one: Believed) -> None:
        """Nothing more may come under these papers."""
        mine = host.sessions_of[one.name]
        del host.sessions[one.id], mine[one.id]
        if not mine:
            del host.sessions_of[one.name]

    def leave(self, host: HostLink, agent: str) -> None:
        """The agent is off this link; if another one has it, it stays there."""
        if self._of.get(agent) is host:
            del self._of[agent]
        if host.agents.pop(agent, None) is not None:
            for id_ in host.sessions_of.pop(agent, ()):
                del host.sessions[id_]
            if self.watch is not None:
                self.watch.left(host, agent)

    def forget(self, now_ms: int) -> None:
        """Drop papers that were renewed, and under which nothing more can come."""
        for host in {*self._of.values()}:
            sessions = [*host.sessions.values()]
            for one in sessions:
                if one.not_after_ms + AGAIN_MS < now_ms and host.agents[one.name] is not one:
                    self.end(host, one)
