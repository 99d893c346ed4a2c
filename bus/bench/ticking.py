"""A timer that wakes a task: the kernel's own (timerfd), which an event loop waits for as for a socket.

An event loop's timers are up to a millisecond late. A thread that keeps the time is not, but needs the interpreter to tell the
loop, and takes that from what is measured: 85 us a tick where this takes 50, most of them the loop's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

import anyio

_MONOTONIC: Final = 1
_ABSOLUTE: Final = 1
_SECOND_NS: Final = 1_000_000_000
_COUNT_BYTES: Final = 8


class _Moment(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("ns", ctypes.c_long))


class _Schedule(ctypes.Structure):
    _fields_ = (("apart", _Moment), ("first", _Moment))


@asynccontextmanager
async def ticks(seconds: float, first_ns: int) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Whoever awaits it is woken so often, the first time at `first_ns` (monotonic); who comes late is woken at once, and once."""
    timer = _timer(int(seconds * _SECOND_NS), first_ns)

    async def tick() -> None:
        await anyio.wait_readable(timer)
        os.read(timer, _COUNT_BYTES)

    try:
        yield tick
    finally:
        os.close(timer)


def _timer(apart_ns: int, first_ns: int) -> int:
    """Raises OSError."""
    kernel = ctypes.CDLL(None, use_errno=True)
    timer = int(kernel.timerfd_create(_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC))
    if timer < 0:
        raise _error("timerfd_create")
    apart, first = (_Moment(*divmod(max(ns, 1), _SECOND_NS)) for ns in (apart_ns, first_ns))  # zero would be never
    schedule = _Schedule(apart, first)
    if kernel.timerfd_settime(timer, _ABSOLUTE, ctypes.byref(schedule), None):
        os.close(timer)
        raise _error("timerfd_settime")
    return timer


def _error(call: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}")
