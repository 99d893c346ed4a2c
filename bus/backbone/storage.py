"""What lies under a local backbone: where blocks of envelopes, the state of consumers, and grants are kept, and read back.

A *commit* is what must be on disk together with nothing else: blocks first, then grants, then changes of state. Storage takes
commits without waiting, writes what gathered as one, and calls `done` of each in the loop, in the order in which they came.
What is read is read by one caller at a time for each consumer; reading never waits for writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from bus.backbone.interface import ConsumerName, DeadLetter, Entry, Grant, Papers, RetentionClass
from bus.errors import BackboneError
from bus.flow.retention import Retention

_BLOCK_BYTES = 640
_RECORD_BYTES = 160
"""What Python's objects add to the envelopes themselves."""


KEPT_PIECE_BYTES: Final = 4 << 10


def places(data: bytes) -> int:
    """What a grant or papers are charged with against what is kept of one sender: one, and one more for each 4 KiB."""
    return 1 + len(data) // KEPT_PIECE_BYTES


@dataclass(slots=True, eq=False)
class Block:
    """Entries of one class at positions that follow each other, stored at one time."""

    class_: str
    first: int
    entries: list[Entry]
    stored_ms: int = 0
    lane: int = 0
    """How long its class is kept."""
    size_bytes: int = 0

    @property
    def last(self) -> int:
        return self.first + len(self.entries) - 1

    @property
    def until_ms(self) -> int:
        """Its latest expiry."""
        return max(entry.expires_ms for entry in self.entries)

    @property
    def keys(self) -> list[tuple[str, bytes]]:
        """By which duplicates are known."""
        return [(entry.sender, entry.id) for entry in self.entries]

    def measure(self) -> int:
        """About what it takes in memory."""
        self.size_bytes = _BLOCK_BYTES + sum([len(entry.envelope) for entry in self.entries]) + _RECORD_BYTES * len(self.entries)
        return self.size_bytes


class ConsumerRow(NamedTuple):
    """A consumer as it is stored. `state` is what `consumer` made of its unsettled records."""

    name: ConsumerName
    class_: str
    pattern: str
    start: str
    made_ms: int
    used_ms: int
    cursor: int
    """The next position that it looks at."""
    state: bytes


@dataclass(slots=True)
class Changes:
    """Changes of state; whole rows, so that writing one twice does no harm."""

    consumers: Mapping[ConsumerName, ConsumerRow | None] = field(default_factory=dict)
    """None: it is removed."""
    classes: Mapping[str, RetentionClass] = field(default_factory=dict)
    dead: Sequence[DeadLetter] = ()
    undead: Sequence[tuple[str, int]] = ()


@dataclass(slots=True, eq=False)
class Commit:
    done: Callable[[BackboneError | None], None]
    blocks: Sequence[Block] = ()
    grants: Sequence[Grant] = ()
    papers: Sequence[Papers] = ()
    changes: Changes | None = None
    is_patient: bool = False
    """It may wait some milliseconds for others to go along with."""
    error: BackboneError | None = None
    failed: list[Block] = field(default_factory=list)
    """Of its blocks those that are not on disk, where there is an error."""

    @property
    def is_blocks_alone(self) -> bool:
        return self.changes is None and not self.grants and not self.papers


class Loaded(NamedTuple):
    """What was there when it was opened."""

    heads: dict[str, tuple[int, int]]
    """Class -> the last position that was ever given, and when."""
    classes: list[RetentionClass]
    consumers: list[ConsumerRow]
    dead: list[DeadLetter]
    recent: list[Block]
    """With what may still be sent again, oldest first, without envelopes."""
    kept: dict[str, int]
    """Sender -> what its grants and papers are charged with (`places`)."""


class Outline(NamedTuple):
    """A block without its envelopes."""

    first: int
    topics: Sequence[str]
    expires_ms: Sequence[int]


class Storage(Protocol):
    def submit(self, commit: Commit) -> None: ...

    async def read(self, class_: str, position: int) -> list[Block]:
        """The block with this position or, where that is gone, the next one, and some of those that follow. Empty: there is none.

        Raises BackboneError: "damaged", "disk".
        """

    async def outlines(self, class_: str, position: int) -> list[Outline]:
        """The same for many more blocks."""

    async def first_at(self, class_: str, time_ms: int) -> int | None:
        """The first position that was stored at this time or later."""

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]: ...

    async def papers_for(self, session: bytes) -> bytes | None: ...

    async def kept(self) -> dict[str, int]:
        """Sender -> what its grants and papers are charged with (`places`)."""

    async def drop(self, retention: Retention) -> None:
        """Let go of what is past."""

    async def tidy(self) -> None:
        """Something useful in an idle moment."""

    def statistics(self) -> dict[str, int]: ...

    async def aclose(self) -> None: ...
