"""A link of asyncio or uvloop with TLS, on the same transport as one without: `ssl` here works on memory, between the two.

Both loops have TLS of their own, and four things are wrong with it for a link: it does not count what its transport still holds, so
that a full link looks empty; who closes while the other end is talking loses what it has just said; cancelled in the first moment
of a handshake, the connection lives on; and on asyncio each connection takes 256 KiB before it has said a word.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress

import anyio

from bus.transport.asyncio_link import AsyncioLink, broken
from bus.transport.framing import READ_BYTES
from bus.transport.tls import Tls


class _OfThisThread(threading.local):
    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_shared = _OfThisThread()


class AsyncioTlsLink(AsyncioLink):
    """One end. It is a link from when `shake_hands` has returned."""

    def __init__(self, loop: asyncio.AbstractEventLoop, tls: Tls, hostname: str) -> None:
        super().__init__(loop)
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ciphertext = _shared.view
        self.connection = tls.context.wrap_bio(
            self._received, self._to_send, server_side=not hostname, server_hostname=hostname or None
        )
        self._read: Callable[[int, memoryview], int] = self.connection.read  # type: ignore[assignment]  # typed without a buffer
        self._is_secure = False
        self._decided = anyio.Event()
        self._failure: OSError | None = None

    async def shake_hands(self) -> None:
        """Raises OSError."""
        await self._decided.wait()
        failure, self._failure = self._failure, None
        try:
            if failure is not None:
                raise failure
        finally:
            del failure  # which holds this frame that would hold it, and all that belongs to the connection

    # ---- what comes ----------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._go_on_shaking()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._ciphertext

    def _took(self, count: int) -> list[bytes]:
        self._received.write(self._ciphertext[:count])
        if not self._is_secure:
            self._go_on_shaking()
        frames: list[bytes] = []
        try:
            while self._is_secure and self._incoming.fault is None:
                if not (size := self._read(READ_BYTES, self._incoming.room())):
                    break
                frames += self._incoming.took(size)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.eof_received()
        except ssl.SSLError as error:
            self._incoming.fault = broken(error)
        self._pass_on()
        return frames

    def _go_on_shaking(self) -> None:
        try:
            self.connection.do_handshake()
        except ssl.SSLWantReadError:
            self._pass_on()
        except ssl.SSLWantWriteError:
            self._pass_on()  # an alert, that says why
            self._go_on_shaking()
        except ssl.SSLError as error:
            self._decide(error)
        else:
            self._is_secure = True
            self._pass_on()
            self._decide(None)

    def _decide(self, failure: OSError | None) -> None:
        if not self._decided.is_set():
            self._failure = failure
            self._decided.set()

    # ---- what goes -----------------------------------------------------------------------------------------------------------

    def _write(self, pieces: list[bytes], size: int) -> None:
        left = memoryview(b"".join(pieces))
        while left:
            left = left[self.connection.write(left) :]
        self._pass_on()

    def _pass_on(self) -> None:
        if self._to_send.pending and not self._transport.is_closing():
            self._transport.write(self._to_send.read())

    def _finish(self) -> None:
        """TCP that is closed with something unread takes along what it has not sent yet: so hear the other end out."""
        if self._transport.is_closing():
            return
        with suppress(OSError):  # the other end has not said so yet, or is gone altogether
            self.connection.unwrap()
        with suppress(OSError):
            self._pass_on()
            self._transport.write_eof()
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._decide(ConnectionAbortedError("the other end closed the connection while shaking hands"))
        super().connection_lost(exc)
