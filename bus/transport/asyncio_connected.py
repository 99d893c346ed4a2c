"""A connected socket becomes a link on asyncio or uvloop."""

from __future__ import annotations

import asyncio
import socket

import anyio

from bus.transport.asyncio_link import AsyncioLink
from bus.transport.asyncio_tls_link import AsyncioTlsLink
from bus.transport.link import Peer
from bus.transport.tls import HANDSHAKE_SECONDS, Tls, tls_peer


async def plain(connected: socket.socket, peer: Peer) -> AsyncioLink:
    link = AsyncioLink(asyncio.get_running_loop())
    link.peer = peer
    await _carry(link, connected)
    return link


async def over_tls(connected: socket.socket, tls: Tls, address: str, hostname: str) -> AsyncioLink:
    link = AsyncioTlsLink(asyncio.get_running_loop(), tls, hostname)
    await _carry(link, connected)
    try:
        with anyio.fail_after(HANDSHAKE_SECONDS):
            await link.shake_hands()
    except BaseException:
        link.close(flush=False)
        raise
    try:
        link.peer = tls_peer(address, tls, link.connection)
    except ValueError as error:  # ended in the same moment, by an alert for instance: our certificate was revoked
        ending = link.ending
        link.close(flush=False)
        if ending is not None:
            raise ending from ending.__cause__
        raise ConnectionAbortedError("the other end closed the connection when hands were shaken") from error
    return link


async def _carry(link: AsyncioLink, connected: socket.socket) -> None:
    """From here on the transport closes the socket, and nobody else may."""
    await asyncio.get_running_loop().connect_accepted_socket(lambda: link, connected)
