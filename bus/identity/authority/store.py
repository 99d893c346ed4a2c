"""The authority's folder: who may write in it, and how a file in it changes.

    trust/public/    what everybody may read: root.pem crl.pem statement.bin bundle.bin certificates/ inbox/
    trust/private/   protection.json *.key issued.log, and what enrolment keeps

A file is replaced as a whole, so a process can be killed at any instant. One process at a time has the folder; the lock is the
kernel's, which gives it back when a process dies. What is private counts; what is public follows from it and is mended at opening.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bus.errors import StateInUseError
from bus.identity import durable

_PATH: Final = re.compile(r"(public|private)(/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){1,2}", re.ASCII)
_FOLDERS: Final = ("public", "public/certificates", "public/inbox", "private")


class Store:
    """Paths are relative to the folder: `public/crl.pem`. Every failure is a VaultError."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Make the folders, own them, and remove what an interrupted writer left. Raises StateInUseError(pid)."""
        with self.guarded():
            for name in ("", *_FOLDERS):
                place = self.folder / name
                place.mkdir(parents=True, exist_ok=True, mode=0o700)
                if place.stat().st_mode & 0o077:
                    place.chmod(0o700)
            lock = os.open(self.folder / "private" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            self._take(lock)
            self._sweep()
            yield
        finally:
            os.close(lock)

    def path(self, name: str) -> Path:
        """Where a file is. Raises ValueError for names that lead elsewhere: they may hold what a stranger said."""
        if _PATH.fullmatch(name) is None:
            raise ValueError(f"{name!r} is no place in the authority's folder")
        return self.folder / name

    def read(self, name: str) -> bytes | None:
        """What is in the file; None if there is none."""
        with self.guarded():
            try:
                return self.path(name).read_bytes()
            except FileNotFoundError:
                return None

    def write(self, name: str, data: bytes, *, synced: bool = True) -> None:
        """All of it or nothing, and on disk when this returns unless it is something that a restart writes again."""
        durable.replace(self.path(name), data, synced=synced)

    def remove(self, name: str) -> None:
        with self.guarded():
            self.path(name).unlink(missing_ok=True)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """The disk's errors, each as a VaultError that says what to do."""
        try:
            yield
        except OSError as error:
            raise durable.disk_error(error, self.folder) from error

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(lock, 20, 0)
            step = "it has the authority open: try again when it is done"
            raise StateInUseError(int(holder) if holder.isdigit() else 0, "", step=step) from error
        with self.guarded():
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)

    def _sweep(self) -> None:
        with self.guarded():
            for name in _FOLDERS:
                for leftover in (self.folder / name).glob(".*.new"):
                    leftover.unlink(missing_ok=True)
