"""What the authority did, line by line: the one place that says which certificates exist and which of them count.

    line = 16 hex digits, a space, JSON, a newline        the digits: SHA-256 of those of the line before, and the JSON

A line is one transaction. It is on disk before anybody hears of what it says, and a process that is killed while it writes leaves
at most a last line without its end, which nobody was told of: it is cut off. Any other fault is damage, and is said to be: the
digits run through all lines, so none can be missing, changed or in another's place.

Appending costs the same with ten lines and with a hundred thousand. What no longer counts goes when the journal is rewritten, as
a whole, once most of it has become that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from typing import Any, Final

from bus.errors import ClosedError, VaultError
from bus.identity.authority.store import Store

VERSION: Final = 1
NAME: Final = "private/issued.log"

_DIGITS: Final = 16
_BEGINNING: Final = "0" * _DIGITS


class Journal:
    """Open for appending. `lines` counts what is in the file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._file: int | None = None
        self._size = 0
        self._digits = _BEGINNING
        self.lines = 0

    def load(self) -> list[dict[str, Any]] | None:
        """Every entry, the first of which tells what journal it is; None if there is no journal yet."""
        data = self._store.read(NAME)
        if data is None:
            return None
        whole = data[: data.rfind(b"\n") + 1]
        entries: list[dict[str, Any]] = []
        for number, line in enumerate(whole.split(b"\n")[:-1], start=1):
            entries.append(self._parse(line, number))
        if not entries:
            raise self._damaged("it is empty")
        if entries[0].get("version") != VERSION:
            path = str(self._store.path(NAME))
            text = f"{path} was written by another version of tpmbus ({entries[0].get('version')}); upgrade"
            raise VaultError("version", text, path=path)
        self._open(len(whole))
        self.lines = len(entries)
        return entries

    def rewrite(self, entries: Iterable[dict[str, Any]]) -> None:
        """Replace the journal by these entries, in one step. If it raises before that, the old one goes on."""
        lines, digits = [], _BEGINNING
        for entry in entries:
            line, digits = _line(digits, entry)
            lines.append(line)
        data = b"".join(lines)
        self._store.write(NAME, data)
        self.close()
        self._digits, self.lines = digits, len(lines)
        self._open(len(data))

    def append(self, entry: dict[str, Any]) -> None:
        """On disk when this returns; nothing of it is when it raises."""
        if self._file is None:
            raise ClosedError("the authority is closed, or its disk failed: open it again")
        line, digits = _line(self._digits, entry)
        with self._store.guarded():
            try:
                done = 0
                while done < len(line):
                    done += os.pwrite(self._file, line[done:], self._size + done)
                os.fsync(self._file)
            except BaseException:
                self._take_back()
                raise
        self._size, self._digits, self.lines = self._size + len(line), digits, self.lines + 1

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, size: int) -> None:
        with self._store.guarded():
            self._file = os.open(self._store.path(NAME), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            self._size = size
            os.ftruncate(self._file, size)

    def _take_back(self) -> None:
        """Half a line may be there. If it cannot be cut off either, nothing more is written behind it."""
        try:
            os.ftruncate(self._file or 0, self._size)
        except OSError:
            self.close()

    def _parse(self, line: bytes, number: int) -> dict[str, Any]:
        try:
            digits, text = line[:_DIGITS].decode("ascii"), line[_DIGITS + 1 :]
            if line[_DIGITS : _DIGITS + 1] != b" " or digits != _chain(self._digits, text):
                raise ValueError("its digits do not fit")  # noqa: TRY301  one way out for all that is wrong with a line
            entry = json.loads(text)
            if not isinstance(entry, dict):
                raise TypeError("it is no object")  # noqa: TRY301  the same
        except (ValueError, TypeError, RecursionError) as error:
            raise self._damaged(f"line {number}: {error}") from error
        self._digits = digits
        return entry

    def _damaged(self, what: str) -> VaultError:
        path = str(self._store.path(NAME))
        return VaultError("damaged", f"{path} is not what was written ({what}): restore the folder from a backup", path=path)


def _chain(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()[:_DIGITS]


def _line(before: str, entry: dict[str, Any]) -> tuple[bytes, str]:
    text = json.dumps(entry, separators=(",", ":"), sort_keys=True).encode()
    digits = _chain(before, text)
    return digits.encode() + b" " + text + b"\n", digits
