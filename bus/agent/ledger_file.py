"""Ledgers on disk: STATE/ledger/NAME.sqlite3, one file an agent, in it the runs of all its durable subscriptions.

A commit is synced before it returns. A file that is damaged is an error: to begin anew would hand every message out a second time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from anyio import CapacityLimiter, to_thread

from bus.errors import VaultError
from bus.flow.ledger import Changes, Ledger, Row

VERSION: Final = 1
COMPANY_SECONDS: Final = 0.01
"""A commit is half a millisecond's work and a wait for the disk: a hundred a second are enough."""
_TABLE: Final = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT NOT NULL, epoch BLOB NOT NULL, start INTEGER NOT NULL, stop INTEGER NOT NULL, until_ms INTEGER NOT NULL,
    PRIMARY KEY (name, epoch, start)
) WITHOUT ROWID
"""


class LedgerFiles:
    """In one folder, made if it is not there. For one event loop; the disk is another thread's business."""

    def __init__(self, folder: Path, *, company_seconds: float = COMPANY_SECONDS) -> None:
        self._folder, self.company_seconds = folder, company_seconds
        self._files: dict[str, sqlite3.Connection] = {}
        self._disk = CapacityLimiter(1)  # a connection that is closed while another thread works with it takes the process along

    async def load(self, agent: str, name: str) -> Ledger:
        return await to_thread.run_sync(self._load, agent, name, limiter=self._disk)

    async def write(self, changes: Iterable[tuple[str, str, Changes]]) -> None:
        await to_thread.run_sync(self._write, list(changes), limiter=self._disk)

    async def aclose(self) -> None:
        files, self._files = self._files, {}
        for file in files.values():
            await to_thread.run_sync(file.close, limiter=self._disk)

    # ---- in the thread -------------------------------------------------------------------------------------------------------

    def _load(self, agent: str, name: str) -> Ledger:
        path = self._path(agent)
        with _mapped(path):
            found = self._file(agent).execute("SELECT epoch, start, stop, until_ms FROM runs WHERE name = ?", (name,)).fetchall()
        try:
            return Ledger.load(Row(*row) for row in found)
        except (ValueError, TypeError) as error:
            raise VaultError("damaged", f"{path} holds what no ledger wrote ({error}): restore it", path=str(path)) from error

    def _write(self, changes: list[tuple[str, str, Changes]]) -> None:
        for agent in dict.fromkeys(agent for agent, _, _ in changes):
            with _mapped(self._path(agent)):
                file = self._file(agent)
                with file:
                    file.execute("BEGIN IMMEDIATE")
                    for _, name, one in (change for change in changes if change[0] == agent):
                        _apply(file, name, one)

    def _file(self, agent: str) -> sqlite3.Connection:
        file = self._files.get(agent)
        if file is None:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._path(agent)
            path.touch(mode=0o600)
            file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                file.execute("PRAGMA journal_mode = WAL")
                file.execute("PRAGMA synchronous = FULL")
                (version,) = file.execute("PRAGMA user_version").fetchone()
                _check_version(version, path)
                file.execute(_TABLE)
                file.execute(f"PRAGMA user_version = {VERSION}")
            except BaseException:
                file.close()
                raise
            self._files[agent] = file
        return file

    def _path(self, agent: str) -> Path:
        return self._folder / f"{agent}.sqlite3"


class LedgersInMemory:
    """The same without a disk, for tests. They live as long as this."""

    company_seconds = 0.0

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], dict[tuple[bytes, int], Row]] = {}

    async def load(self, agent: str, name: str) -> Ledger:
        return Ledger.load(self._rows.get((agent, name), {}).values())

    async def write(self, changes: Iterable[tuple[str, str, Changes]]) -> None:
        for agent, name, one in changes:
            rows = self._rows.setdefault((agent, name), {})
            for key in [key for key in rows if key[0] in one.forget]:
                del rows[key]
            for gone in one.drop:
                rows.pop(gone, None)
            rows.update({(row.epoch, row.start): row for row in one.put})


def _check_version(version: int, path: Path) -> None:
    if version not in (0, VERSION):
        text = f"{path} was written by another version of tpmbus ({version}): update this one"
        raise VaultError("version", text, path=str(path))


def _apply(file: sqlite3.Connection, name: str, changes: Changes) -> None:
    """A statement that changes nothing costs as much as one that does."""
    if changes.forget:
        file.executemany("DELETE FROM runs WHERE name = ? AND epoch = ?", [(name, epoch) for epoch in changes.forget])
    if changes.drop:
        file.executemany("DELETE FROM runs WHERE name = ? AND epoch = ? AND start = ?", [(name, *gone) for gone in changes.drop])
    if changes.put:
        file.executemany("INSERT OR REPLACE INTO runs VALUES (?, ?, ?, ?, ?)", [(name, *row) for row in changes.put])


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    """SQLite's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        full = getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
        text = f"{path}: {error}" + ("; make room on this disk" if full else "")
        raise VaultError("disk_full" if full else "disk", text, path=str(path)) from error
    except sqlite3.DatabaseError as error:
        raise VaultError("damaged", f"{path} is no ledger ({error}): restore it from a backup", path=str(path)) from error
    except OSError as error:
        raise VaultError("disk", f"{path}: {error.strerror or error}", path=str(path)) from error
