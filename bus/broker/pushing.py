"""Trust documents to every link: all when it opens, and what has changed whenever something has; the statement always last."""

from __future__ import annotations

from typing import Final

from bus.broker.host_link import HostLink
from bus.identity.trust_documents import TrustDocuments
from bus.protocol.frames import Frame, encode

MAX_PART_BYTES: Final = 1 << 20


class Pushing:
    """The frames are made once for all links."""

    def __init__(self, documents: TrustDocuments) -> None:
        self._documents = documents
        self._frames: dict[int, list[bytes]] = {}
        self.follow(documents)

    def follow(self, documents: TrustDocuments) -> None:
        self._documents = documents
        self._frames = {what: _parts(what, data) for what, data in documents.in_order()}

    def push(self, host: HostLink) -> None:
        """What this link was not told yet."""
        told = {} if host.told_trust is None else dict(host.told_trust.in_order())
        for what, data in self._documents.in_order():
            if told.get(what) != data:
                for frame in self._frames[what]:
                    host.link.send(frame)
        host.told_trust = self._documents


def _parts(what: int, data: bytes) -> list[bytes]:
    return [
        encode(Frame.TRUST, what, len(data), offset, data[offset : offset + MAX_PART_BYTES])
        for offset in range(0, len(data), MAX_PART_BYTES)
    ]
