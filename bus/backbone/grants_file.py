"""A journal's file of grants, and of papers: what readers of kept messages may ask for, until its time is over.

Written by the journal's writing thread, read through a connection of its own.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bus.backbone import sqlite_file
from bus.backbone.interface import Grant, Papers

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
            sqlite_file.create(path, _SCHEMA, version=VERSION)
        self._writer = sqlite_file.connect(path, checkpoint_pages=_CHECKPOINT_PAGES)
        try:
            sqlite_file.check_version(self._writer, path, version=VERSION)
            self._reader = sqlite_file.connect(path)
        except BaseException:
            self._writer.close()
            raise

    def kept(self) -> dict[str, int]:
        """How much there is of each sender."""
        query = "SELECT sender, count(*) FROM (SELECT sender FROM grants UNION ALL SELECT sender FROM papers) GROUP BY sender"
        return dict(self._reader.execute(query).fetchall())

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
