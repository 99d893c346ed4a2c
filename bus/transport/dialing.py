"""Reach a broker at its address, and get a link."""

from __future__ import annotations

from bus.errors import ConnectError
from bus.transport import in_memory, unix
from bus.transport.address import MemoryAddress, UnixAddress, parse
from bus.transport.connected import unix_link
from bus.transport.link import Link


async def dial(url: str) -> Link:
    """A link that waits for its `start`. Raises ConnectError, which says what to do next."""
    match parse(url):
        case MemoryAddress() as address:
            return in_memory.connect(address)
        case UnixAddress() as address:
            connected = await unix.connect_socket(address.path)
            try:
                return await unix_link(connected, str(address))
            except OSError as error:
                raise ConnectError(f"{address} closed the connection at once: {error.strerror or error}") from error
        case other:
            raise ConnectError(f"{other} is not built yet")
