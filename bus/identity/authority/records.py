"""What an authority knows, on disk and in memory at once: a change is written down first, and is so afterwards."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from bus.errors import VaultError
from bus.identity.authority import journal as journals
from bus.identity.authority.index import Change, Index
from bus.identity.authority.journal import Journal
from bus.identity.authority.store import Store

LAST: Final = "last"
"""Among the numbers: the latest instant at which something was done, in ms."""

_SPARE_LINES: Final = 1_024


class Records:
    """The journal, whose first line says whose it is (`header`), and the index that its other lines make."""

    def __init__(self, store: Store) -> None:
        self._store, self._journal = store, Journal(store)
        self._most_lines = 0
        self.header: dict[str, Any] | None = None
        """None until there is an authority."""
        self.index = Index()

    def load(self) -> None:
        entries = self._journal.load()
        if entries is None:
            return
        try:
            for entry in entries[1:]:
                self.index.apply(Change.from_json(entry))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            path = str(self._store.path(journals.NAME))
            text = f"{path} tells of something that nobody writes ({error}): restore the folder from a backup"
            raise VaultError("damaged", text, path=path) from error
        self.header = entries[0]
        self._measure()

    def begin(self, header: dict[str, Any]) -> dict[str, Any]:
        """The moment at which an authority exists."""
        self.header = {"version": journals.VERSION} | header
        self._journal.rewrite([self.header])
        self._measure()
        return self.header

    def commit(self, change: Change, *, now_ms: int) -> None:
        """Every line says how late it was: of two clocks, the one that an authority went by before is evidence."""
        change = replace(change, numbers={**change.numbers, LAST: max(now_ms, self.index.numbers.get(LAST, 0))})
        self._journal.append(change.to_json())
        self.index.apply(change)
        if self._journal.lines > self._most_lines:
            self._tidy(now_ms)

    def take_number(self, which: str, *, at_least: int, now_ms: int) -> int:
        """Higher than every one before; on disk when this returns, so that none is ever given twice."""
        number = max(self.index.numbers.get(which, 0) + 1, at_least)
        self.commit(Change(numbers={which: number}), now_ms=now_ms)
        return number

    def close(self) -> None:
        self._journal.close()

    def _tidy(self, now_ms: int) -> None:
        """Rewrite the journal without what no longer counts. So rarely that each line pays for a few at most."""
        changes = list(self.index.changes(now_ms))
        try:
            self._journal.rewrite([self.header or {}, *(change.to_json() for change in changes)])
        except VaultError:
            self._most_lines += _SPARE_LINES  # the change itself is written down: tidying can wait for a better disk
            return
        self.index = Index()
        for change in changes:
            self.index.apply(change)
        self._measure()

    def _measure(self) -> None:
        self._most_lines = 2 * self._journal.lines + _SPARE_LINES
