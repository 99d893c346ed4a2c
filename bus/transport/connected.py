"""A connected socket becomes a link: on asyncio and uvloop by their own transports, on trio by tasks over anyio's streams.

Each function takes the socket over, and closes it also when it fails or is cancelled.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from bus.transport import tcp
from bus.transport.link import Link, Peer
from bus.transport.tls import Tls
from bus.transport.unix import credentials


class TrackedLink(Link, Protocol):
    """A link as its maker knows it."""

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call this once it has ended, whether it was started or not; now, if it has."""


async def unix_link(connected: socket.socket, address: str, *, silent_seconds: float = 0.0) -> TrackedLink:
    """Raises OSError."""
    try:
        return await _ways().plain(connected, unix_peer(connected, address, silent_seconds=silent_seconds))
    except BaseException:
        connected.close()
        raise


def unix_peer(connected: socket.socket, address: str, *, silent_seconds: float = 0.0) -> Peer:
    """Raises OSError."""
    who = credentials(connected)
    return Peer("unix", address, uid=who.uid, pid=who.pid, silent_seconds=silent_seconds)


async def tls_link(connected: socket.socket, tls: Tls, *, hostname: str = "") -> TrackedLink:
    """Shake hands, as the server or as who called `hostname`. Raises OSError, of which ssl.SSLError and TimeoutError are kinds."""
    try:
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return await _ways().over_tls(connected, tls, str(tcp.name_of(connected)), hostname)
    except BaseException:
        connected.close()
        raise


class _Ways(Protocol):
    """What both event loops offer, in a file each."""

    async def plain(self, connected: socket.socket, peer: Peer) -> TrackedLink: ...

    async def over_tls(self, connected: socket.socket, tls: Tls, address: str, hostname: str) -> TrackedLink: ...


def _ways() -> _Ways:
    """Only one of the two is ever needed, and trio may not be there."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        from bus.transport import trio_link  # noqa: PLC0415  as said

        return trio_link
    from bus.transport import asyncio_connected  # noqa: PLC0415  as said

    return asyncio_connected
