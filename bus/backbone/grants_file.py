"""A journal's file of grants, and of papers: what readers of kept messages may ask for, until its time is over.

Written by the journal's writing thread, read through a connection of its own. What there is of each sender is counted by the file
itself, as it comes and goes: to add it up would mean to read all of it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bus.backbone import sqlite_file
from bus.backbone.interface import Grant, Papers
from bus.backbone.storage import KEPT_PIECE_BYTES

VERSION: Final = 1
_CHECKPOINT_PAGES: Final = 2_000
_SCHEMA: Final = """
CREATE TABLE grants (number INTEGER PRIMARY KEY, epoch BLOB NOT NULL, reader TEXT NOT NULL, sender TEXT NOT NULL, ref BLOB NOT NULL,
  until_ms INTEGER NOT NULL, envelope BLOB NOT NULL, UNIQUE (epoch, reader, sender, ref));
CREATE INDEX grants_until ON grants (until_ms);
CREATE INDEX grants_sender ON grants (sender);
CREATE TABLE papers (session BLOB PRIMARY KEY, sender TEXT NOT NULL, until_ms INTEGER NOT NULL, papers BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX papers_until ON papers (until_ms);
CREATE INDEX papers_sender ON papers (sender);
"""
_PLACES: Final = f"1 + length({{}}) / {KEPT_PIECE_BYTES}"
"""As `storage.places` counts."""
_COUNT: Final = "INSERT INTO kept VALUES ({row}.sender, {places}) ON CONFLICT DO UPDATE SET places = places + excluded.places;"


def _counting(table: str, data: str) -> str:
    came = _COUNT.format(row="new", places=_PLACES.format(f"new.{data}"))
    went = _COUNT.format(row="old", places="-(" + _PLACES.format(f"old.{data}") + ")")
    return f"""
CREATE TRIGGER {table}_came AFTER INSERT ON {table} BEGIN {came} END;
CREATE TRIGGER {table}_went AFTER DELETE ON {table} BEGIN {went} END;
CREATE TRIGGER {table}_changed AFTER UPDATE OF {data} ON {table} BEGIN {went} {came} END;
INSERT INTO kept SELECT sender, sum({_PLACES.format(data)}) FROM {table} WHERE true GROUP BY sender
  ON CONFLICT DO UPDATE SET places = places + excluded.places;
"""  # noqa: S608  ours


_KEPT: Final = f"""
CREATE TABLE kept (sender TEXT PRIMARY KEY, places INTEGER NOT NULL) WITHOUT ROWID;
{_counting("grants", "envelope")}{_counting("papers", "papers")}
"""
_GRANT: Final = """
INSERT INTO grants (epoch, reader, sender, ref, until_ms, envelope) VALUES (?, ?, ?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET until_ms = excluded.until_ms, envelope = excluded.envelope WHERE excluded.until_ms > until_ms
"""
_PAPERS: Final = """
INSERT INTO papers VALUES (?, ?, ?, ?)
  ON CONFLICT DO UPDATE SET until_ms = max(until_ms, excluded.until_ms)
"""


class GrantsFile:
    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error, OSError, BackboneError("version", "damaged")."""
        self.path = path
        if not path.exists():
            sqlite_file.create(path, _SCHEMA + _KEPT, version=VERSION)
        self._writer = sqlite_file.connect(path, checkpoint_pages=_CHECKPOINT_PAGES)
        try:
            sqlite_file.check_version(self._writer, path, version=VERSION)
            if not self._writer.execute("SELECT 1 FROM sqlite_schema WHERE name = 'kept'").fetchone():
                self._writer.executescript(f"BEGIN; {_KEPT} COMMIT;")  # it was made before they were counted
            self._reader = sqlite_file.connect(path)
        except BaseException:
            self._writer.close()
            raise

    def kept(self) -> dict[str, int]:
        """What the grants and papers of each sender are charged with."""
        return dict(self._reader.execute("SELECT sender, places FROM kept WHERE places > 0").fetchall())

    def write(self, grants: Sequence[Grant], papers: Sequence[Papers]) -> None:
        """All of them or none, on disk. Raises sqlite3.Error."""
        self._writer.execute("BEGIN")
        try:
            self._writer.executemany(_GRANT, grants)
            self._writer.executemany(_PAPERS, papers)
            self._writer.execute("COMMIT")
        except sqlite3.Error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            raise

    def drop(self, passed_ms: int) -> None:
        self._writer.execute("DELETE FROM grants WHERE until_ms <= ?", (passed_ms,))
        self._writer.execute("DELETE FROM papers WHERE until_ms <= ?", (passed_ms,))

    def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        query = "SELECT envelope FROM grants WHERE epoch = ? AND reader = ? ORDER BY number"
        return [envelope for (envelope,) in self._reader.execute(query, (epoch, reader)).fetchall()]

    def papers_for(self, session: bytes) -> bytes | None:
        found = self._reader.execute("SELECT papers FROM papers WHERE session = ?", (session,)).fetchone()
        return None if found is None else found[0]

    def close(self) -> None:
        self._reader.close()
        self._writer.close()
