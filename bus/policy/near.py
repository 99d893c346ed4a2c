"""'Did you mean ...?': the known name nearest to a misspelt one, in bounded time."""

from __future__ import annotations

from collections.abc import Collection
from difflib import get_close_matches
from itertools import islice
from typing import Final

MAX_HINTS: Final = 100
_MAX_CANDIDATES: Final = 500
_MAX_WORD: Final = 80


def nearest(word: str, names: Collection[str]) -> str | None:
    """The most similar name; None if none is similar. Of very many names only those with the same first letter are compared."""
    if len(word) > _MAX_WORD:
        return None
    by_case = {name.casefold(): name for name in names}
    if word.casefold() in by_case:
        return by_case[word.casefold()]
    candidates = list(names)
    if len(candidates) > _MAX_CANDIDATES:
        alike = (name for name in names if name[:1] == word[:1] and abs(len(name) - len(word)) <= 2)
        candidates = list(islice(alike, _MAX_CANDIDATES))
    return next(iter(get_close_matches(word, candidates, n=1, cutoff=0.6)), None)


def hint(word: str, names: Collection[str]) -> str:
    """The same as the end of a sentence; nothing if nothing is near."""
    name = nearest(word, names)
    return "" if name is None else f"; did you mean {name!r}?"


class Hints:
    """`hint` for many words against the same names, within a budget: a policy with more slips than that is not misspelt."""

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._given: dict[str, str] = {}

    def __call__(self, word: str) -> str:
        if word not in self._given and len(self._given) < MAX_HINTS:
            self._given[word] = hint(word, self._names)
        return self._given.get(word, "")
