"""The order of the runs: for each other bus, pair after pair; a bus that fails loses its row and says why."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import count
from pathlib import Path

from bus.bench.peers.catalogue import CONTENDERS, OURS
from bus.bench.peers.comparison import Absent, Comparison, Measured, compare, measured
from bus.bench.peers.contender import Contender
from bus.bench.peers.crew import Crew, CrewError, Settings, crew
from bus.bench.peers.machine import machine

Told = Callable[[str], None]
"""Called with a bus's name before each of its runs."""


class Runs:
    def __init__(self, settings: Settings, own: Crew, *, pairs: int, told: Told) -> None:
        self._settings, self._own, self._pairs, self._told = settings, own, pairs, told
        self._ways = ways(settings.workload)
        self._numbers = count(1)
        self.done: list[Measured] = []

    async def beside(self, other: Crew | None) -> None:
        """All pairs of one other bus, or those without another. Raises CrewError, and what was measured until then stays."""
        for turn in range(self._pairs):
            number = next(self._numbers)
            both = [(self._own, way) for way in self._ways] + ([(other, other.contender)] if other is not None else [])
            for one, way in both if turn % 2 == 0 else reversed(both):
                await self._once(one, way, number)

    async def _once(self, one: Crew, way: Contender, number: int) -> None:
        self._told(way.title)
        said = await one.run(self._settings, way)
        try:
            self.done.append(measured(way.name, number, said, by_the_clock=self._settings.rate is not None))
        except ValueError as error:
            raise CrewError("a run without figures", said=str(error)) from error


def ways(workload: str) -> list[Contender]:
    """Of this bus to do it."""
    return [CONTENDERS[name] for name in OURS if CONTENDERS[name].can(workload)]


def names_of_others(only: Sequence[str] = ()) -> list[str]:
    """Raises ValueError for a name that nobody has."""
    others = [name for name in CONTENDERS if name not in OURS]
    if unknown := [name for name in only if name not in others]:
        raise ValueError(f"{', '.join(unknown)}: there are {', '.join(others)}")
    return [name for name in others if not only or name in only]


def able(names: Sequence[str], workload: str) -> tuple[list[str], list[Absent]]:
    """Who can take part, and why the others cannot."""
    taking_part, absent = [], []
    for name in names:
        contender = CONTENDERS[name]
        if not contender.can(workload):
            absent.append(Absent(name, "cannot", contender.cannot.get(workload, "it has nothing of that kind")))
        elif lacking := contender.lacking():
            absent.append(Absent(name, "not_installed", f"without {', '.join(lacking)}: {contender.install}"))
        else:
            taking_part.append(name)
    return taking_part, absent


async def compared(settings: Settings, others: Sequence[str], *, pairs: int, told: Told = lambda _: None) -> Comparison:
    """Every other bus beside this one, so many times. Raises CrewError where this bus itself cannot run."""
    taking_part, absent = able(others, settings.workload)
    with tempfile.TemporaryDirectory(prefix="tb") as place:
        async with crew(CONTENDERS[OURS[0]], Path(place) / OURS[0]) as own:
            runs = Runs(settings, own, pairs=pairs, told=told)
            for name in taking_part:
                try:
                    async with crew(CONTENDERS[name], Path(place) / name) as other:
                        await runs.beside(other)
                except CrewError as error:
                    absent.append(Absent(name, "failed", str(error)))
            if not runs.done:
                await runs.beside(None)
    return Comparison(
        settings=asdict(settings) | {"pairs": pairs},
        machine=machine(),
        versions={name: CONTENDERS[name].version() for name in [OURS[0], *taking_part]},
        runs=tuple(runs.done),
        rows=tuple(compare(runs.done, OURS)),
        absent=tuple(absent),
    )
