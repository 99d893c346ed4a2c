"""A journal's small file: consumers, retention classes, the list of dead letters. Used by one thread, and by nobody else."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from bus.backbone import sqlite_file
from bus.backbone.interface import ConsumerName, DeadLetter, RetentionClass
from bus.backbone.storage import Changes, ConsumerRow

VERSION: Final = 1
_CHECKPOINT_PAGES: Final = 2_000
"""The same few pages over and over: a checkpoint writes each of them once."""
_SCHEMA: Final = """
CREATE TABLE consumers (owner TEXT, name TEXT, class TEXT NOT NULL, pattern TEXT NOT NULL, start TEXT NOT NULL,
  made_ms INTEGER NOT NULL, used_ms INTEGER NOT NULL, cursor INTEGER NOT NULL, state BLOB NOT NULL,
  PRIMARY KEY (owner, name)) WITHOUT ROWID;
CREATE TABLE classes (name TEXT PRIMARY KEY, retention_ms INTEGER NOT NULL, ack_wait_ms INTEGER NOT NULL,
  max_deliver INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE heads (class TEXT PRIMARY KEY, head INTEGER NOT NULL, stored_ms INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE dead (class TEXT, position INTEGER, topic TEXT NOT NULL, sender TEXT NOT NULL, id BLOB NOT NULL, owner TEXT NOT NULL,
  name TEXT NOT NULL, original INTEGER NOT NULL, reason TEXT NOT NULL, deliveries INTEGER NOT NULL, died_ms INTEGER NOT NULL,
  PRIMARY KEY (class, position)) WITHOUT ROWID;
"""
_TABLES: Final = {"consumers": 9, "classes": 4, "heads": 3, "dead": 11}
"""And how many columns they have."""
_AT_ONCE: Final = 64

_Statement = tuple[str, Sequence[Any]]


class StateFile:
    def __init__(self, path: Path) -> None:
        """Raises sqlite3.Error, OSError, BackboneError("version", "damaged")."""
        self.path = path
        if not path.exists():
            sqlite_file.create(path, _SCHEMA, version=VERSION)
        self._connection = sqlite_file.connect(path, exclusive=True, checkpoint_pages=_CHECKPOINT_PAGES)
        try:
            sqlite_file.check_version(self._connection, path, version=VERSION)
        except BaseException:
            self._connection.close()
            raise

    def consumers(self) -> list[ConsumerRow]:
        rows = self._connection.execute("SELECT * FROM consumers").fetchall()
        return [ConsumerRow(ConsumerName(owner, name), *rest) for owner, name, *rest in rows]

    def classes(self) -> list[RetentionClass]:
        return [RetentionClass(*row) for row in self._connection.execute("SELECT * FROM classes").fetchall()]

    def heads(self) -> dict[str, tuple[int, int]]:
        """Of classes of which something was dropped: where they were then."""
        return {name: (head, stored_ms) for name, head, stored_ms in self._connection.execute("SELECT * FROM heads").fetchall()}

    def dead(self) -> list[DeadLetter]:
        rows = self._connection.execute("SELECT * FROM dead").fetchall()
        return [DeadLetter._make((*row[:5], ConsumerName(row[5], row[6]), *row[7:])) for row in rows]

    def write(self, changes: Iterable[Changes]) -> None:
        """All of them or none, on disk. Raises sqlite3.Error."""
        self._run([statement for one in changes for statement in _statements(one)])

    def write_heads(self, heads: dict[str, tuple[int, int]]) -> None:
        self._run(_put("heads", [(name, *head) for name, head in heads.items()]))

    def close(self) -> None:
        self._connection.close()

    def _run(self, statements: Sequence[_Statement]) -> None:
        run = self._connection.execute
        if len(statements) == 1:
            run(*statements[0])
            return
        run("BEGIN")
        try:
            for sql, values in statements:
                run(sql, values)
            run("COMMIT")
        except sqlite3.Error:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise


def _statements(changes: Changes) -> list[_Statement]:
    rows = [(*row.name, *row[1:]) for row in changes.consumers.values() if row is not None]
    statements = _put("consumers", rows)
    statements += _put(
        "classes", [(one.name, one.retention_ms, one.ack_wait_ms, one.max_deliver) for one in changes.classes.values()]
    )
    statements += _put("dead", [(*one[:5], *one.consumer, *one[6:]) for one in changes.dead])
    removed = [name for name, row in changes.consumers.items() if row is None]
    statements += [("DELETE FROM consumers WHERE owner = ? AND name = ?", name) for name in removed]
    statements += [("DELETE FROM dead WHERE class = ? AND position = ?", place) for place in changes.undead]
    return statements


def _put(table: str, rows: Sequence[Sequence[Any]]) -> list[_Statement]:
    """As few statements as may be, each of a length that was seen before."""
    one = f"({', '.join(['?'] * _TABLES[table])})"
    statements: list[_Statement] = []
    while rows:
        some, rows = rows[:_AT_ONCE], rows[_AT_ONCE:]
        values = ", ".join([one] * len(some))
        statements.append((f"INSERT OR REPLACE INTO {table} VALUES {values}", [field for row in some for field in row]))  # noqa: S608  ours
    return statements
