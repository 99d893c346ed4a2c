"""Where wrapped keys are kept: standard key files, and an index that says which of them count.

    index.json          every key, its suite, origin, generations and the digests of its files
    NAME.GEN.pem        the wrapped key: TSS2 PRIVATE KEY (any TPM tool takes it), or ENCRYPTED PRIVATE KEY of the software keystore
    NAME.GEN.pub        its public area as the TPM marshals it (software: SubjectPublicKeyInfo)
    secret              32 bytes; the keys' auth values are derived from it

Both are there from the first moment: if one is gone, something was lost, and nothing is made or swept away in its place.
Key files are written once and never changed; the index is replaced as a whole, and that is the moment at which a key exists.
So a process can be killed at any instant: what it left behind without an index entry counts for nothing, and is set aside later.
Writers exclude each other by `flock`, which the kernel gives back when a process dies.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import threading
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from bus.errors import TpmRefusedError, VaultError
from bus.protocol import contexts
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.interface import ORIGINS, KeyInfo, WrappedKey

VERSION: Final = 2
VERSION_WITHOUT_TPMS: Final = 1
"""How an index was written before keys said which TPM they are in, and still is where none does."""
MAX_FILE_BYTES: Final = 64 << 20
"""An index of a hundred thousand keys. Whoever reads may be more than who writes: the hub looks into its broker's vault."""
KEY_FILE: Final = re.compile(r"([A-Z][A-Z0-9]{0,31}|attestation)\.([1-9][0-9]{0,8})\.(pem|pub)")
_LEFTOVER: Final = re.compile(rf"\.(?:{KEY_FILE.pattern}|index\.json|secret)\.[0-9a-f]{{8}}\.new")
"""What an interrupted writer of this vault left. Others' are no business of it: they may be writing now."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the index: what everybody may know of a key, and what its files must be."""

    info: KeyInfo
    parent: bytes
    """The Name of the primary key that it is wrapped under; empty for the software keystore."""
    pem_sha256: bytes
    public_sha256: bytes
    tpm: str = ""
    """What the TPM was called when the key was made there: for people, and while it is away. What it is wrapped under decides."""


class Vault(Protocol):
    """What an engine needs of the place that keeps its keys."""

    def entries(self) -> list[Entry]: ...

    def find(self, key: str) -> Entry:
        """The entry of NAME (its current generation) or NAME.GENERATION. Raises TpmRefusedError("unknown_key")."""

    def read(self, entry: Entry) -> WrappedKey: ...

    def add(self, entry: Entry, key: WrappedKey, *, retired: Iterable[Entry] = ()) -> None:
        """Keep a new key, and replace the entries of older generations, in one step. Call it within `writing`."""

    def update(self, changed: Iterable[Entry]) -> None: ...

    def writing(self) -> Any:
        """A context in which nobody else writes."""

    def auth(self, info: KeyInfo) -> bytes: ...


def by_key(entries: Iterable[Entry]) -> dict[str, Entry]:
    """What a key may be called: NAME (its current generation) or NAME.GENERATION."""
    table = {}
    for entry in entries:
        table[entry.info.id] = entry
        if entry.info.ends_ms is None:
            table[entry.info.name] = entry
    return table


def find(table: Mapping[str, Entry], key: str) -> Entry:
    """The entry of a key. Raises TpmRefusedError("unknown_key")."""
    try:
        return table[key]
    except KeyError:
        text = f"the vault has no key {key}: `tpmbus keys list` shows what it has, `tpmbus provision` makes it"
        raise TpmRefusedError("unknown_key", text) from None


def new_entry(info: KeyInfo, key: WrappedKey, *, parent: bytes, tpm: str = "") -> Entry:
    return Entry(info, parent, hashlib.sha256(key.pem).digest(), hashlib.sha256(key.public).digest(), tpm)


def derive_auth(secret: bytes, info: KeyInfo) -> bytes:
    """32 characters, so that tools which take a passphrase take it too; never empty, never with zeros at its end."""
    raw = HKDFExpand(SHA256(), 24, contexts.KEY_AUTH + b"\0" + info.id.encode()).derive(secret)
    return urlsafe_b64encode(raw)


