"""Sockets of TCP, connected and listening, for TLS to run over. Nothing goes over them in the clear."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any, Final

import anyio

from bus.errors import ConnectError
from bus.transport.address import TlsAddress
from bus.transport.unix import BACKLOG

CONNECT_SECONDS: Final = 5.0


async def connect_socket(address: TlsAddress, *, timeout_seconds: float = CONNECT_SECONDS) -> socket.socket:
    """The first address of that host which answers; each has its share of the time. Raises ConnectError."""
    found = await _resolve(address)
    failed: OSError | None = None
    for family, place in found:
        try:
            with anyio.fail_after(timeout_seconds / len(found)):
                return await _connect(family, place)
        except OSError as error:  # TimeoutError is one
            failed = error
    raise ConnectError(f"cannot reach {address}: {_why_not(failed)}") from failed


async def listen(address: TlsAddress) -> socket.socket:
    """At the first address of that host; port 0 is one that is free. Raises ConnectError."""
    family, place = (await _resolve(address))[0]
    listener = socket.socket(family)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConnectError(f"cannot listen at {address}: {_why_not(error)}") from error
    return listener


def name_of(connected: socket.socket) -> TlsAddress:
    """The address at the other end."""
    host, port = connected.getpeername()[:2]
    return TlsAddress(host, port)


async def _resolve(address: TlsAddress) -> list[tuple[int, Any]]:
    try:
        found = await anyio.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"there is no host {address.host!r}: check the name, or give an IP address") from error
    return list(dict.fromkeys((family, place) for family, _, _, _, place in found))


async def _connect(family: int, place: Any) -> socket.socket:
    client = socket.socket(family)
    try:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            client.connect(place)
        except BlockingIOError:
            await anyio.wait_writable(client)
            if code := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(code, os.strerror(code)) from None
    except BaseException:
        client.close()
        raise
    return client


def _why_not(error: OSError | None) -> str:
    reasons = {
        errno.ECONNREFUSED: "nothing listens there",
        errno.EADDRINUSE: "somebody listens there already: use another port",
        errno.EADDRNOTAVAIL: "that is no address of this machine",
        errno.EACCES: "this user may not: use a port from 1024 on",
    }
    if isinstance(error, TimeoutError) or error is None:
        return "nobody answers; is there a firewall in between?"
    return reasons.get(error.errno or 0, error.strerror or str(error))
