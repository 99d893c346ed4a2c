"""A connected socket becomes a link: on asyncio and uvloop by their own transports, on trio by tasks over anyio's streams."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from bus.transport.link import Link, Peer
from bus.transport.unix import credentials


class TrackedLink(Link, Protocol):
    """A link as its maker knows it."""

    gone: Callable[[], None]
    """Called when it has ended, whether it was started or not."""


async def unix_link(connected: socket.socket, address: str) -> TrackedLink:
    """It takes the socket over, also when it fails or is cancelled. Raises OSError."""
    try:
        who = credentials(connected)
        peer = Peer("unix", address, uid=who.uid, pid=who.pid)
        if _is_asyncio():
            from bus.transport import asyncio_link  # noqa: PLC0415  only one of the two is needed, and trio may not be there

            return await asyncio_link.plain(connected, peer)
        from bus.transport import trio_link  # noqa: PLC0415  as above

        return await trio_link.plain(connected, peer)
    except BaseException:
        connected.close()
        raise


def _is_asyncio() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
