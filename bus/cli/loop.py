"""How commands run: on asyncio, with uvloop where it is installed, and with an end that a signal asks for.

SIGTERM and Ctrl-C end what a command waits for, not the command: what was sent is still written, and what is open is closed in
order. A second signal does not wait for that: SIGTERM ends the process, Ctrl-C cancels what it does, as a first one does before
there is anything to wait for.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskStatus

T = TypeVar("T")


class Stopped:
    """Which signal ended the block, if one did."""

    def __init__(self) -> None:
        self.by: signal.Signals | None = None

    @property
    def exit_code(self) -> int:
        """Ctrl-C has its own, as everywhere; ending because SIGTERM asked for it is what was wanted."""
        return 130 if self.by is signal.SIGINT else 0


def run(function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    return anyio.run(function, *arguments, backend_options={"use_uvloop": find_spec("uvloop") is not None})


@asynccontextmanager
async def until_stopped(*, also: anyio.Event | None = None) -> AsyncIterator[Stopped]:
    """Run the block until it is done, a signal comes, or `also` is set. What it raises passes as it is."""
    stopped, failure = Stopped(), None

    async def listen(scope: anyio.CancelScope, *, task_status: TaskStatus[None]) -> None:
        with _as_before(signal.SIGINT), anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            task_status.started()
            async for number in signals:
                stopped.by = number
                scope.cancel()
                return

    async def wait_for(event: anyio.Event, scope: anyio.CancelScope) -> None:
        await event.wait()
        scope.cancel()

    async with anyio.create_task_group() as group:
        await group.start(listen, group.cancel_scope)
        if also is not None:
            group.start_soon(wait_for, also, group.cancel_scope)
        try:
            yield stopped
        except Exception as error:  # noqa: BLE001  raised below, alone: a task group would wrap it
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure


@contextmanager
def _as_before(number: signal.Signals) -> Iterator[None]:
    """Who takes this signal takes it again after the block: of Ctrl-C one who cancels.

    The loop would leave one who raises KeyboardInterrupt wherever it is just then, in the middle of anybody's bookkeeping.
    """
    before = signal.getsignal(number)
    try:
        yield
    finally:
        if callable(before):
            signal.signal(number, before)
