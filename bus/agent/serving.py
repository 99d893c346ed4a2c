"""Handlers at work: subscribed when the block is entered, and called until it is left.

    called    in tasks of the host, as many a handler as it wants calls at a time. The loop is the one of iterating, by the batch
    result    answers the request, if it is one and there is a result; then durable messages are acknowledged
    failure   of a handler: logged, counted, given back if it is durable, and told to whoever asked. It never ends the agent
    left      no call begins any more; those that run have five seconds, or none if the block fails. What was not begun is forgotten
    fallen    a subscription that ends with an error interrupts the block at once, which raises that error

Entering raises what entering a subscription does; then nothing is left subscribed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import anyio

from bus.agent import tracing
from bus.agent.handlers import Handler, Handlers
from bus.agent.message import FAILED, Message
from bus.agent.subscription import Subscription
from bus.errors import BusError, ClosedError, RequestFailedError
from bus.transport import apart

if TYPE_CHECKING:
    from bus.agent.agent import Agent
    from bus.agent.host import Host

_log = logging.getLogger("bus.agent")
CLEAN_SECONDS: Final = 5.0
QUIET_SECONDS: Final = 60.0
MOST_LOGGED: Final = 10
"""Failures of a handler that are logged in that time; the others are counted."""
UNSAID: Final = "failed"
"""What somebody else is told of an error that was not meant for him."""
MOST_REASON: Final = 256


class Serving:
    """Made by `agent.serving`. To be entered once."""

    def __init__(self, agent: Agent, host: Host, handlers: Handlers) -> None:
        self._agent, self._host, self._handlers = agent, host, handlers
        self._subscriptions: list[Subscription[Any]] = []
        self._scopes: list[anyio.CancelScope] = []
        self._running = 0
        self._stopped = anyio.Event()
        self._body: apart.Body | None = None
        self._fallen: BusError | None = None
        self._closing = False
        self.handled = self.failed = 0
        """Calls that returned, and those that raised something."""
        self._logged: dict[Handler, tuple[float, int]] = {}

    async def __aenter__(self) -> Self:
        if self._body is not None:
            raise ClosedError("these handlers served once already: call serving() again")
        try:
            served = [(one, await self._subscribed(one)) for one in self._handlers]
        except BaseException:
            await self._unsubscribe()
            raise
        if self._fallen is not None:
            await self._unsubscribe()
            raise self._fallen
        self._body = apart.body()
        for one, subscription in served:
            for _ in range(one.concurrency):
                self._start(one, subscription)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._closing = True
        for subscription in self._subscriptions:
            subscription.stop()
        was_interrupted = self._body is not None and self._body.leave(error)
        try:
            if error is None and self._fallen is None:
                await self._finish()
        finally:
            await self._cancel()
            await self._unsubscribe()
        if self._fallen is None:
            return
        if error is None or was_interrupted:
            self._fallen.__suppress_context__ = True
            raise self._fallen
        error.add_note(f"besides, a subscription of its handlers has ended: {self._fallen!r}")

    # ---- coming and going ----------------------------------------------------------------------------------------------------

    async def _subscribed(self, one: Handler) -> Subscription[Any]:
        subscription = self._agent.subscribe(
            one.pattern, group=one.group, durable=one.durable, start=one.start, limit=one.limit, overflow=one.overflow,
            decode=one.decode,
        )  # fmt: skip
        subscription.on_end = self._fall
        self._subscriptions.append(subscription)
        await subscription.__aenter__()
        return subscription

    async def _unsubscribe(self) -> None:
        """All of them, whatever one of them raises: the first of these errors at the end."""
        found: BaseException | None = None
        while self._subscriptions:
            try:
                await self._subscriptions.pop().aclose()
            except BaseException as error:  # noqa: BLE001  it is raised when the others are closed, too
                found = found or error
        if found is not None:
            raise found

    def _start(self, one: Handler, subscription: Subscription[Any]) -> None:
        scope = anyio.CancelScope()
        self._scopes.append(scope)

        async def work() -> None:
            self._running += 1
            try:
                with scope:
                    await self._work(one, subscription)
            except BusError as error:
                self._fall(error)
            finally:
                self._running -= 1
                if not self._running:
                    self._stopped.set()

        self._host.start(work)

    def _fall(self, error: BusError) -> None:
        if not self._closing and self._fallen is None:
            self._fallen = error
            if self._body is not None:
                self._body.interrupt()

    async def _finish(self) -> None:
        """Calls that run may end."""
        try:
            with self._host.clock.leave_within(CLEAN_SECONDS):
                await self._until_stopped()
        except TimeoutError:
            _log.warning("%s: handlers still ran %g s after the end, and are cancelled", self._agent.name, CLEAN_SECONDS)

    async def _cancel(self) -> None:
        for scope in self._scopes:
            scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._until_stopped()

    async def _until_stopped(self) -> None:
        while self._running:
            self._stopped = anyio.Event()
            await self._stopped.wait()

    # ---- at work -------------------------------------------------------------------------------------------------------------

    async def _work(self, one: Handler, subscription: Subscription[Any]) -> None:
        """Raises what ends the subscription."""
        takes_one = one.concurrency > 1
        try:
            while not self._closing:
                if takes_one or subscription.hooks is not None:
                    messages: Sequence[Message] = (await anext(subscription),)
                else:
                    messages = await subscription.next_batch()
                await (self._traced(one, messages) if tracing.is_on() else self._handle(one, messages))
        except StopAsyncIteration:
            return

    async def _handle(self, one: Handler, messages: Iterable[Message]) -> None:
        call, is_async, acks = one.call, one.is_async, one.acks
        for message in messages:
            if self._closing:
                return
            try:
                result = call(message)
                if is_async:
                    result = await result
                if result is not None and message.is_request:
                    await message.reply(result)
                if acks:
                    await message.ack()
            except Exception as error:  # noqa: BLE001  a handler is somebody else's, and never ends the agent
                await self._failed(one, message, error)
            else:
                self.handled += 1

    async def _traced(self, one: Handler, messages: Iterable[Message]) -> None:
        for message in messages:
            with tracing.within(message.headers):
                await self._handle(one, (message,))

    async def _failed(self, one: Handler, message: Message, error: Exception) -> None:
        self.failed += 1
        self._host.inbox.counts["handler_failed"] += 1
        self._log_failure(one, message, error)
        try:
            await message.nak()
            if message.is_request:
                await message.reply(None, headers={FAILED: _reason(error)})
        except Exception as second:  # noqa: BLE001  to tell it is a courtesy
            _log.warning("what became of message %s could not be told: %s", message.id, second)

    def _log_failure(self, one: Handler, message: Message, error: Exception) -> None:
        now = self._host.clock.monotonic()
        since, logged = self._logged.get(one, (now, 0))
        if now - since >= QUIET_SECONDS:
            since, logged = now, 0
        self._logged[one] = since, logged + 1
        if logged < MOST_LOGGED:
            last = "; more of its failures are counted, and not shown for a while" if logged == MOST_LOGGED - 1 else ""
            text = "%s: the handler %s failed with message %s of %s on %s%s"
            _log.error(text, self._agent.name, one.name, message.id, message.sender, message.topic, last, exc_info=error)


def _reason(error: Exception) -> str:
    """What whoever asked is told: only what the handler meant for him."""
    if not isinstance(error, RequestFailedError):
        return UNSAID
    return error.reason.encode("ascii", "replace").decode()[:MOST_REASON] or UNSAID
