"""Lines from a stream, in bounded memory and bounded time: a line too long, or begun and not ended, is an error, not a wait."""

from __future__ import annotations

import anyio

from bus.errors import RemoteProtocolError
from bus.transport.unix import UnixStream

_CHUNK_BYTES = 65_536


class LineReader:
    """`deadline_seconds` is for a line that has begun; between lines the other end may be silent for ever."""

    def __init__(self, stream: UnixStream, *, max_bytes: int, deadline_seconds: float | None) -> None:
        self._stream, self._max_bytes, self._deadline_seconds = stream, max_bytes, deadline_seconds
        self._buffer = bytearray()
        self._searched = 0

    async def receive(self) -> bytes | None:
        """The next line without its end; None when the other end sends no more.

        Raises RemoteProtocolError: line_too_long, line_timeout, malformed (it ended within a line); ConnectionLostError.
        """
        line = self._take()
        if line is not None:
            return line
        if not self._buffer and not await self._more():
            return None
        if (line := self._take()) is not None:
            return line
        try:
            with anyio.fail_after(self._deadline_seconds):
                while await self._more():
                    if (line := self._take()) is not None:
                        return line
        except TimeoutError:
            raise RemoteProtocolError(
                "line_timeout", f"a line must end within {self._deadline_seconds} s of its beginning"
            ) from None
        raise RemoteProtocolError("malformed", "the connection ended within a line")

    async def _more(self) -> bool:
        data = await self._stream.receive(_CHUNK_BYTES)
        self._buffer += data
        return bool(data)

    def _take(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._searched, self._max_bytes + 1)
        if end >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._searched = 0
            return line
        if len(self._buffer) > self._max_bytes:
            raise RemoteProtocolError("line_too_long", f"a line has at most {self._max_bytes} bytes")
        self._searched = len(self._buffer)
        return None
