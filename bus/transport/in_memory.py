"""Who listens at memory:NAME in this process. Both ends of a link in memory live in one event loop, so that is asked as well."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from anyio.lowlevel import EventLoopToken, current_token

from bus.errors import ConnectError, StateInUseError
from bus.transport.address import MemoryAddress
from bus.transport.memory import MemoryLink, memory_pair


@dataclass(frozen=True, slots=True)
class _Listener:
    loop: EventLoopToken
    take: Callable[[MemoryLink], bool]


_listeners: dict[str, _Listener] = {}


@contextmanager
def registered(address: MemoryAddress, take: Callable[[MemoryLink], bool]) -> Iterator[None]:
    """`take` gets the far end of each link, and says whether it takes it. Raises StateInUseError if somebody listens there."""
    if address.name in _listeners:
        raise StateInUseError(os.getpid(), str(address))
    _listeners[address.name] = listener = _Listener(current_token(), take)
    try:
        yield
    finally:
        if _listeners.get(address.name) is listener:
            del _listeners[address.name]


def connect(address: MemoryAddress) -> MemoryLink:
    """Raises ConnectError."""
    listener = _listeners.get(address.name)
    if listener is None:
        raise ConnectError(f"nothing in this process listens at {address}: open a hub with listen=[{str(address)!r}] first")
    if listener.loop != current_token():
        raise ConnectError(f"{address} listens in another event loop of this process: reach it by a unix:// address")
    near, far = memory_pair(str(address))
    if not listener.take(far):
        near.close(flush=False)
        raise ConnectError(f"{address} lets nobody in: it has as many links as it may have")
    return near
