"""The state folder and the runtime folder: where they are, whose they are, and who has them locked.

state/      swtpm/ vault/ ..      what must survive; 0700; `--state`, TPMBUS_STATE, else the user's XDG state folder
runtime/    bus.sock admin.sock ..   sockets; short, because a Unix socket's path has 108 bytes; linked from the state folder
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bus.errors import ConnectError, StateInUseError

_LOCK_TRIES = 20
_LOCK_PAUSE_SECONDS = 0.005


@dataclass(frozen=True, slots=True)
class State:
    """One state folder, made if it was not there, and the places inside it."""

    folder: Path
    runtime: Path

    @property
    def swtpm(self) -> Path:
        return self.folder / "swtpm"

    @property
    def vault(self) -> Path:
        return self.folder / "vault"

    @property
    def trust(self) -> Path:
        return self.folder / "trust"

    @property
    def inbox(self) -> Path:
        return self.folder / "inbox"

    @property
    def cosign(self) -> Path:
        """Agents' ML-DSA keys, sealed."""
        return self.folder / "cosign"

    @property
    def journal(self) -> Path:
        return self.folder / "journal"

    @property
    def ledger(self) -> Path:
        return self.folder / "ledger"

    @property
    def tls(self) -> Path:
        """What agents of this machine show over TLS."""
        return self.folder / "tls"

    @property
    def broker(self) -> Path:
        """The broker's own key; nothing else that is secret is for its process."""
        return self.folder / "broker"

    @property
    def tpm_socket(self) -> Path:
        return self.runtime / "tpm.sock"

    @property
    def admin_socket(self) -> Path:
        return self.runtime / "admin.sock"

    @property
    def bus_socket(self) -> Path:
        """In a folder that holds nothing but sockets of the broker, which may write there."""
        return self.runtime / "broker" / "bus.sock"

    @property
    def broker_desk(self) -> Path:
        """Where a broker in a process of its own hears from its supervisor."""
        return self.runtime / "broker" / "desk.sock"

    @property
    def swtpm_socket(self) -> Path:
        return self.runtime / "swtpm.sock"

    @property
    def tpm_lock(self) -> Path:
        return self.folder / "tpm.lock"

    @property
    def hub_lock(self) -> Path:
        return self.folder / "hub.lock"


def open_state(folder: Path | None = None, *, environ: Mapping[str, str] | None = None) -> State:
    """The state folder that is meant. Raises ConnectError if its place cannot be ours alone."""
    environ = os.environ if environ is None else environ
    chosen = folder or folder_from(environ)
    state = chosen.expanduser().absolute()
    try:
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConnectError(f"{state} cannot be the state folder: {error}; choose another with --state or TPMBUS_STATE") from error
    status = state.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        reason = "belongs to somebody else" if status.st_uid != os.getuid() else "can be written by others"
        raise ConnectError(f"{state} {reason}: whoever writes there decides what we do; choose another folder, or `chmod go-w` it")
    runtime = _runtime_root(environ) / hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:8]
    _own(runtime)
    link = state / "run"
    if not link.is_symlink() or link.readlink() != runtime:
        with suppress(FileNotFoundError):
            link.unlink()
        with suppress(FileExistsError):  # another process was quicker
            link.symlink_to(runtime)
    return State(state, runtime)


def bus_url(state: State) -> str:
    """Where the hub of a state folder always listens, for whoever has that folder."""
    return f"unix://{state.bus_socket}"


def open_log(file: Path) -> BinaryIO:
    """What a process of ours says, to be added to: for its owner alone, whatever it was. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    log = os.fdopen(os.open(file, flags, 0o600), "ab")
    os.fchmod(log.fileno(), 0o600)
    return log


@contextmanager
def owned(lock: Path, **facts: str) -> Iterator[None]:
    """Own what this lock file stands for, until the end of the block or of the process. Raises StateInUseError(pid, url).

    `facts` are for whoever comes second; `url` among them says where to reach us.
    """
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        if not _lock(descriptor):
            holder = _read_holder(descriptor)
            raise StateInUseError(int(holder.get("pid", 0)), str(holder.get("url", facts.get("url", ""))))
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps({"pid": os.getpid(), **facts}).encode(), 0)
        yield
        os.ftruncate(descriptor, 0)  # so that nobody takes us for the next holder, who has not yet said who it is
    finally:
        os.close(descriptor)


def holder_of(lock: Path) -> dict[str, Any] | None:
    """Who owns it, in their own words; None if nobody does."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whoever only looks who the holder is (`holder_of`) has the lock for an instant: so more than one try."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if _read_holder(descriptor)["pid"]:
                return False
            time.sleep(_LOCK_PAUSE_SECONDS)
        else:
            return True
    return False


def _read_holder(descriptor: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:  # it has just taken the lock, and not said who it is
        return {"pid": 0}
    return holder if isinstance(holder, dict) and isinstance(holder.get("pid"), int) else {"pid": 0}


def folder_from(environ: Mapping[str, str]) -> Path:
    """Where the state folder is, if nothing else is said. Nothing is made."""
    if environ.get("TPMBUS_STATE"):
        return Path(environ["TPMBUS_STATE"])
    return Path(environ.get("XDG_STATE_HOME") or "~/.local/state") / "tpmbus"


def _runtime_root(environ: Mapping[str, str]) -> Path:
    given = environ.get("XDG_RUNTIME_DIR")
    if given and Path(given).is_dir() and len(os.fsencode(given)) < 60:
        return Path(given) / "tpmbus"
    return Path(tempfile.gettempdir() if len(tempfile.gettempdir()) < 60 else "/tmp") / f"tpmbus-{os.getuid()}"  # noqa: S108  checked by `_own`


def _own(folder: Path) -> None:
    """Make the folder and its parent ours alone: in a shared place somebody else may have put one there first."""
    for place in (folder.parent, folder):
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        status = place.lstat()
        if place.is_symlink() or status.st_uid != os.getuid():
            raise ConnectError(f"{place} belongs to somebody else: remove it, or set XDG_RUNTIME_DIR to a folder of your own")
        if status.st_mode & 0o077:
            place.chmod(0o700)
