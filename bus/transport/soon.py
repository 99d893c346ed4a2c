"""Run a function in the next turn of this event loop: so work is gathered, and what one turn leaves, the next does at once.

The function must not raise: there is nobody whom it could tell. Only for the loop's own thread.

A callback has no task. In a program that was started with `asyncio.run` and not by anyio, anyio would not know there which loop
runs, where sniffio is installed: it goes by the task, or by a context variable. So callbacks run in a context in which that is set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Final

from anyio.lowlevel import current_token

Soon = Callable[[Callable[[], None]], Any]


def _variable() -> ContextVar[str | None] | None:
    try:
        from sniffio import current_async_library_cvar  # noqa: PLC0415  it comes with trio; without it anyio asks asyncio itself
    except ImportError:
        return None
    return current_async_library_cvar


_LIBRARY: Final = _variable()


def soon(callback: Callable[[], None]) -> None:
    """Once; functions run in the order in which they were given. Raises RuntimeError where no event loop runs."""
    scheduler()(callback)


def scheduler() -> Soon:
    """What `soon` asks in this event loop, for who asks it often."""
    try:
        loop = asyncio.get_running_loop()  # asked first: within a callback there is no task that anyio could know by
    except RuntimeError:
        found: Soon = current_token().native_token.run_sync_soon  # type: ignore[attr-defined]  # trio's token, typed as an object
        return found
    return partial(loop.call_soon, context=on_asyncio(copy_context()))


def on_asyncio(context: Context) -> Context:
    """The same, and in it anyio knows which loop runs."""
    if _LIBRARY is not None:
        context.run(_LIBRARY.set, "asyncio")
    return context
