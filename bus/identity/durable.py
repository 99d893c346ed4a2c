"""Small files that survive: replaced as a whole, 0600, on disk when a call returns, and locked by whoever writes.

A process can be killed at any instant: a file is then the old one or the new one. A lock is a file of its own beside it, because
the file itself is replaced; the kernel gives it back when its holder dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bus.errors import VaultError


def make_folder(folder: Path) -> None:
    """Ours alone. Raises VaultError("disk")."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise disk_error(error, folder) from error


def read(path: Path, *, longest: int) -> bytes | None:
    """None if there is no such file. Raises VaultError: "disk", and "damaged" for one that is longer than it can be."""
    try:
        with path.open("rb") as file:
            data = file.read(longest + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, path) from error
    if len(data) > longest:
        raise VaultError("damaged", f"{path} has more than {longest:,} bytes: restore it from a backup", path=str(path))
    return data


def replace(path: Path, data: bytes, *, mode: int = 0o600, synced: bool = True) -> None:
    """All of it or nothing. Raises VaultError: "disk_full", "disk".

    Not `synced`: what its writer makes again after a loss of power, so that nobody waits for the disk.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                if synced:
                    os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if not synced:
            return
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise disk_error(error, path) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else is in such a block for this path. Leftovers of writers that were killed are removed here."""
    try:
        descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise disk_error(error, path) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for leftover in path.parent.glob(f".{path.name}.*.new"):
            leftover.unlink(missing_ok=True)
        yield
    finally:
        os.close(descriptor)


def disk_error(error: OSError, path: Path) -> VaultError:
    """Our error for the disk's."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return VaultError("disk_full", f"no room to write {path}: free some and do it again; nothing was lost", path=str(path))
    return VaultError("disk", f"cannot use {path}: {error}", path=str(path))
