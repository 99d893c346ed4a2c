"""Names, and the functions that know their numbers.

A source gives a dict of numbers, texts, and dicts of the same. It is asked when somebody looks and costs nothing before that.
Counters only ever grow; so two readings, one taken from the other, are what happened in between, and the readings of several
processes add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

Reading: TypeAlias = Mapping[str, Any]
Source: TypeAlias = Callable[[], Reading]


class Sources:
    def __init__(self) -> None:
        self._sources: dict[str, Source] = {}

    def add(self, name: str, source: Source) -> None:
        """Raises ValueError if the name is taken."""
        if name in self._sources:
            raise ValueError(f"there is a source {name!r} already")
        self._sources[name] = source

    def remove(self, name: str) -> None:
        self._sources.pop(name, None)

    def read(self) -> dict[str, Any]:
        """Everything, by the names of the sources."""
        return {name: dict(source()) for name, source in self._sources.items()}


def plain(reading: Mapping[Any, Any]) -> dict[str, Any]:
    """The same with names that are texts, as JSON wants them: of a name in several parts, the parts with blanks between."""
    named = {" ".join(map(str, name)) if isinstance(name, tuple) else str(name): value for name, value in reading.items()}
    return {name: plain(value) if isinstance(value, Mapping) else value for name, value in named.items()}


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def added(readings: Iterable[Reading]) -> dict[str, Any]:
    """One reading of several: numbers are added up, of anything else the last is kept."""
    whole: dict[str, Any] = {}
    for reading in readings:
        for name, value in reading.items():
            if isinstance(value, Mapping):
                whole[name] = added([whole[name], value] if isinstance(whole.get(name), Mapping) else [value])
            elif is_number(value) and is_number(whole.get(name)):
                whole[name] += value
            else:
                whole[name] = value
    return whole


def since(before: Reading, after: Reading) -> dict[str, Any]:
    """What was counted between two readings; what is no number is as it was at the second."""
    passed: dict[str, Any] = {}
    for name, value in after.items():
        earlier = before.get(name)
        if isinstance(value, Mapping):
            passed[name] = since(earlier if isinstance(earlier, Mapping) else {}, value)
        elif is_number(value) and is_number(earlier):
            passed[name] = value - earlier
        else:
            passed[name] = value
    return passed
