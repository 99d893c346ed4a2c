"""Headers of what came lately: whoever hands it out a moment later need not parse them again."""

from __future__ import annotations

from typing import Final

from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.header import Header

MAX_BYTES: Final = 4 << 20
"""Of the envelopes that are held on to for this."""


class Recent:
    """In two halves: the younger one fills, and the older one goes as a whole. So it costs nothing to let go of what is oldest."""

    __slots__ = ("_bytes", "_new", "_old")

    def __init__(self) -> None:
        self._new: dict[int, tuple[bytes, Header]] = {}
        """By the identity of the envelope, which is its own as long as it is held here."""
        self._old: dict[int, tuple[bytes, Header]] = {}
        self._bytes = 0
        """Of the younger half."""

    def put(self, envelope: bytes, header: Header) -> None:
        self._bytes += len(envelope)
        if self._bytes > MAX_BYTES // 2:
            self._old, self._new, self._bytes = self._new, {}, len(envelope)
        self._new[id(envelope)] = envelope, header

    def header(self, envelope: bytes) -> Header:
        """Raises RemoteProtocolError("malformed")."""
        found = self._new.get(id(envelope)) or self._old.get(id(envelope))
        return headers.parse(envelopes.split(envelope)[0]) if found is None else found[1]
