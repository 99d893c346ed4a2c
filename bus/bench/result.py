"""A result: one scenario, run several times, in one document that table, CSV, report and comparison are made from.

A file of it is JSON: `{"format": "tpmbus bench", "version": 1, "scenario": .., "machine": .., "runs": [{"steps": [..]}..]}`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from bus.bench.step import Step

FORMAT: Final = "tpmbus bench"
VERSION: Final = 1


class Spread(NamedTuple):
    """Of the same figure in several runs."""

    median: float
    least: float
    most: float
    runs: int

    @property
    def width(self) -> float:
        return self.most - self.least


@dataclass(frozen=True, slots=True)
class Run:
    steps: tuple[Step, ...]

    @property
    def best(self) -> Step | None:
        """At the highest rate that was kept."""
        return max((step for step in self.steps if step.kept), key=lambda step: step.rate, default=None)


@dataclass(frozen=True, slots=True)
class Row:
    """What several runs say of one rate."""

    rate: float
    steps: tuple[Step, ...]

    def spread(self, figure: Callable[[Step], float]) -> Spread:
        return spread([figure(step) for step in self.steps])


@dataclass(frozen=True, slots=True)
class Result:
    name: str
    scenario: Mapping[str, Any]
    """Its words, with what the command line said instead."""
    machine: Mapping[str, Any]
    began: str
    """In UTC, as ISO 8601."""
    runs: tuple[Run, ...]
    is_search: bool = False
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know."""
    extra: Mapping[str, Any] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """In a search, the best of each run together; otherwise each rate's."""
        if self.is_search:
            best = tuple(step for run in self.runs if (step := run.best) is not None)
            return [Row(statistics.median(step.rate for step in best), best)] if best else []
        return self.by_rate()

    def by_rate(self) -> list[Row]:
        """Every rate that was tried, whether it was kept or not; in a search there are as many as it took."""
        rates = dict.fromkeys(step.rate for run in self.runs for step in run.steps)
        return [Row(rate, tuple(step for run in self.runs for step in run.steps if step.rate == rate)) for rate in rates]

    def document(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "name": self.name,
            "scenario": dict(self.scenario),
            "machine": dict(self.machine),
            "began": self.began,
            "is_search": self.is_search,
            "notes": list(self.notes),
            "extra": dict(self.extra),
            "runs": [{"steps": [step.document() for step in run.steps]} for run in self.runs],
        }

    @classmethod
    def of_document(cls, document: object) -> Result:
        """Raises ValueError for what is no result."""
        if not isinstance(document, Mapping) or document.get("format") != FORMAT:
            raise ValueError("it is no result: `tpmbus bench run NAME --json` prints one")
        if document.get("version") != VERSION:
            raise ValueError(f"it has version {document.get('version')!r} of the format, and this program reads version {VERSION}")
        try:
            runs = tuple(Run(tuple(Step.of_document(step) for step in run["steps"])) for run in document["runs"])
            plain = {name: document[name] for name in ("name", "scenario", "machine", "began", "is_search", "extra")}
            return cls(runs=runs, notes=tuple(document["notes"]), **plain)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"it is damaged: {error!r}") from error


def spread(values: Iterable[float]) -> Spread:
    found: Sequence[float] = sorted(values)
    return Spread(statistics.median(found), found[0], found[-1], len(found))
