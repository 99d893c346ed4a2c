"""SQLite files of a journal: opened as we need them, and their errors as ours.

Every file is in WAL mode with synchronous=FULL: a transaction is on the disk when its statement returns. A writer makes do with one
statement where it can: each gives the interpreter's lock away, and beside a busy event loop it comes back only after milliseconds.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bus.errors import BackboneError, StateInUseError

APPLICATION_ID: Final = 0x7470_6D62
"""`tpmb`."""
PAGE_BYTES: Final = 8_192
"""A third less work than with 4 KiB where commits are large, and little more to write where they are small."""
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_BUSY_SECONDS: Final = 5.0


def connect(path: Path, *, exclusive: bool = False, checkpoint_pages: int = 0) -> sqlite3.Connection:
    """`exclusive`: nobody else opens it, so it needs no shared memory. So many pages in its WAL begin a checkpoint; 0: never."""
    name = f"{path.absolute().as_uri()}?mode=rw"  # never makes one
    connection = sqlite3.connect(
        name, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
    )
    try:
        if exclusive:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")  # of a new file
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={checkpoint_pages}")
        connection.execute("PRAGMA temp_store=MEMORY")  # a broker may write into no folder but its own
    except BaseException:
        connection.close()
        raise
    return connection


def create(path: Path, schema: str, *, version: int) -> None:
    """Make a file that is whole or not there."""
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    connection = connect(new)
    try:
        connection.executescript(f"BEGIN; {schema} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={version}; COMMIT;")
    finally:
        connection.close()  # the last one: what is in its WAL goes into the file
    remove(path)  # a WAL that belonged to one that was moved away would be taken for this one's
    new.replace(path)
    sync_folder(path.parent)


def check_version(connection: sqlite3.Connection, path: Path, *, version: int) -> None:
    """Raises BackboneError: "version", "damaged"."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if application != APPLICATION_ID:
        raise damaged(path, "it is no file of a journal")
    if found != version:
        raise BackboneError(
            "version", f"{path} is of version {found}; this program writes {version}: use the one that wrote it", path=str(path)
        )


def remove(path: Path) -> None:
    """The file and what SQLite keeps beside it. Killed in between, what is left belongs to no file."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(path: Path, why: str) -> BackboneError:
    text = f"{path} is damaged ({why}): restore it from a backup, or move it away and start again, without what it holds"
    return BackboneError("damaged", text, path=str(path))


@contextmanager
def faults(path: Path) -> Iterator[None]:
    """Whatever SQLite and the system raise in here, as BackboneError: "disk_full", "disk", "damaged"; StateInUseError."""
    try:
        yield
    except sqlite3.Error as error:
        raise _fault(error, path) from error
    except OSError as error:
        raise (
            _no_room(path) if error.errno in _NO_ROOM else BackboneError("disk", f"cannot use {path}: {error}", path=str(path))
        ) from error
    except ValueError as error:
        raise damaged(path, str(error)) from error


def _fault(error: sqlite3.Error, path: Path) -> BackboneError | StateInUseError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return _no_room(path)
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or isinstance(error, sqlite3.InterfaceError):
        return damaged(path, str(error))
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StateInUseError(0, "", step=f"it has {path} open: try again when it has ended")
    if code in (sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN) and _is_full(path):
        return _no_room(path)
    return BackboneError("disk", f"cannot use {path}: {error}; see that the disk has room and works", path=str(path))


def _no_room(path: Path) -> BackboneError:
    text = f"no room to write {path}: free some; nothing that was stored is lost, and it goes on by itself"
    return BackboneError("disk_full", text, path=str(path))


def _is_full(path: Path) -> bool:
    try:
        return os.statvfs(path.parent).f_bavail == 0
    except OSError:
        return False
