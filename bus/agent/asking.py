"""Requests of one agent, and its answers to others'. A request is a record of its own, which says who may answer and until when."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from bus.agent.lane import Note
from bus.agent.message import Message
from bus.agent.publishing import Publishing
from bus.agent.requests import Pending
from bus.errors import RequestTimeoutError
from bus.protocol.header import ID_BYTES, REQUEST

if TYPE_CHECKING:
    from bus.agent.host import Host

MOST_ANSWERS: Final = 1_024


class Asking:
    def __init__(self, agent: str, host: Host, publishing: Publishing) -> None:
        self._agent, self._host, self._publishing = agent, host, publishing

    async def request(self, topic: str, body: Any, *, timeout: float, headers: Mapping[str, str] | None) -> Message:  # noqa: ASYNC109
        async with self._asking(topic, body, timeout, headers) as pending:
            try:
                with self._host.clock.fail_after(timeout):
                    return await pending.next()
            except TimeoutError as error:
                raise RequestTimeoutError(topic, timeout) from error

    async def request_many(
        self,
        topic: str,
        body: Any,
        *,
        most: int,
        timeout: float,  # noqa: ASYNC109  part of the API
        headers: Mapping[str, str] | None,
    ) -> AsyncIterator[Message]:
        until = self._host.clock.monotonic() + timeout
        async with self._asking(topic, body, timeout, headers) as pending:
            for _ in range(most):
                try:
                    with self._host.clock.fail_after(until - self._host.clock.monotonic()):
                        answer = await pending.next()
                except TimeoutError:
                    return
                yield answer

    @asynccontextmanager
    async def _asking(self, topic: str, body: Any, timeout: float, headers: Mapping[str, str] | None) -> AsyncIterator[Pending]:  # noqa: ASYNC109
        lane = self._publishing.lanes.get(topic, ttl=timeout, flags=REQUEST)
        await lane.wait_for_room()
        host = self._host
        id_ = host.random(ID_BYTES)
        pending = host.requests.ask(self._agent, id_, topic, host.keyring.now_ms() + int(timeout * 1000))
        try:
            self._publishing.add(lane, body, headers, Note(id_, b"", pending))
            yield pending
        finally:
            host.requests.done(self._agent, id_)

    async def answer(self, message: Message, body: Any, headers: Mapping[str, str] | None) -> None:
        """What `message.reply` does."""
        lane = self._publishing.lanes.reply_to(message)
        await lane.wait_for_room()
        self._publishing.add(lane, body, headers, Note(b"", message.header.id, None))
