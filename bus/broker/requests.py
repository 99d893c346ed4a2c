"""Who was asked what: only who got a request may answer it. Bounded for each requester; its own oldest requests go first.

A request is remembered for an hour, however short it lives itself: who works on it may take longer than it was allowed to travel.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from bus.broker.crossing import Reader
from bus.broker.host_link import HostLink
from bus.protocol.frames import UNHEARD
from bus.protocol.header import Header

MAX_OF_ONE: Final = 4_096
MAX_IN_ALL: Final = 65_536
KEPT_MS: Final = 3_600_000


@dataclass(slots=True, eq=False)
class Asked:
    """A request, and the links that got it."""

    topic: str
    until_ms: int
    readers: list[Reader] = field(default_factory=list, repr=False)
    copies: int = 0
    """That were not dropped; and one while it is not known yet who gets it."""

    def one_less(self, host: HostLink, id_: bytes) -> None:
        """One of its copies was dropped. Was it the last one, nobody is asked: who waits on this link for the answer need not."""
        self.copies -= 1
        if not self.copies and not host.is_gone:
            host.refuse(UNHEARD, id_)

    def may_answer(self, agent: str) -> bool:
        return any(one.agent == agent for reader in self.readers for one in reader.subscriptions)


class Requests:
    def __init__(self) -> None:
        self._of: dict[str, OrderedDict[bytes, Asked]] = {}
        """Whose oldest is found without a look at where older ones were: who asks without pause lets one go for each."""
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def open(self, header: Header, *, now_ms: int) -> Asked:
        """A request is on its way. The same again (after a reconnect) is the same request.

        Another one by the same id is not remembered, so that who was asked the first can still answer it.
        """
        mine = self._of.get(header.sender)
        if mine is None:
            mine = self._of[header.sender] = OrderedDict()
        known = mine.get(header.id)
        if known is not None:
            return known if known.topic == header.topic else Asked(header.topic, now_ms)
        if len(mine) >= MAX_OF_ONE or self._count >= MAX_IN_ALL:
            self._drop_oldest(header.sender if mine else next(iter(self._of)))
        asked = mine[header.id] = Asked(header.topic, now_ms + KEPT_MS)
        self._of.setdefault(header.sender, mine)
        self._count += 1
        return asked

    def find(self, requester: str, id_: bytes) -> Asked | None:
        mine = self._of.get(requester)
        return None if mine is None else mine.get(id_)

    def drop(self, requester: str, id_: bytes) -> None:
        """Nobody may answer it any more, if it is there still."""
        mine = self._of.get(requester)
        if mine is not None and mine.pop(id_, None) is not None:
            self._count -= 1
            if not mine:
                del self._of[requester]

    def forget(self, now_ms: int) -> None:
        for requester in [*self._of]:
            mine = self._of[requester]
            while mine and next(iter(mine.values())).until_ms < now_ms:
                self._drop_oldest(requester)
            if not mine:
                self._of.pop(requester, None)

    def _drop_oldest(self, requester: str) -> None:
        mine = self._of[requester]
        if mine:
            mine.popitem(last=False)
            self._count -= 1
        if not mine:
            del self._of[requester]
