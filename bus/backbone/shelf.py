"""The segments of a journal: which are written, which are only read, and which may go.

Blocks of classes that are kept equally long share a *lane*: one segment at a time takes what comes for it, so that a short
retention does not wait for a long one before its file can go, and a commit still touches few files. A segment ends at 256 MiB or
after a day.

Three work here, each one at a time: the writing thread, who reads, and who tidies up. They share the list, under a lock that nobody
holds while the disk works, and no connection: one that is closed while another thread works with it takes the process along.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, TypeVar

from bus.backbone import sqlite_file
from bus.backbone.segment import Range, Segment
from bus.backbone.storage import Block, Outline
from bus.errors import BackboneError
from bus.flow.retention import Retention

SEGMENT_BYTES: Final = 256 << 20
SEGMENT_MS: Final = 86_400_000
MAX_READERS: Final = 8
"""Segments that are open for reading."""

T = TypeVar("T")
_Read = Callable[[Segment, sqlite3.Connection], T]


class Shelf:
    def __init__(self, folder: Path, *, segment_bytes: int = SEGMENT_BYTES) -> None:
        """Open all that are there. Raises BackboneError: "damaged", "version", "disk", "disk_full"."""
        self.folder, self._segment_bytes = folder, segment_bytes
        self._lock = threading.Lock()
        self._segments: list[Segment] = []
        """In the order in which they were made."""
        self._active: dict[int, Segment] = {}
        """By lane: for how many ms what is in it is kept."""
        self._full: list[Segment] = []
        """Not written any more, but not yet all in its file."""
        self._readers: dict[Segment, sqlite3.Connection] = {}
        self._next_number = 1
        self._unchecked = 0
        """Commits since the last checkpoint."""
        try:
            self._open_all()
        except BaseException:
            self.close()
            raise

    def heads(self) -> dict[str, tuple[int, int]]:
        """Of each class the last position, and when it was stored."""
        found: dict[str, tuple[int, int]] = {}
        for name, one in self.ranges():
            found[name] = max(found.get(name, (0, 0)), (one.last, one.stored_ms))
        return found

    def statistics(self) -> dict[str, int]:
        with self._lock:
            return {"segments": len(self._segments), "segment_bytes": sum(one.size_bytes for one in self._segments)}

    # ---- the writing thread ----------------------------------------------------------------------------------------------------

    def write(self, lane: int, blocks: list[Block]) -> None:
        """On disk when it returns. Raises BackboneError: none of them is, "disk_full", "disk", "damaged"."""
        segment = self._taking(lane, blocks[-1].stored_ms)
        try:
            with sqlite_file.faults(segment.path):
                ranges = segment.write(blocks)
        except BackboneError as error:
            if error.code != "disk_full":  # what the disk makes of it from here on is unknown: leave it as it is
                self._fill(lane)
            raise
        with self._lock:
            segment.ranges.update(ranges)
            self._unchecked += 1

    def retire(self, retention: Retention) -> list[Segment]:
        """Take those that may go from the list; whoever gets them lets `forget` and then `remove` have them."""
        with self._lock:
            ended = [segment for segment in self._segments if segment.ended(retention)]
            self._segments = [segment for segment in self._segments if segment not in ended]
            self._full = [segment for segment in self._full if segment not in ended]
            self._active = {lane: segment for lane, segment in self._active.items() if segment not in ended}
        return ended

    def _taking(self, lane: int, now_ms: int) -> Segment:
        segment = self._active.get(lane)
        if segment is not None and (segment.size_bytes >= self._segment_bytes or now_ms - segment.made_ms >= SEGMENT_MS):
            self._fill(lane)
            segment = None
        if segment is None:
            path = self.folder / f"{self._next_number:012d}.db"
            with sqlite_file.faults(path):
                segment = Segment.make(path, lane=lane, made_ms=now_ms)
            self._next_number += 1
            with self._lock:
                self._segments.append(segment)
                self._active[lane] = segment
        return segment

    def _fill(self, lane: int) -> None:
        with self._lock:
            self._full.append(self._active.pop(lane))

    # ---- reading, one at a time --------------------------------------------------------------------------------------------------

    def read(self, class_: str, position: int) -> list[Block]:
        return self._find(class_, position, lambda segment, reader: segment.read(reader, class_, position)) or []

    def outlines(self, class_: str, position: int) -> list[Outline]:
        return self._find(class_, position, lambda segment, reader: segment.outlines(reader, class_, position)) or []

    def first_at(self, class_: str, time_ms: int) -> int | None:
        return self._find(class_, 0, lambda segment, reader: segment.first_at(reader, class_, time_ms))

    def recent(self, *, since_ms: int, most: int) -> list[Block]:
        """What may be sent again, without envelopes, the oldest first."""
        blocks: list[Block] = []
        for segment in reversed(self._segments):
            for name in [name for name, found in segment.ranges.items() if found.stored_ms > since_ms]:
                with sqlite_file.faults(segment.path):
                    blocks += segment.recent(self._reader(segment), name, since_ms=since_ms, most=most)
        blocks.sort(key=lambda block: block.stored_ms)
        return blocks

    def forget(self, segments: list[Segment]) -> None:
        """Nobody reads any more in those that were retired."""
        for reader in [reader for segment in segments if (reader := self._readers.pop(segment, None)) is not None]:
            reader.close()

    def _find(self, class_: str, position: int, read: _Read[T | None]) -> T | None:
        """What the first segment gives that has something at this position or later."""
        with self._lock:
            places = [(one.ranges[class_], one) for one in self._segments if class_ in one.ranges]
        for _, segment in sorted((place for place in places if place[0].last >= position), key=lambda place: place[0].first):
            with sqlite_file.faults(segment.path):
                if found := read(segment, self._reader(segment)):
                    return found
        return None

    def _reader(self, segment: Segment) -> sqlite3.Connection:
        reader = self._readers.pop(segment, None) or sqlite_file.connect(segment.path)
        self._readers[segment] = reader
        while len(self._readers) > MAX_READERS:
            self._readers.pop(next(iter(self._readers))).close()
        return reader

    # ---- tidying up, one at a time -----------------------------------------------------------------------------------------------

    def remove(self, segments: list[Segment]) -> None:
        """Of those that were forgotten everything."""
        for segment in segments:
            with sqlite_file.faults(segment.path):
                sqlite_file.remove(segment.path)
                segment.connection.close()

    def untidy(self, *, idle: bool) -> bool:
        return bool(self._full or (idle and self._unchecked))

    def tidy(self, *, idle: bool) -> None:
        """Bring into the files what is in their WALs; of those that are written only when nobody writes."""
        with self._lock:
            full, active = [*self._full], [*self._active.values()] if idle else []
            self._unchecked = 0 if idle else self._unchecked
        for segment in full:
            with sqlite_file.faults(segment.path):
                if segment.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                    continue  # somebody reads in it: another time
                segment.connection.close()
            with self._lock:
                self._full = [one for one in self._full if one is not segment]
        for segment in active:
            with sqlite_file.faults(segment.path), closing(sqlite_file.connect(segment.path)) as connection:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def close(self) -> None:
        for connection in [*self._readers.values(), *(segment.connection for segment in self._segments)]:
            with suppress(sqlite3.Error):  # what is not in the file stays in its WAL
                connection.close()

    # ---- opening -----------------------------------------------------------------------------------------------------------------

    def _open_all(self) -> None:
        with sqlite_file.faults(self.folder):
            paths = sorted(self.folder.glob("*.db"))
            self._remove_leftovers({path.name for path in paths})
        for path in paths:
            with sqlite_file.faults(path):
                self._next_number = int(path.stem) + 1
                segment = Segment(path)
            self._segments.append(segment)
            before = self._active.get(segment.lane)
            if before is not None:
                self._fill(segment.lane)
            self._active[segment.lane] = segment
        for segment in [*self._full]:
            if not segment.has_wal:
                segment.connection.close()
                self._full.remove(segment)

    def _remove_leftovers(self, names: set[str]) -> None:
        """Of files that were not finished, or not removed to the end, when a process was killed."""
        for path in self.folder.iterdir():
            if path.name not in names and path.name.removesuffix("-wal").removesuffix("-shm") not in names:
                path.unlink()

    def ranges(self) -> list[tuple[str, Range]]:
        """What each segment has of each class."""
        with self._lock:
            return [place for segment in self._segments for place in segment.ranges.items()]
