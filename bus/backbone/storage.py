"""What lies under a local backbone: where blocks of envelopes, the state of consumers, and grants are kept, and read back.

A *commit* is what must be on disk together with nothing else: blocks first, then grants, then changes of state. Storage takes
commits without waiting, writes what gathered as one, and calls `done` of each in the loop, in the order in which they came.
What is read is read by one caller at a time for each consumer; reading never waits for writing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from bus.backbone.interface import ConsumerName, DeadLetter, Grant, Papers, RetentionClass
from bus.errors import BackboneError
from bus.flow.retention import Retention

_BLOCK_BYTES = 640
_RECORD_BYTES = 160
"""What Python's objects add to the envelopes themselves."""


@dataclass(slots=True, eq=False)
class Block:
    """Envelopes of one class at positions that follow each other, stored at one time. Columns, because they are packed as such."""

    class_: str
    first: int
    topics: list[str] = field(default_factory=list)
    senders: list[str] = field(default_factory=list)
    ids: list[bytes] = field(default_factory=list)
    expires: list[int] = field(default_factory=list)
    envelopes: list[bytes] = field(default_factory=list)
    stored_ms: int = 0

    def add(self, topic: str, sender: str, id_: bytes, expires_ms: int, envelope: bytes) -> int:
        """Its position."""
        position = self.first + len(self.envelopes)
        self.topics.append(topic)
        self.senders.append(sender)
        self.ids.append(id_)
        self.expires.append(expires_ms)
        self.envelopes.append(envelope)
        return position

    @property
    def last(self) -> int:
        return self.first + len(self.envelopes) - 1

    @property
    def size_bytes(self) -> int:
        return _BLOCK_BYTES + sum(map(len, self.envelopes)) + _RECORD_BYTES * len(self.envelopes)


class ConsumerRow(NamedTuple):
    """A consumer as it is stored. `state` is what its room made of the unsettled (`kept`)."""

    name: ConsumerName
    class_: str
    pattern: str
    start: str
    made_ms: int
    used_ms: int
    tail: int
    seen: int
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


class Loaded(NamedTuple):
    """What was there when it was opened."""

    heads: dict[str, tuple[int, int]]
    """Class -> the last position that was ever given, and when."""
    classes: list[RetentionClass]
    consumers: list[ConsumerRow]
    dead: list[DeadLetter]
    recent: list[Block]
    """With what may still be sent again, oldest first, without envelopes."""


class Outline(NamedTuple):
    """A block without its envelopes."""

    first: int
    topics: list[str]


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

    async def drop(self, retention: Retention) -> None:
        """Let go of what is past."""

    async def tidy(self) -> None:
        """Something useful in an idle moment."""

    def statistics(self) -> dict[str, int]: ...

    async def aclose(self) -> None: ...
