"""Reach a broker at its address, and get a link."""

from __future__ import annotations

import ssl

from bus.errors import ConnectError
from bus.transport import in_memory, tcp, unix
from bus.transport.address import MemoryAddress, TlsAddress, UnixAddress, parse
from bus.transport.connected import tls_link, unix_link
from bus.transport.link import Link
from bus.transport.tls import Tls


async def dial(url: str, *, tls: Tls | None = None) -> Link:
    """A link that waits for its `start`. Raises ConnectError, which says what to do next.

    With TLS 1.3 a server judges its client last: what it refuses is a link that is lost at once.
    """
    match parse(url):
        case MemoryAddress() as address:
            return in_memory.connect(address)
        case UnixAddress() as address:
            connected = await unix.connect_socket(address.path)
            try:
                return await unix_link(connected, str(address))
            except OSError as error:
                raise ConnectError(f"{address} closed the connection at once: {error.strerror or error}") from error
        case TlsAddress() as address:
            return await _dial_tls(address, tls)


async def _dial_tls(address: TlsAddress, tls: Tls | None) -> Link:
    if tls is None or not tls.is_client:
        raise ValueError(f"{address} needs a certificate to show: give tls=, made for a client")
    connected = await tcp.connect_socket(address)
    try:
        return await tls_link(connected, tls, hostname=address.host)
    except ssl.SSLCertVerificationError as error:
        reason = f"its certificate is not the one of a broker of this domain ({error.verify_message})"
        raise ConnectError(f"{address} is not who it should be: {reason}; compare the address and the pinned root") from error
    except OSError as error:
        reason = "it does not answer" if isinstance(error, TimeoutError) else str(error.strerror or error)
        raise ConnectError(f"{address} does not shake hands: {reason}; is it a broker's port, and of TLS 1.3?") from error
