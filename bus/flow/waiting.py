"""Records of one lane that wait for the next turn, in columns as they will travel.

Adding one is the first thing that happens to a message, half a million times a second: it appends to lists, and nothing else.
What only few records have (headers, an id of the caller's, somebody who waits to hear of them) stands beside the columns; and what
is noted of a run of them is noted once.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate, islice
from typing import Any, Final, NamedTuple

MAX_RECORDS: Final = 1_024
MAX_BYTES: Final = 1 << 20
"""Of a lane: when it has so much, it is full, and who publishes waits."""
_NOTHING: Final[Mapping[int, Any]] = {}


class Run(NamedTuple):
    """What the caller noted of several records in a row: of those from `first` to before `end`."""

    first: int
    end: int
    note: Any


class Taken(NamedTuple):
    """The records that go into one envelope, or into one envelope each."""

    kinds: bytes
    payloads: list[bytes]
    headers: Mapping[int, Mapping[str, str]]
    notes: Mapping[int, Any]
    """What the caller noted beside some of them."""
    size_bytes: int
    runs: Sequence[Run] = ()


class Waiting:
    """`size_bytes` is of all payloads and headers. Not to be shared between threads."""

    __slots__ = ("header_bytes", "headers", "notes", "packed", "payloads", "runs", "size_bytes")

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self.packed: list[int] = []
        """Which of them are packed values; the others are bytes as they are. Ascending."""
        self.headers: dict[int, Mapping[str, str]] = {}
        self.header_bytes: dict[int, int] = {}
        self.notes: dict[int, Any] = {}
        self.runs: list[Run] = []
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self.payloads)

    @property
    def is_full(self) -> bool:
        return len(self.payloads) >= MAX_RECORDS or self.size_bytes >= MAX_BYTES

    def add(
        self, payload: bytes, kind: int, *, headers: Mapping[str, str] | None = None, header_bytes: int = 0, note: Any = None
    ) -> None:
        """One more, however full it is: the caller has asked. `header_bytes`: what its headers will take."""
        if headers:
            self.headers[len(self.payloads)] = headers
            self.header_bytes[len(self.payloads)] = header_bytes
        if note is not None:
            self.notes[len(self.payloads)] = note
        if kind:
            self.packed.append(len(self.payloads))
        self.payloads.append(payload)
        self.size_bytes += len(payload) + header_bytes

    def note_newest(self, count: int, note: Any) -> None:
        """The newest so many are one run, or go on with the last one if it has the same note."""
        end, runs = len(self.payloads), self.runs
        if runs and runs[-1].end == end - count and runs[-1].note is note:
            runs[-1] = Run(runs[-1].first, end, note)
        else:
            runs.append(Run(end - count, end, note))

    @property
    def first_bytes(self) -> int:
        """Of the oldest."""
        return len(self.payloads[0]) + self.header_bytes.get(0, 0) if self.payloads else 0

    def take(self, most_records: int, most_bytes: int) -> Taken:
        """The oldest, at most so many, and of so many bytes unless the first alone has more."""
        if not self.payloads:
            return Taken(b"", [], _NOTHING, _NOTHING, 0)
        count, size = self._fitting(most_records, most_bytes)
        if count == len(self.payloads):
            taken = Taken(_kinds(self.packed, count), self.payloads, self.headers, self.notes, self.size_bytes, self.runs)
            self.__init__()  # type: ignore[misc]  # what was taken keeps the lists, so that none has to be copied
            return taken
        payloads = self.payloads[:count]
        kinds = _kinds(self.packed[: (marked := bisect_left(self.packed, count))], count)
        self.packed = [index - count for index in self.packed[marked:]]
        headers, self.headers = _split(self.headers, count)
        _, self.header_bytes = _split(self.header_bytes, count)
        notes, self.notes = _split(self.notes, count)
        runs = [Run(first, min(end, count), note) for first, end, note in self.runs if first < count]
        self.runs = [Run(max(first - count, 0), end - count, note) for first, end, note in self.runs if end > count]
        del self.payloads[:count]
        self.size_bytes -= size
        return Taken(kinds, payloads, headers, notes, size, runs)

    def _fitting(self, most_records: int, most_bytes: int) -> tuple[int, int]:
        """How many of the oldest, and of how many bytes."""
        count = len(self.payloads)
        if count <= most_records and self.size_bytes <= most_bytes:
            return count, self.size_bytes
        lengths: Iterable[int] = map(len, islice(self.payloads, most_records))
        if self.header_bytes:
            lengths = (length + self.header_bytes.get(index, 0) for index, length in enumerate(lengths))
        sizes = list(accumulate(lengths))
        fitting = max(bisect_right(sizes, most_bytes), 1)
        return fitting, sizes[fitting - 1]


def _kinds(packed: list[int], count: int) -> bytes:
    """One byte a record."""
    if not packed:
        return bytes(count)
    kinds = bytearray(count)
    for index in packed:
        kinds[index] = 1
    return bytes(kinds)


def _split(table: dict[int, Any], count: int) -> tuple[Mapping[int, Any], dict[int, Any]]:
    if not table:
        return _NOTHING, table
    first = {index: one for index, one in table.items() if index < count}
    return first, {index - count: one for index, one in table.items() if index >= count}
