"""Requests of one agent, and its answers to others'. A request is a record of its own, which says who may answer and until when.

A reply with the header `tpmbus-error` says that there is no answer, and why: `request` raises RequestFailedError with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Self
from weakref import finalize

from bus.agent.delivering import Delivering
from bus.agent.lane import Lane, Note
from bus.agent.lanes import check_seconds
from bus.agent.message import Message
from bus.agent.publishing import Publishing
from bus.agent.requests import Pending
from bus.clock import Clock
from bus.errors import Drop, RequestFailedError, RequestTimeoutError
from bus.protocol.header import ID_BYTES, REQUEST

if TYPE_CHECKING:
    from bus.agent.host import Host

MOST_ANSWERS: Final = 1_024


class Asking:
    def __init__(self, agent: str, host: Host, publishing: Publishing, delivering: Delivering) -> None:
        self._agent, self._host, self._publishing, self._delivering = agent, host, publishing, delivering

    async def request(self, topic: str, body: Any, *, timeout: float, headers: Mapping[str, str] | None) -> Message:  # noqa: ASYNC109  part of the API
        check_seconds("timeout", timeout)
        lane = self._open_lane(topic, timeout)
        if lane is None:
            answer = await self._in_time(topic, body, timeout, headers)
        else:
            answer = await self._at_once(lane, body, timeout, headers)
        if answer.error is not None:
            raise RequestFailedError(answer.sender, answer.error)
        return answer

    def _open_lane(self, topic: str, seconds: float) -> Lane | None:
        """If there is nothing that has to be waited for before the request is on its way, or when the answer has come."""
        if not (self._publishing.is_plain() and self._delivering.is_plain):
            return None
        lane = self._publishing.lanes.asking(topic, seconds)
        return None if lane.waiting.is_full else lane

    async def _at_once(self, lane: Lane, body: Any, timeout: float, headers: Mapping[str, str] | None) -> Message:  # noqa: ASYNC109  the same
        """Nobody else's code runs here, and nothing is waited for but the answer: so an alarm is enough, and no scope is needed."""
        id_, pending = self._asked(lane, body, timeout, headers, most=1)
        try:
            cancel = self._host.clock.alarm(timeout, pending.is_over)
            if cancel is not None:
                try:
                    return await pending.next()
                finally:
                    cancel()
            with self._host.clock.fail_after(timeout):
                return await pending.next()
        except TimeoutError as error:
            raise error if isinstance(error, RequestTimeoutError) else RequestTimeoutError(lane.key.topic, timeout) from None
        finally:
            self.done(id_)

    async def _in_time(self, topic: str, body: Any, timeout: float, headers: Mapping[str, str] | None) -> Message:  # noqa: ASYNC109  the same
        """The same with hooks, and where there is no room yet: all of it has to end in time."""
        answers = self.request_many(topic, body, most=1, timeout=timeout, headers=headers)
        try:
            answer = await answers.first()
        finally:
            answers.close()
        if answer is None:
            raise RequestTimeoutError(topic, timeout)
        return answer

    def request_many(
        self,
        topic: str,
        body: Any,
        *,
        most: int,
        timeout: float,
        headers: Mapping[str, str] | None,
    ) -> Answers:
        check_seconds("timeout", timeout)
        return Answers(self, topic, body, most=most, timeout=timeout, headers=headers)

    async def ask(
        self,
        topic: str,
        body: Any,
        timeout: float,  # noqa: ASYNC109  the same
        headers: Mapping[str, str] | None,
        *,
        most: int,
    ) -> tuple[bytes, Pending]:
        """The request is accepted. `done` must follow."""
        publishing = self._publishing
        if not publishing.is_plain():
            publishing.lanes.get(topic, ttl=timeout, flags=REQUEST)  # hooks get nothing that may not be said
            _, body, headers = await publishing.hooked(topic, body, headers)
        return self._asked(await publishing.lanes.with_room(topic, ttl=timeout, flags=REQUEST), body, timeout, headers, most=most)

    def _asked(
        self, lane: Lane, body: Any, seconds: float, headers: Mapping[str, str] | None, *, most: int
    ) -> tuple[bytes, Pending]:
        host, id_ = self._host, self._host.random(ID_BYTES)
        until_ms = host.keyring.now_ms() + int(seconds * 1000)
        pending = host.requests.ask(self._agent, id_, lane.key.topic, until_ms, most=most, seconds=seconds)
        try:
            self._publishing.add(lane, body, headers, Note(id_, b"", pending))
        except BaseException:
            self.done(id_)
            raise
        return id_, pending

    async def next(self, pending: Pending) -> Message:
        """The next answer that hooks let through."""
        while True:
            answer = await self._delivering.reply(await pending.next())
            if answer is not None:
                return answer

    def done(self, id_: bytes) -> None:
        self._host.requests.done(self._agent, id_)

    @property
    def clock(self) -> Clock:
        return self._host.clock

    async def answer(self, message: Message, body: Any, headers: Mapping[str, str] | None) -> None:
        """What `message.reply` does."""
        publishing = self._publishing
        if not publishing.is_plain():
            try:
                _, body, headers = await publishing.hooked(message.topic, body, headers)
            except Drop:
                return
        while (lane := publishing.lanes.reply_to(message)).waiting.is_full:
            await lane.wait_for_room()
        publishing.add(lane, body, headers, Note(b"", message.header.id, None))


class Answers:
    """An async iterator: each answer that comes within the time, and no more than are wanted. It asks when it is first asked."""

    def __init__(
        self, asking: Asking, topic: str, body: Any, *, most: int, timeout: float, headers: Mapping[str, str] | None
    ) -> None:
        self._asking, self._topic, self._body, self._headers = asking, topic, body, headers
        self._left, self._timeout = most, timeout
        self._until = 0.0
        self._pending: Pending | None = None
        self._id = b""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Raises NoRespondersError, and what keeps the request from being sent."""
        found = None
        try:
            if self._left > 0:
                found = await (self.first() if self._pending is None else self._next(self._pending))
        finally:
            if found is None or not self._left:
                self.close()
        if found is None:
            raise StopAsyncIteration
        return found

    async def first(self) -> Message | None:
        """Ask, and wait. None if the time is over."""
        clock = self._asking.clock
        self._until = clock.monotonic() + self._timeout
        try:
            with clock.fail_after(self._timeout):
                self._id, pending = await self._asking.ask(self._topic, self._body, self._timeout, self._headers, most=self._left)
                self._left -= 1
                if self._left:  # if nobody waits for the rest, it is over as well
                    self._pending = pending
                    finalize(self, self._asking.done, self._id).atexit = False
                return await self._asking.next(pending)
        except TimeoutError:
            return None

    def close(self) -> None:
        """No answer is waited for any more."""
        self._left = 0
        if self._id:
            self._asking.done(self._id)

    async def _next(self, pending: Pending) -> Message | None:
        clock = self._asking.clock
        self._left -= 1
        try:
            with clock.fail_after(self._until - clock.monotonic()):
                return await self._asking.next(pending)
        except TimeoutError:
            return None
