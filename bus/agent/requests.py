"""What agents of a host asked, and who waits for the answers.

An answer goes to whoever asked, once: the first one counts, and those that come later are counted and dropped. `Listening` reads
the two tables here whenever a reply comes, so there is nothing to tell it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from bus.agent.message import Batch, Message
from bus.errors import BusError, NoRespondersError, RequestTimeoutError, twin
from bus.identity.envelopes.listening import Request
from bus.identity.host.session import Session
from bus.transport.bell import bell

MAX_SESSIONS: Final = 4
"""Of an agent: a request is outstanding for less than a few renewals."""


class Pending:
    """One request. Replies come in by `put`, and go out by `next`. For the outbox it is the receipt of what was asked."""

    __slots__ = ("_bell", "_error", "_seconds", "_topic", "most", "replies")

    def __init__(self, topic: str, most: int = 1, seconds: float = 0.0) -> None:
        self.replies: deque[Message] = deque()
        self.most = most
        """That wait to be taken; who was asked may answer as often as it likes."""
        self._topic, self._seconds = topic, seconds
        self._bell = bell()
        self._error: BusError | None = None

    def put(self, message: Message) -> None:
        self.replies.append(message)
        self._bell.ring()

    async def next(self) -> Message:
        """Raises NoRespondersError, RequestTimeoutError, and what kept the request from being sent."""
        while not self.replies:
            if self._error is not None:
                raise twin(self._error)
            await self._bell.wait()
        return self.replies.popleft()

    def is_over(self) -> None:
        """Nobody has answered in time."""
        self.failed(RequestTimeoutError(self._topic, self._seconds))

    # ---- what the outbox says, as of a receipt ---------------------------------------------------------------------------------

    def was_sent(self, id_: str) -> None:
        if not id_:
            self.failed(NoRespondersError(self._topic))

    def was_stored(self, position: int) -> None:
        """It waits for an answer, not for a disk."""

    def failed(self, error: BusError) -> None:
        self._error = error
        self._bell.ring()


class Requests:
    def __init__(self) -> None:
        self.outstanding: dict[tuple[str, bytes], Request] = {}
        self.sessions: dict[str, frozenset[str]] = {}
        self._order: dict[str, deque[str]] = {}
        self._pending: dict[tuple[str, bytes], Pending] = {}
        self.late = 0

    def __len__(self) -> int:
        return len(self._pending)

    def ask(self, agent: str, id_: bytes, topic: str, expires_ms: int, *, most: int = 1, seconds: float = 0.0) -> Pending:
        self.outstanding[agent, id_] = Request(topic, expires_ms)
        pending = self._pending[agent, id_] = Pending(topic, most, seconds)
        return pending

    def done(self, agent: str, id_: bytes) -> None:
        """Nobody waits for it any more."""
        self.outstanding.pop((agent, id_), None)
        self._pending.pop((agent, id_), None)

    def unheard(self, id_: bytes) -> None:
        """All copies of a request were dropped on their way: nobody was asked."""
        for agent in self.sessions:
            pending = self._pending.get((agent, id_))
            if pending is not None:
                pending.was_sent("")

    def answered(self, agent: str, ref: bytes, batch: Batch) -> None:
        pending = self._pending.get((agent, ref))
        if pending is None or len(pending.replies) >= pending.most:
            self.late += 1
            return
        pending.put(Message(batch, batch.indexes[0]))

    def renewed(self, sessions: Mapping[str, Session]) -> None:
        """These are the current sessions: replies go to the one under which was asked."""
        for agent in [agent for agent in self._order if agent not in sessions]:
            del self._order[agent], self.sessions[agent]
        for agent, session in sessions.items():
            order = self._order.setdefault(agent, deque(maxlen=MAX_SESSIONS))
            if not order or order[-1] != session.id.hex():
                order.append(session.id.hex())
                self.sessions[agent] = frozenset(order)

    def view(self) -> tuple[Mapping[tuple[str, bytes], Request], Mapping[str, frozenset[str]]]:
        return MappingProxyType(self.outstanding), MappingProxyType(self.sessions)
