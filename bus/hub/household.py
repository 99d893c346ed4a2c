"""A context that lives in a task of its own, so that whoever is inside of it may leave from wherever they are.

    body     async with Household(inside) as value      any task; in fixtures, stacks, a web app's lifespan
    house    async with inside(leaving) as value        one task, apart: it enters, waits, and leaves, in order

What is inside is written as if there were nothing of this: contexts within contexts, with task groups. When the body leaves, the
house does, and may take a while to put things in order: five seconds when all is well, one when the body failed or was cancelled.

The body's exceptions pass as they are. When something fails in the house while the body goes on, the body is cancelled and that
failure is raised in its place, alone; also where the body only heard that what it used is closed. When both fail of their own, the
body's is raised: it names the other in a note, and the log has it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Final, Generic, TypeVar

import anyio

from bus.clock import Clock
from bus.errors import ClosedError
from bus.transport import apart

_log = logging.getLogger(__name__)

CLEAN_SECONDS: Final = 5.0
HURRIED_SECONDS: Final = 1.0

_Value = TypeVar("_Value")


class Leaving:
    """How much time there is to put things in order. What waits for something to be finished does it `within` this."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hurried = anyio.Event()

    @property
    def is_hurried(self) -> bool:
        return self._hurried.is_set()

    def hurry(self) -> None:
        """The body failed, or whoever waits for the end was cancelled."""
        self._hurried.set()

    async def within(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do this; False if it was cancelled because the time was over."""
        done = False
        async with alone(), anyio.create_task_group() as tasks:
            tasks.start_soon(self._limit, tasks.cancel_scope, CLEAN_SECONDS)
            tasks.start_soon(self._limit_when_hurried, tasks.cancel_scope)
            await work()
            done = True
            tasks.cancel_scope.cancel()
        return done

    async def _limit(self, scope: anyio.CancelScope, seconds: float) -> None:
        with suppress(TimeoutError), self._clock.leave_within(seconds):
            await anyio.sleep_forever()
        scope.cancel()

    async def _limit_when_hurried(self, scope: anyio.CancelScope) -> None:
        await self._hurried.wait()
        await self._limit(scope, HURRIED_SECONDS)


Inside = Callable[[Leaving], AbstractAsyncContextManager[_Value]]


class Household(Generic[_Value]):
    """To be entered once."""

    def __init__(self, inside: Inside[_Value], *, clock: Clock) -> None:
        self._inside, self._clock = inside, clock
        self._house: object = None
        self._body: apart.Body | None = None
        self._value: list[_Value] = []
        self._failure: BaseException | None = None
        self._fell = False
        """It came to its end while nobody had asked for that."""

    async def __aenter__(self) -> _Value:
        if self._house is not None:
            raise ClosedError("this was opened once already: open another one")
        self._leaving = Leaving(self._clock)
        self._ready, self._closing, self._ended = anyio.Event(), anyio.Event(), anyio.Event()
        self._scope = anyio.CancelScope()
        self._house = apart.start(self._live)
        try:
            await self._ready.wait()
        except BaseException:
            self._scope.cancel()
            await self._wait_for_the_end()
            raise
        if not self._value or self._fell:
            await self._wait_for_the_end()
            raise self._found_failure()
        self._body = apart.body()
        return self._value[0]

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is not None:
            self._leaving.hurry()
        self._closing.set()
        was_interrupted = False
        try:
            was_interrupted = self._body is not None and self._body.leave(error)
        finally:
            await self._wait_for_the_end(patiently=error is None)
        if not self._fell and self._failure is None:
            return False
        failure = self._found_failure()
        if error is None or was_interrupted or (self._fell and isinstance(error, ClosedError)):
            raise failure
        if error is not failure:
            error.add_note(f"besides, what it ran in has failed: {failure!r}")
            _log.error("what a body ran in has failed beside it", exc_info=failure)
        return False

    def _found_failure(self) -> BaseException:
        """As it was raised, whatever is being handled where it is raised again."""
        failure = self._failure or ClosedError("what it ran in has ended")
        failure.__suppress_context__ = True
        return failure

    async def _wait_for_the_end(self, *, patiently: bool = False) -> None:
        if patiently:
            try:
                await self._ended.wait()
            except anyio.get_cancelled_exc_class():
                self._leaving.hurry()
                await self._wait_for_the_end()
                raise
            return
        with anyio.CancelScope(shield=True):
            await self._ended.wait()

    async def _live(self) -> None:
        """The task apart."""
        try:
            with self._scope:
                async with alone(), self._inside(self._leaving) as value:
                    self._value.append(value)
                    self._ready.set()
                    await self._wait_for_the_body()
        except Exception as error:  # noqa: BLE001  it is raised where somebody is
            self._failure = error
        except BaseException as error:
            self._failure = self._failure or ClosedError("the event loop ended")
            self._failure.__cause__ = error
            raise
        finally:
            self._ready.set()
            self._ended.set()

    async def _wait_for_the_body(self) -> None:
        try:
            await self._closing.wait()
        finally:
            if not self._closing.is_set():
                self._fell = True
                if self._body is not None:
                    self._body.interrupt()


@asynccontextmanager
async def alone() -> AsyncIterator[None]:
    """Of a group of exceptions, the first that tells of something: what is raised from here is never a group."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = _first(group)
        context = error.__context__
        try:
            raise error
        finally:
            error.__context__ = context  # it was raised without the group; its cause, if it has one, stays


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    found = [_first(error) if isinstance(error, BaseExceptionGroup) else error for error in group.exceptions]
    return next((error for error in found if isinstance(error, Exception)), found[0])
