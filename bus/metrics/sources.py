"""Names, and the functions that know their numbers.

A source gives a dict of numbers, texts, and dicts of the same. It is asked when somebody looks and costs nothing before that.
Counters only ever grow; so two readings, one taken from the other, are what happened in between, and the readings of several
processes add up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import isfinite
from typing import Any, Final, TypeAlias

_DEEPEST: Final = 6
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


def readable(reading: object, *, depth: int = _DEEPEST) -> dict[str, Any]:
    """Of what somebody calls a reading, whom nobody has to believe: what is of a source's form. The rest is left out."""
    found: dict[str, Any] = {}
    for name, value in reading.items() if isinstance(reading, Mapping) else ():
        if isinstance(value, Mapping) and depth:
            found[str(name)] = readable(value, depth=depth - 1)
        elif _is_plain(value) or (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            found[str(name)] = value
    return found


def _is_plain(value: object) -> bool:
    return isfinite(value) if isinstance(value, float) else value is None or isinstance(value, str | int)


def part(reading: Reading, name: str) -> Reading:
    """What has parts of its own; nothing, where it is not there or is something else."""
    found = reading.get(name)
    return found if isinstance(found, Mapping) else {}


def counts(reading: Reading, name: str) -> dict[str, int]:
    """How often, by what: of that part whatever is a whole number."""
    return {str(key): value for key, value in part(reading, name).items() if isinstance(value, int)}


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