class MemoryVault:
    """The same without a disk, for tests and for programs that keep nothing."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._keys_by_name: dict[str, Entry] = {}
        self._keys: dict[str, WrappedKey] = {}
        self._secret = secrets.token_bytes(32)
        self._lock = threading.RLock()

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def find(self, key: str) -> Entry:
        return find(self._keys_by_name, key)

    def read(self, entry: Entry) -> WrappedKey:
        return self._keys[entry.info.id]

    def add(self, entry: Entry, key: WrappedKey, *, retired: Iterable[Entry] = ()) -> None:
        self._keys[entry.info.id] = key
        self.update([*retired, entry])

    def update(self, changed: Iterable[Entry]) -> None:
        self._entries = self._entries | {entry.info.id: entry for entry in changed}
        self._keys_by_name = by_key(self._entries.values())

    @contextmanager
    def writing(self) -> Iterator[None]:
        with self._lock:
            yield

    def auth(self, info: KeyInfo) -> bytes:
        return derive_auth(self._secret, info)


@dataclass(frozen=True, slots=True)
class _Index:
    """The index as it was read last: replaced as a whole, so that threads need no lock to read."""

    seen: tuple[int, int, int] | None = None
    """Which file that was."""
    entries: Mapping[str, Entry] = field(default_factory=dict)
    by_key: Mapping[str, Entry] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Mapping[str, Entry], *, seen: tuple[int, int, int] | None) -> _Index:
        return cls(seen, entries, by_key(entries.values()))


class FolderVault:
    """The vault of a state folder. Any number of processes and threads may read it; one writes at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read_last = _Index()
        self._lines: dict[str, tuple[Entry, str]] = {}
        """What was written of each entry last: of many keys, one changes at a time."""
        self._index = folder / "index.json"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_mode & 0o077:
                folder.chmod(0o700)
            with self.writing():
                self._begin()
                self._sweep()
        except OSError as error:
            raise _disk(error, folder) from error

    def entries(self) -> list[Entry]:
        return list(self._refresh().entries.values())

    def find(self, key: str) -> Entry:
        return find(self._refresh().by_key, key)

    def read(self, entry: Entry) -> WrappedKey:
        pem = self._checked(f"{entry.info.id}.pem", entry.pem_sha256)
        public = self._checked(f"{entry.info.id}.pub", entry.public_sha256)
        return WrappedKey(pem, public, entry.info.spki, entry.info.origin)

    def add(self, entry: Entry, key: WrappedKey, *, retired: Iterable[Entry] = ()) -> None:
        files = {f"{entry.info.id}.pem": key.pem, f"{entry.info.id}.pub": key.public}
        try:
            for name, data in files.items():
                self._place(name, data)
            self._sync_folder()
            self.update([*retired, entry])
        except BaseException as error:
            if entry.info.id not in self._refresh().entries:  # the index does not know it, so it never was
                for name in files:
                    self._path(name).unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise _disk(error, self.folder) from error
            raise

    def update(self, changed: Iterable[Entry]) -> None:
        # As it is now: another thread may have put back what it read before the last change.
        entries = {**self._refresh().entries, **{entry.info.id: entry for entry in changed}}
        version = VERSION if any(entry.tpm for entry in entries.values()) else VERSION_WITHOUT_TPMS
        lines = ",\n  ".join(self._line(entry) for _, entry in sorted(entries.items()))
        try:
            self._write("index.json", f'{{"version": {version}, "keys": [\n  {lines}\n]}}\n'.encode())
            self._read_last = _Index.of(entries, seen=_seen(self._index))
        except OSError as error:
            raise _disk(error, self.folder) from error

    @contextmanager
    def writing(self) -> Iterator[None]:
        try:
            lock = os.open(self._path("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _disk(error, self.folder) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._refresh()
            yield
        finally:
            os.close(lock)

    def auth(self, info: KeyInfo) -> bytes:
        return derive_auth(self.secret(), info)

    def secret(self) -> bytes:
        """What auth values come from, and what the software keystore seals with."""
        path = self._path("secret")
        secret = self._read("secret", remedy="restore it from a backup: without it no key can be used")
        if len(secret) != 32:
            raise VaultError("damaged", f"{path} has been cut short: restore it from a backup", path=str(path))
        return secret

    def _path(self, name: str) -> Path:
        return self.folder / name

    def _begin(self) -> None:
        """Make what a new vault has. The secret comes last: once it is there, the vault is."""
        if not self._path("index.json").exists():
            self.update(())
        if not self._path("secret").exists() and not self._read_last.entries:
            self._write("secret", secrets.token_bytes(32))

    def _refresh(self) -> _Index:
        """The index; read again if it is not the one that was read last."""
        path, last = self._index, self._read_last
        try:
            seen = _seen(path)
        except FileNotFoundError:
            seen = None
        if seen is None and not self._path("secret").exists():
            self._read_last = _Index()
            return self._read_last
        if seen is not None and seen == last.seen:
            return last
        text = self._read("index.json", remedy="restore it from a backup: it says which keys there are")
        try:
            document = json.loads(text)
            version, lines = document["version"], document["keys"]
            entries = [_from_json(line) for line in lines] if version in (VERSION, VERSION_WITHOUT_TPMS) else []
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise VaultError(
                "damaged", f"the vault's index {path} is not what was written ({error}): restore it from a backup", path=str(path)
            ) from error
        if version not in (VERSION, VERSION_WITHOUT_TPMS):
            raise VaultError("version", f"{path} was written by another version of tpmbus ({version}); upgrade", path=str(path))
        index = self._read_last = _Index.of({entry.info.id: entry for entry in entries}, seen=seen)
        return index

    def _checked(self, name: str, digest: bytes) -> bytes:
        path = self._path(name)
        data = self._read(name, remedy="restore it, or make a new key with `tpmbus keys rotate AGENT`")
        if hashlib.sha256(data).digest() != digest:
            raise VaultError(
                "damaged",
                f"{path} is not what was written: restore it, or make a new key with `tpmbus keys rotate AGENT`",
                path=str(path),
            )
        return data

    def _read(self, name: str, *, remedy: str) -> bytes:
        path = self._path(name)
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        except FileNotFoundError as error:
            raise VaultError("missing", f"{path} is gone: {remedy}", path=str(path)) from error
        except OSError as error:
            raise VaultError("disk", f"cannot read {path}: {error}", path=str(path)) from error
        if len(data) > MAX_FILE_BYTES:
            raise VaultError("damaged", f"{path} has more than {MAX_FILE_BYTES:,} bytes: {remedy}", path=str(path))
        return data

    def _line(self, entry: Entry) -> str:
        last = self._lines.get(entry.info.id)
        if last is None or last[0] is not entry:
            last = self._lines[entry.info.id] = entry, json.dumps(_to_json(entry))
        return last[1]

    def _write(self, name: str, data: bytes) -> None:
        """All of it or nothing, and on disk when this returns."""
        self._place(name, data)
        self._sync_folder()

    def _place(self, name: str, data: bytes) -> None:
        """All of it or nothing; under this name for good once the folder is synced."""
        temporary = self._path(f".{name}.{secrets.token_hex(4)}.new")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path(name))
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _sync_folder(self) -> None:
        folder = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _sweep(self) -> None:
        """Remove the temporary files of interrupted writers; set aside key files that no index entry names.

        Such a key was never used, unless somebody restored an older index: so it is kept, where it is in nobody's way.
        """
        for path in self.folder.iterdir():
            match = KEY_FILE.fullmatch(path.name)
            if _LEFTOVER.fullmatch(path.name):
                path.unlink(missing_ok=True)
            elif match and f"{match[1]}.{match[2]}" not in self._read_last.entries:
                aside = self._path("aside")
                aside.mkdir(mode=0o700, exist_ok=True)
                path.rename(aside / f"{path.name}.{secrets.token_hex(4)}")


def _seen(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)  # noqa: PTH116  at every signature; a Path's own takes three times as long
    return status.st_ino, status.st_mtime_ns, status.st_size


def retire(entry: Entry, *, ends_ms: int) -> Entry:
    return replace(entry, info=replace(entry.info, ends_ms=ends_ms))


def make_current(entry: Entry) -> Entry:
    return replace(entry, info=replace(entry.info, ends_ms=None))


def _to_json(entry: Entry) -> dict[str, Any]:
    info = asdict(entry.info)
    info |= {"spki": b64encode(entry.info.spki).decode(), "public": b64encode(entry.info.public).decode()}
    digests = {"pem_sha256": entry.pem_sha256.hex(), "public_sha256": entry.public_sha256.hex()}
    return info | {"parent": entry.parent.hex()} | digests | ({"tpm": entry.tpm} if entry.tpm else {})


def _from_json(line: dict[str, Any]) -> Entry:
    fields = dict(line)
    parent, pem, public = (bytes.fromhex(fields.pop(name)) for name in ("parent", "pem_sha256", "public_sha256"))
    fields["spki"], fields["public"] = b64decode(fields["spki"], validate=True), b64decode(fields["public"], validate=True)
    tpm = fields.pop("tpm", "")
    info = KeyInfo(**fields)
    whole = [type(info.generation), type(info.created_ms), int if info.ends_ms is None else type(info.ends_ms)] == [int] * 3
    known = info.suite in IDENTITY_SUITES and info.origin in ORIGINS
    if not (whole and known and isinstance(tpm, str) and KEY_FILE.fullmatch(f"{info.id}.pem")):
        raise ValueError(f"it tells of a key {info.id} in a way that nobody writes")
    return Entry(info, parent, pem, public, tpm)


def _disk(error: OSError, folder: Path) -> VaultError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return VaultError(
            "disk_full", f"no room to write in {folder}: free some and run the command again; nothing was lost", path=str(folder)
        )
    return VaultError("disk", f"cannot write in {folder}: {error}", path=str(folder))
