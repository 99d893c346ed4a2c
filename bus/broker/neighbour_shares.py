"""What one broker may have told of here, in number and in bytes, by its name: on all of its links together.

A link more, with a boot of its own, is no more room. What is let go of counts until that is done.
"""

from __future__ import annotations

from typing import Final

from bus.broker.host_link import HostLink
from bus.broker.neighbour import Neighbour

MOST: Final = 65_536
"""Live subscriptions, and as many durable ones."""
MAX_BYTES: Final = 8 << 20
"""Of their names and patterns: 128 each."""


class _Share:
    __slots__ = ("bytes", "number")

    def __init__(self) -> None:
        self.number = self.bytes = 0


class Shares:
    """Of one kind of thing."""

    def __init__(self) -> None:
        self._of: dict[str, _Share] = {}

    def __len__(self) -> int:
        return sum(share.number for share in self._of.values())

    def take(self, name: str, *texts: str) -> bool:
        """For one thing more, made of these; False: the broker of this name has too much already."""
        share = self._of.get(name) or _Share()
        size = _size(texts)
        if share.number >= MOST or share.bytes + size > MAX_BYTES:
            return False
        share.number += 1
        share.bytes += size
        self._of[name] = share
        return True

    def release(self, name: str, *texts: str) -> None:
        share = self._of[name]
        share.number -= 1
        share.bytes -= _size(texts)
        if not share.number:
            del self._of[name]


def _size(texts: tuple[str, ...]) -> int:
    return sum(map(len, texts))


def name_of(host: HostLink) -> str:
    """Of the broker at the other end."""
    broker = host.broker if isinstance(host, Neighbour) else None
    return "" if broker is None else broker.name
