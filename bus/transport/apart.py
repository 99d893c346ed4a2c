"""A task that stands apart: held by no task group of whoever started it. And the body that it may have to stop.

A context that holds a task group can only be left by the task that entered it, after everything that was entered later. What
`async with bus.open()` gives is kept in fixtures and stacks and left by whoever comes by, so its task group lives in a task apart
(see `hub.household`), and what this file adds is what neither event loop offers in the other's words: to start such a task, and
to cancel, from there, the task that is inside of the `async with`.

    asyncio    the body is cancelled as `asyncio.timeout` does it; contexts may be left in any order, from any task
    trio       every context that can cancel is a scope, and trio wants scopes left in order, by the task that entered them
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from typing import Protocol

import anyio

from bus.transport.soon import on_asyncio


class Body(Protocol):
    """The task that is inside."""

    def interrupt(self) -> None:
        """Cancel what is inside, from another task."""

    def leave(self, error: BaseException | None) -> bool:
        """It leaves, with this error. Whether that is a cancellation which `interrupt` alone has caused: it goes no further."""


def start(main: Callable[[], Awaitable[None]]) -> object:
    """Run this in a task apart; keep what is given back until it has ended. It must not raise: nobody would hear of it."""
    if _on_asyncio():
        return asyncio.get_running_loop().create_task(_coroutine(main), context=on_asyncio(copy_context()))
    import trio  # noqa: PLC0415  it runs already; nobody else needs it

    return trio.lowlevel.spawn_system_task(main, context=copy_context())


def body() -> Body:
    """Of the task that calls."""
    return _AsyncioBody() if _on_asyncio() else _TrioBody()


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


async def _coroutine(main: Callable[[], Awaitable[None]]) -> None:
    await main()


class _AsyncioBody:
    def __init__(self) -> None:
        self._task = asyncio.current_task()
        self._cancelling = 0 if self._task is None else self._task.cancelling()
        self._interrupted = False

    def interrupt(self) -> None:
        if self._task is not None and not self._task.done():
            self._interrupted = True
            self._task.cancel()

    def leave(self, error: BaseException | None) -> bool:
        if not self._interrupted or self._task is None or self._task is not asyncio.current_task():
            return False
        others = self._task.uncancel() > self._cancelling
        return isinstance(error, asyncio.CancelledError) and not others


class _TrioBody:
    def __init__(self) -> None:
        self._scope = anyio.CancelScope()
        self._scope.__enter__()

    def interrupt(self) -> None:
        self._scope.cancel()

    def leave(self, error: BaseException | None) -> bool:
        return bool(self._scope.__exit__(type(error) if error else None, error, None))
