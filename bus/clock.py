"""The only place that reads a clock. Rooms take a `Clock`, so that tests turn its hands instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Protocol

import anyio


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970 UTC: for dates that others read."""

    def monotonic(self) -> float:
        """Seconds that never run backwards: for waits and rates."""

    async def sleep(self, seconds: float) -> None:
        """Wait until `monotonic` is so much further, whatever the other hand does; what has passed already is no wait."""

    def fail_after(self, seconds: float) -> AbstractContextManager[Any]:
        """What takes longer within is cancelled, and TimeoutError raised."""

    def leave_within(self, seconds: float) -> AbstractContextManager[Any]:
        """The same for who puts things in order at the end of something: it ends also where nobody turns the clock any more."""

    def alarm(self, seconds: float, ring: Callable[[], None]) -> Callable[[], object] | None:
        """Call `ring` when so much has passed, unless what comes back is called before. A tenth of what `fail_after` costs, for who
        waits once a message and can be told. None where the event loop has no such thing (trio): then `fail_after` has to do.
        """


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(max(seconds, 0.0))

    def fail_after(self, seconds: float) -> AbstractContextManager[Any]:
        return _Deadline(seconds)

    leave_within = fail_after

    def alarm(self, seconds: float, ring: Callable[[], None]) -> Callable[[], object] | None:
        try:
            return asyncio.get_running_loop().call_later(seconds, ring).cancel
        except RuntimeError:
            return None


class _Deadline:
    """anyio.fail_after as a plain object: every request has one, and needs no generator for it."""

    __slots__ = ("_scope", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __enter__(self) -> anyio.CancelScope:
        self._scope = anyio.CancelScope(deadline=anyio.current_time() + self._seconds)
        return self._scope.__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool | None:
        caught = self._scope.__exit__(kind, error, trace)
        if self._scope.cancelled_caught and anyio.current_time() >= self._scope.deadline:
            raise TimeoutError
        return caught
