"""Unix sockets between processes of one machine: who is at the other end, and who may come to this one.

The kernel says whose process the other end is (SO_PEERCRED), and that is all it says: it may restrict what somebody may do,
never stand in for a proof. Judge by the uid; a pid is somebody else's a moment later.

A socket is 0600 in a folder that is 0700 and its owner's. Where others may come, one group is let in (0660 in 0710) and
nobody beside it. It is bound before it listens, so no permission is ever too wide, not even for a moment. A lock file beside
the socket says who serves there; the kernel gives the lock back when a process dies, so its holder may remove the socket
file that a dead one left, and nobody ever removes that of a live one.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import select
import socket
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import anyio.to_thread

from bus.errors import ConnectError, ConnectionLostError, StateInUseError

MAX_PATH_BYTES: Final = 107
"""sun_path has 108 bytes, and the last one is its end."""
BACKLOG: Final = 4_096
"""Callers that the kernel keeps in line; net.core.somaxconn may lower it."""
CONNECT_SECONDS: Final = 5.0
_FULL_LINE_PAUSE_SECONDS: Final = 0.01
_NO_DESCRIPTORS_PAUSE_SECONDS: Final = 0.05
_CREDENTIALS: Final = struct.Struct("iII")
_GONE: Final = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)


@dataclass(frozen=True, slots=True)
class PeerCredentials:
    """Whose process is at the other end, as the kernel saw it when the connection was made."""

    pid: int
    uid: int
    gid: int


class UnixStream:
    """One connection. One task may receive and one may send at a time; `send_nowait` never waits."""

    def __init__(self, connected: socket.socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self.peer = credentials(connected)

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        """What has come, at least a byte; b"" when the other end has said that it sends no more. Raises ConnectionLostError."""
        try:
            data = self._socket.recv(max_bytes)
        except BlockingIOError:
            pass
        except OSError as error:
            raise _lost(error) from error
        else:
            await anyio.lowlevel.checkpoint()  # one that always has something to say must not keep the loop for itself
            return data
        while True:
            try:
                await anyio.wait_readable(self._socket)
                return self._socket.recv(max_bytes)
            except BlockingIOError:
                continue
            except (OSError, anyio.ClosedResourceError) as error:
                raise _lost(error) from error

    async def send(self, data: bytes | memoryview) -> None:
        """All of it. If it is cancelled, some of it may be sent: close the stream then. Raises ConnectionLostError."""
        left = memoryview(data)
        while left:
            sent = self.send_nowait(left)
            left = left[sent:]
            if left:
                try:
                    await anyio.wait_writable(self._socket)
                except (OSError, anyio.ClosedResourceError) as error:
                    raise _lost(error) from error

    def send_nowait(self, data: bytes | memoryview) -> int:
        """As much as the kernel takes at once: how many bytes that were. Raises ConnectionLostError."""
        try:
            return self._socket.send(data, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise _lost(error) from error

    def is_gone(self) -> bool:
        """The other end is closed altogether, and not just done with sending."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return any(events & (select.POLLHUP | select.POLLERR | select.POLLNVAL) for _, events in poll.poll(0))

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            anyio.notify_closing(self._socket)
            self._socket.close()


async def connect(path: Path, *, timeout_seconds: float = CONNECT_SECONDS) -> UnixStream:
    """Reach the process that listens there. Raises ConnectError."""
    return UnixStream(await connect_socket(path, timeout_seconds=timeout_seconds))


async def connect_socket(path: Path, *, timeout_seconds: float = CONNECT_SECONDS) -> socket.socket:
    """The same, as the bare socket, which does not block."""
    _check_length(path)
    client = socket.socket(socket.AF_UNIX)
    try:
        client.setblocking(False)
        with anyio.fail_after(timeout_seconds):
            while True:
                try:
                    client.connect(os.fspath(path))
                except BlockingIOError:  # more wait in line than the kernel keeps; nothing tells when that changes
                    await anyio.sleep(_FULL_LINE_PAUSE_SECONDS)
                else:
                    return client
    except BaseException as error:
        client.close()
        if isinstance(error, TimeoutError):
            raise ConnectError(f"{path} lets nobody in: it is busy with others") from error
        if isinstance(error, OSError):
            raise ConnectError(f"cannot reach {path}: {_why_not(error)}") from error
        raise


async def accept_socket(listener: socket.socket) -> socket.socket:
    """The next caller of a listening socket of any kind. Raises ConnectionLostError when it is closed."""
    while True:
        try:
            accepted, _ = listener.accept()
        except BlockingIOError:
            try:
                await anyio.wait_readable(listener)
            except (OSError, anyio.ClosedResourceError) as error:
                raise _lost(error) from error
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                await anyio.sleep(_NO_DESCRIPTORS_PAUSE_SECONDS)  # the caller waits in line until somebody leaves
            elif error.errno != errno.ECONNABORTED:
                raise _lost(error) from error
        else:
            accepted.setblocking(False)
            return accepted


