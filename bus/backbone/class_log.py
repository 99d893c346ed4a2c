"""One retention class as the loop sees it: the next position, what is committed, and the newest blocks in memory.

Consumers that follow the head never touch the disk: they read here. How many bytes are kept is bounded for all classes together
(`Ring`), and what is older is read back from storage.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import Final

from bus.backbone.interface import Entry, RetentionClass
from bus.backbone.storage import Block, Storage

RING_BYTES: Final = 16 << 20


class ClassLog:
    def __init__(
        self, settings: RetentionClass, storage: Storage, *, head: int = 0, stored_ms: int = 0, takes: bool = True
    ) -> None:
        self.settings = settings
        self.takes = takes
        """False for a class that policy no longer has: it only gives."""
        self.head = head
        """The last position that is committed."""
        self.next_position = head + 1
        self.stored_ms = stored_ms
        self._storage = storage
        self._blocks: list[Block] = []
        self._firsts: list[int] = []

    def stamp(self, now_ms: int) -> int:
        """When what is stored now was stored: never earlier than what is stored already, whatever the clock does."""
        self.stored_ms = max(self.stored_ms, now_ms)
        return self.stored_ms

    def recent(self, position: int) -> Block | None:
        """The block in memory with this position or, where there is none, the next one. None: storage has to be asked."""
        place = bisect_right(self._firsts, position) - 1
        if place < 0:
            return None
        block = self._blocks[place]
        if block.last >= position:
            return block
        return self._blocks[place + 1] if place + 1 < len(self._blocks) else None

    async def fetch(self, positions: Iterable[int]) -> dict[int, Entry]:
        """These records, as far as they are still kept. Raises BackboneError: "damaged", "disk"."""
        found: dict[int, Entry] = {}
        blocks: list[Block] = []
        for position in sorted(positions):
            recent = self.recent(position)
            block = recent or next((block for block in blocks if block.first <= position <= block.last), None)
            if block is None:
                blocks = await self._storage.read(self.settings.name, position)
                block = blocks[0] if blocks else None
            if block is not None and block.first <= position <= block.last:
                found[position] = block.entries[position - block.first]
        return found

    def add(self, block: Block) -> None:
        self.head = block.last
        self._blocks.append(block)
        self._firsts.append(block.first)

    def forget_oldest(self) -> None:
        del self._blocks[0], self._firsts[0]


class Ring:
    """The newest blocks of all classes, in the order in which they were stored; the oldest make room."""

    def __init__(self, most_bytes: int = RING_BYTES) -> None:
        self._most_bytes = most_bytes
        self._order: deque[tuple[ClassLog, int]] = deque()
        self.size_bytes = 0

    def add(self, log: ClassLog, block: Block) -> None:
        log.add(block)
        self._order.append((log, block.size_bytes))
        self.size_bytes += block.size_bytes
        while self.size_bytes > self._most_bytes:
            oldest, size = self._order.popleft()
            oldest.forget_oldest()
            self.size_bytes -= size
