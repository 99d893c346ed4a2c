"""One segment of a journal: a SQLite file of blocks, dropped as a whole when nobody needs any of it.

A block is one row: what one commit brought of one class, packed in columns, so that a commit is one statement and reading starts
where it must. Its key is [number of the class in this file, first position], so a class is read in order without an index. The
envelopes come last in the row: who looks only at topics does not read them.

`until_ms` grows from row to row of a class (the latest expiry so far), so its last row tells all about a class in a file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from bus.backbone import sqlite_file
from bus.backbone.interface import Entry
from bus.backbone.storage import Block, Outline
from bus.errors import RemoteProtocolError
from bus.flow.retention import Retention
from bus.protocol.codec import pack, unpack

VERSION: Final = 1
MAX_BLOCK_RECORDS: Final = 1_024
MAX_BLOCK_BYTES: Final = 1 << 20
"""A row has no more than that, unless one envelope alone has."""
READ_BYTES: Final = 2 << 20
"""What is read at once."""
OUTLINES_AT_ONCE: Final = 1_024

_SHIFT: Final = 44
"""Of 63 bits: 2^44 positions, half a million classes."""
_POSITIONS: Final = (1 << _SHIFT) - 1
_AT_ONCE: Final = 16
"""Rows in one statement."""
_SCHEMA: Final = """
CREATE TABLE about (lane INTEGER NOT NULL, made_ms INTEGER NOT NULL);
CREATE TABLE classes (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE blocks (key INTEGER PRIMARY KEY, last INTEGER NOT NULL, stored_ms INTEGER NOT NULL, until_ms INTEGER NOT NULL,
  heads BLOB NOT NULL, envelopes BLOB NOT NULL);
"""
_INSERT: Final = [f"INSERT INTO blocks VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * rows)}" for rows in range(_AT_ONCE + 1)]  # noqa: S608  question marks

_Row = tuple[int, int, int, int, bytes, bytes]


class Range(NamedTuple):
    """What a file has of one class."""

    first: int
    last: int
    stored_ms: int
    """The last one."""
    until_ms: int
    """The latest expiry."""


class Segment:
    """Opened once for writing, by one thread; read through connections of its own."""

    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error, ValueError, BackboneError("version")."""
        self.path = path
        self.connection = sqlite_file.connect(path)
        try:
            sqlite_file.check_version(self.connection, path, version=VERSION)
            ((self.lane, self.made_ms),) = self.connection.execute("SELECT lane, made_ms FROM about").fetchall()
            self._numbers = {name: number for number, name in self.connection.execute("SELECT number, name FROM classes")}
            self.ranges = {name: found for name, number in self._numbers.items() if (found := self._range(number)) is not None}
        except BaseException:
            self.connection.close()
            raise
        self.size_bytes = path.stat().st_size

    @classmethod
    def make(cls, path: Path, *, lane: int, made_ms: int) -> Segment:
        sqlite_file.create(path, f"{_SCHEMA} INSERT INTO about VALUES ({lane:d}, {made_ms:d});", version=VERSION)  # noqa: S608  numbers
        return cls(path)

    @property
    def has_wal(self) -> bool:
        """Whether something in it is not yet in the file itself."""
        wal = self.path.with_name(f"{self.path.name}-wal")
        return wal.exists() and wal.stat().st_size > 0

    def ended(self, retention: Retention) -> bool:
        return all(
            retention.ended(name, last=found.last, stored_ms=found.stored_ms, until_ms=found.until_ms)
            for name, found in self.ranges.items()
        )

    # ---- writing ---------------------------------------------------------------------------------------------------------------

    def write(self, blocks: Sequence[Block]) -> dict[str, Range]:
        """All of them, on disk; what it then has of their classes, for `ranges`. Raises sqlite3.Error: none of them."""
        new = {block.class_ for block in blocks} - self._numbers.keys()
        numbers = self._numbers | {name: len(self._numbers) + place for place, name in enumerate(sorted(new))}
        ranges: dict[str, Range] = {}
        rows = [self._row(block, numbers[block.class_], ranges) for block in merged(blocks)]
        if new or len(rows) > _AT_ONCE:
            self._write_several(rows, [(numbers[name], name) for name in sorted(new)])
        else:
            self.connection.execute(_INSERT[len(rows)], [field for row in rows for field in row])
        self._numbers = numbers
        self.size_bytes += sum(sqlite_file.PAGE_BYTES + len(heads) + len(envelopes) for *_, heads, envelopes in rows)
        return ranges

    def _row(self, block: Block, number: int, ranges: dict[str, Range]) -> _Row:
        before = ranges.get(block.class_) or self.ranges.get(block.class_) or Range(block.first, 0, 0, 0)
        until_ms = max(before.until_ms, block.until_ms)
        ranges[block.class_] = Range(before.first, block.last, block.stored_ms, until_ms)
        _, topics, senders, ids, expires, envelopes = zip(*block.entries, strict=True)
        heads = pack([topics, senders, ids, expires])
        return number << _SHIFT | block.first, block.last, block.stored_ms, until_ms, heads, pack(envelopes)

    def _write_several(self, rows: list[_Row], classes: list[tuple[int, str]]) -> None:
        run = self.connection.execute
        run("BEGIN IMMEDIATE")
        try:
            self.connection.executemany("INSERT INTO classes VALUES (?, ?)", classes)
            for start in range(0, len(rows), _AT_ONCE):
                some = rows[start : start + _AT_ONCE]
                run(_INSERT[len(some)], [field for row in some for field in row])
            run("COMMIT")
        except BaseException:
            if self.connection.in_transaction:
                run("ROLLBACK")
            raise

    def _range(self, number: int) -> Range | None:
        low = number << _SHIFT
        keys = (low, low | _POSITIONS)
        first = self.connection.execute("SELECT min(key) FROM blocks WHERE key BETWEEN ? AND ?", keys).fetchone()[0]
        query = "SELECT last, stored_ms, until_ms FROM blocks WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1"
        found = self.connection.execute(query, keys).fetchone()
        return None if found is None else Range(first & _POSITIONS, *found)

    # ---- reading: any thread, with a connection of its own -----------------------------------------------------------------------

    def read(self, reader: sqlite3.Connection, class_: str, position: int) -> list[Block]:
        """The block with this position or the next one, and some that follow."""
        blocks: list[Block] = []
        size = 0
        with closing(self._rows_from(reader, "key, stored_ms, heads, envelopes", class_, position)) as rows:
            for key, stored_ms, heads, envelopes in rows:
                blocks.append(_block(class_, key, stored_ms, heads, _unpack(envelopes)))
                size += len(envelopes)
                if size >= READ_BYTES:
                    break
        return blocks

    def outlines(self, reader: sqlite3.Connection, class_: str, position: int) -> list[Outline]:
        with closing(self._rows_from(reader, "key, heads", class_, position)) as rows:
            found = rows.fetchmany(OUTLINES_AT_ONCE)
        return [
            Outline(key & _POSITIONS, columns[0], columns[3]) for key, columns in ((key, _unpack(heads)) for key, heads in found)
        ]

    def first_at(self, reader: sqlite3.Connection, class_: str, time_ms: int) -> int | None:
        query = "SELECT key FROM blocks WHERE key BETWEEN ? AND ? AND stored_ms >= ? ORDER BY key LIMIT 1"
        found = reader.execute(query, (*self._keys(class_), time_ms)).fetchone()
        return None if found is None else found[0] & _POSITIONS

    def recent(self, reader: sqlite3.Connection, class_: str, *, since_ms: int, most: int) -> list[Block]:
        """Blocks without envelopes, the newest first, of so many records."""
        query = "SELECT key, stored_ms, heads FROM blocks WHERE key BETWEEN ? AND ? ORDER BY key DESC"
        blocks: list[Block] = []
        with closing(reader.execute(query, self._keys(class_))) as rows:
            for key, stored_ms, heads in rows:
                if stored_ms <= since_ms or most <= 0:
                    break
                blocks.append(_block(class_, key, stored_ms, heads, None))
                most -= len(blocks[-1].entries)
        return blocks

    def _keys(self, class_: str) -> tuple[int, int]:
        """The first and the last that rows of this class may have."""
        low = self._numbers[class_] << _SHIFT
        return low, low | _POSITIONS

    def _rows_from(self, reader: sqlite3.Connection, columns: str, class_: str, position: int) -> sqlite3.Cursor:
        low, high = self._keys(class_)
        wanted = low | position
        query = "SELECT key, last FROM blocks WHERE key BETWEEN ? AND ? ORDER BY key DESC LIMIT 1"
        at_or_before = reader.execute(query, (low, wanted)).fetchone()
        start = at_or_before[0] if at_or_before is not None and at_or_before[1] >= position else wanted
        return reader.execute(f"SELECT {columns} FROM blocks WHERE key BETWEEN ? AND ? ORDER BY key", (start, high))  # noqa: S608  ours


def merged(blocks: Sequence[Block]) -> list[Block]:
    """The same in as few blocks as may be: those of a class that follow each other become one, within the limits of a row."""
    found: list[Block] = []
    last: dict[str, Block] = {}
    for block in blocks:
        before = last.get(block.class_)
        if before is not None and _fits(before, block):
            size = before.size_bytes + block.size_bytes
            whole = Block(block.class_, before.first, before.entries + block.entries, block.stored_ms, block.lane, size)
            found[found.index(before)] = last[block.class_] = whole
        else:
            found.append(block)
            last[block.class_] = block
    return found


def _fits(before: Block, block: Block) -> bool:
    follows, records = before.last + 1 == block.first, len(before.entries) + len(block.entries)
    return follows and records <= MAX_BLOCK_RECORDS and before.size_bytes + block.size_bytes <= MAX_BLOCK_BYTES


def _block(class_: str, key: int, stored_ms: int, heads: bytes, envelopes: list[bytes] | None) -> Block:
    topics, senders, ids, expires = _unpack(heads)
    count = len(topics)
    rows = zip([class_] * count, topics, senders, ids, expires, [b""] * count if envelopes is None else envelopes, strict=True)
    return Block(class_, key & _POSITIONS, [*map(Entry._make, rows)], stored_ms)


def _unpack(data: bytes) -> Any:
    try:
        return unpack(data, longest=MAX_BLOCK_RECORDS)
    except RemoteProtocolError as error:
        raise ValueError("a block that nobody wrote") from error
