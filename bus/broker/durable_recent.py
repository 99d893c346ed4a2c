"""Headers of what came lately: whoever hands it out a moment later need not parse them again."""

from __future__ import annotations

from typing import Final

from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.header import Header

MAX_BYTES: Final = 4 << 20
"""Of the envelopes that are held on to for this."""


class Recent:
    __slots__ = ("_bytes", "_of")

    def __init__(self) -> None:
        self._of: dict[int, tuple[bytes, Header]] = {}
        """By the identity of the envelope, which is its own as long as it is held here."""
        self._bytes = 0

    def put(self, envelope: bytes, header: Header) -> None:
        self._of[id(envelope)] = envelope, header
        self._bytes += len(envelope)
        while self._bytes > MAX_BYTES:
            self._bytes -= len(self._of.pop(next(iter(self._of)))[0])

    def header(self, envelope: bytes) -> Header:
        """Raises RemoteProtocolError("malformed")."""
        found = self._of.get(id(envelope))
        return headers.parse(envelopes.split(envelope)[0]) if found is None else found[1]
