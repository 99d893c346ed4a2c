"""Counting the steps of tasks: each time one of them is about to wait, somebody is told. For `cancel_everywhere`.

Counted are the task that is started in the given context, and all that it starts, directly or not: a context variable says so.

    asyncio, uvloop    tasks get a coroutine around theirs, which sees it yield (a task factory, put back afterwards)
    trio               an instrument sees every step of every task
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from typing import Any

OnStep = Callable[[], None]

_on_step: ContextVar[OnStep | None] = ContextVar("_on_step", default=None)


@contextmanager
def counted(on_step: OnStep) -> Iterator[Context]:
    """Call this at each step of the tasks that are started in the context that it gives, and of theirs.

    `on_step` must neither wait nor raise. What runs in the context is counted while the block lasts.
    """
    context = copy_context()
    context.run(_on_step.set, on_step)
    with _in_asyncio() if _on_asyncio() else _in_trio():
        yield context


def _on_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def _in_asyncio() -> Iterator[None]:
    loop = asyncio.get_running_loop()
    before = loop.get_task_factory()

    def make(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> Any:
        on_step = _on_step.get()
        inner = coroutine if on_step is None else _Counted(coroutine, on_step)
        return asyncio.Task(inner, loop=loop, **options) if before is None else before(loop, inner, **options)

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(before)


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine as it is, but for being seen each time it yields."""

    def __init__(self, inner: Coroutine[Any, Any, Any], on_step: OnStep) -> None:
        self._inner, self._on_step = inner, on_step

    def send(self, value: Any) -> Any:
        yielded = self._inner.send(value)
        self._on_step()
        return yielded

    def throw(self, *error: Any) -> Any:
        yielded = self._inner.throw(*error)
        self._on_step()
        return yielded

    def close(self) -> None:
        self._inner.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._inner.__await__()

    def __getattr__(self, name: str) -> Any:
        """`cr_frame` and the like, by which others see whether it has begun."""
        return getattr(self._inner, name)


@contextmanager
def _in_trio() -> Iterator[None]:
    import trio  # noqa: PLC0415  it runs already; nobody else needs it

    class Instrument(trio.abc.Instrument):
        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            on_step = task.context.get(_on_step)
            if on_step is not None and task.coro.cr_frame is not None:  # it waits, and did not end
                on_step()

    instrument = Instrument()
    trio.lowlevel.add_instrument(instrument)
    try:
        yield
    finally:
        trio.lowlevel.remove_instrument(instrument)
