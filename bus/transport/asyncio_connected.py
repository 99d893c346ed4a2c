"""A connected socket becomes a link on asyncio or uvloop, with TLS or without. TLS is the loop's own.

Being cancelled in the middle is what these functions are careful with: both loops can lose a transport then, which lives on.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress

import anyio

from bus.transport.asyncio_link import AsyncioLink
from bus.transport.link import FLUSH_SECONDS, Peer
from bus.transport.tls import HANDSHAKE_SECONDS, Tls, tls_peer


async def plain(connected: socket.socket, peer: Peer) -> AsyncioLink:
    """A link over a connected socket, which it takes over."""
    loop = asyncio.get_running_loop()
    link = AsyncioLink(loop)
    link.peer = peer
    await loop.connect_accepted_socket(lambda: link, connected)
    return link


async def over_tls(connected: socket.socket, tls: Tls, address: str, hostname: str) -> AsyncioLink:
    """The same after a handshake: as the server, or as who called `hostname`."""
    link = AsyncioLink(asyncio.get_running_loop())
    if hostname:
        await _call(link, connected, tls, hostname)
    else:
        await _answer(link, connected, tls)
    link.peer = tls_peer(address, tls, link.ssl_object)
    return link


async def _call(link: AsyncioLink, connected: socket.socket, tls: Tls, hostname: str) -> None:
    """In two steps: uvloop closes a descriptor twice if a socket that it is given with TLS breaks at once."""
    loop = asyncio.get_running_loop()
    carrier, _ = await loop.connect_accepted_socket(asyncio.Protocol, connected)
    try:
        transport = await loop.start_tls(
            carrier,
            link,
            tls.context,
            server_hostname=hostname,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=FLUSH_SECONDS,
        )
    except BaseException:
        carrier.abort()
        raise
    if transport is None or link.is_lost:
        carrier.abort()
        raise ConnectionAbortedError("the other end closed the connection after shaking hands")
    link.connection_made(transport)


async def _answer(link: AsyncioLink, connected: socket.socket, tls: Tls) -> None:
    """In one step, since who calls speaks at once.

    asyncio and uvloop forget a transport that is cancelled before TLS begins, and it goes on: so this one is made to fail instead.
    """
    loop = asyncio.get_running_loop()
    making = loop.connect_accepted_socket(
        lambda: link, connected, ssl=tls.context, ssl_handshake_timeout=HANDSHAKE_SECONDS, ssl_shutdown_timeout=FLUSH_SECONDS
    )
    task = loop.create_task(making)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(OSError):
            connected.shutdown(socket.SHUT_RDWR)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([task])
        if task.exception() is None:
            link.close(flush=False)
        raise
    except OSError as error:
        raise error.with_traceback(None)  # noqa: B904  it holds the frames that hold it, and asyncio's 256 KiB a handshake
    finally:
        del task  # and so does this frame
