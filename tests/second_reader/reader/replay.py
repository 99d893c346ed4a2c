"""Part 6: the window of live epochs, and the ledger of durable subscriptions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .refusal import demand

WINDOW = 65_536
WHOLE = 1_024
"""Numbers of one envelope in a ledger."""


@dataclass
class Window:
    top: int = -1
    committed: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, seqs: Iterable[int]) -> Window:
        window = cls()
        for seq in seqs:
            window.commit(seq)
        return window

    def check(self, seq: int) -> None:
        if seq > self.top:
            return
        demand(seq > self.top - WINDOW, "too_old")
        demand(seq not in self.committed, "replayed")

    def commit(self, seq: int) -> None:
        self.committed.add(seq)
        self.top = max(self.top, seq)


@dataclass
class Ledger:
    full: bool = False
    _finished: dict[bytes, set[int]] = field(default_factory=dict)

    def finish(self, epoch: bytes, seq: int, indexes: Iterable[int], of: int) -> None:
        numbers = self._finished.setdefault(epoch, set())
        numbers.update(seq * WHOLE + index for index in indexes)
        if all(seq * WHOLE + index in numbers for index in range(of)):
            numbers.update(range(seq * WHOLE, (seq + 1) * WHOLE))

    def unfinished(self, epoch: bytes, seq: int, records: int) -> list[int]:
        """Indexes that are still to be delivered."""
        numbers = self._finished.get(epoch, set())
        return [index for index in range(records) if seq * WHOLE + index not in numbers]