class UnixListener:
    """A socket that others may connect to. Made by `listening`."""

    def __init__(self, path: Path, listener: socket.socket, lock: int) -> None:
        self.path, self.socket, self._lock = path, listener, lock
        self._inode = path.lstat().st_ino

    async def accept(self) -> UnixStream:
        """The next caller. Raises ConnectionLostError when the listener is closed."""
        return UnixStream(await accept_socket(self.socket))

    async def aclose(self) -> None:
        """Nobody can come any more. The file goes first, so that nobody finds a socket that does not answer."""
        if self.socket.fileno() >= 0:
            await anyio.to_thread.run_sync(self._unlink)
            anyio.notify_closing(self.socket)
            self.socket.close()
            os.close(self._lock)

    def _unlink(self) -> None:
        with suppress(OSError):
            if self.path.lstat().st_ino == self._inode:
                self.path.unlink()


@asynccontextmanager
async def listening(path: Path, *, group: str | int | None = None) -> AsyncIterator[UnixListener]:
    """Listen at a path, for its owner alone or also for a group.

    Raises StateInUseError if a live process serves there, ConnectError if the place is not fit for it.
    """
    listener = await anyio.to_thread.run_sync(lambda: listen(path, group=group))
    try:
        yield listener
    finally:
        with anyio.CancelScope(shield=True):
            await listener.aclose()


def listen(path: Path, *, group: str | int | None = None) -> UnixListener:
    """The same, blocking; for programs before they have a loop."""
    _check_length(path)
    gid = _group_id(group)
    try:
        _prepare_folder(path.parent, gid)
        lock = _take_lock(path)
        try:
            _remove_leftover(path)
            return UnixListener(path, _bind(path, gid), lock)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise ConnectError(f"cannot listen at {path}: {error.strerror or error}") from error


def _bind(path: Path, gid: int | None) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.setblocking(False)
        listener.bind(os.fspath(path))
        if gid is not None:
            os.chown(path, -1, gid)
        path.chmod(0o600 if gid is None else 0o660)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


def _prepare_folder(folder: Path, gid: int | None) -> None:
    """Make the folder, or make sure that nobody else can put another socket into it."""
    mode = 0o700 if gid is None else 0o710
    if not folder.exists():
        folder.mkdir(parents=True, mode=0o700)
        if gid is not None:
            os.chown(folder, -1, gid)
            folder.chmod(mode)
    status = folder.stat()
    if status.st_uid not in (os.geteuid(), 0):
        raise ConnectError(
            f"{folder} belongs to somebody else (uid {status.st_uid}), who could replace a socket in it: use another"
        )
    too_wide = stat.S_IMODE(status.st_mode) & 0o077 & ~mode
    if too_wide or (status.st_mode & 0o010 and status.st_gid != gid):
        advice = f"chmod {mode:o} {folder}" if gid is None else f"chgrp {gid} {folder} && chmod {mode:o} {folder}"
        raise ConnectError(f"others can get into {folder}: `{advice}`, or use another folder")


def _take_lock(path: Path) -> int:
    lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(lock, 32, 0).strip()
        os.close(lock)
        raise StateInUseError(int(holder) if holder.isdigit() else 0, f"unix://{path}") from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
    return lock


def _remove_leftover(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConnectError(f"{path} is there already, and it is no socket: remove it, or use another path")
    path.unlink()


def _group_id(group: str | int | None) -> int | None:
    if group is None or isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConnectError(f"there is no group {group!r} here: `groupadd {group}`, or name another one") from None


def _check_length(path: Path) -> None:
    length = len(os.fsencode(path))
    if length > MAX_PATH_BYTES:
        raise ConnectError(
            f"{path} has {length} bytes, a Unix socket's path at most {MAX_PATH_BYTES}: use a folder nearer to the root"
        )


def credentials(connected: socket.socket) -> PeerCredentials:
    """Whose process is at the other end of a connection."""
    return PeerCredentials(*_CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)))


def _why_not(error: OSError) -> str:
    reasons = {
        errno.ENOENT: "nothing listens there",
        errno.ECONNREFUSED: "the process that listened there is gone",
        errno.EACCES: "this user may not",
        errno.ENOTSOCK: "it is no socket",
    }
    return reasons.get(error.errno or 0, error.strerror or str(error))


def _lost(error: Exception) -> ConnectionLostError:
    if isinstance(error, anyio.ClosedResourceError) or getattr(error, "errno", None) in _GONE:
        return ConnectionLostError("the other process closed the connection")
    return ConnectionLostError(f"the connection broke: {error}")
