"""Figures beside their targets, pure: values of alternating runs in, a verdict out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["met", "MISSED", "no figure"]


@dataclass(frozen=True)
class Figure:
    what: str
    unit: str
    """`x` for a ratio of a pair of runs."""
    target: float
    values: tuple[float, ...]
    """One for each pair of runs, or for each run."""
    more_is_better: bool = True
    by_processor: tuple[float, ...] = ()
    """The same ratios of processor time, turned so that more is better where more is better: what a busy machine changes least."""
    aim: float | None = None
    """What would be better still."""
    note: str = ""

    @property
    def median(self) -> float | None:
        return statistics.median(self.values) if self.values else None

    @property
    def verdict(self) -> Verdict:
        median = self.median
        if median is None:
            return "no figure"
        return "met" if (median >= self.target if self.more_is_better else median <= self.target) else "MISSED"

    @property
    def target_text(self) -> str:
        aim = "" if self.aim is None else f" (aim {short(self.aim)})"
        return f"{'>=' if self.more_is_better else '<='} {short(self.target)} {self.unit}{aim}"

    @property
    def shown(self) -> str:
        """Median, and the least and the most where there are several."""
        if not self.values:
            return "none"
        span = f" ({short(min(self.values))} to {short(max(self.values))})" if len(self.values) > 1 else ""
        return f"{short(statistics.median(self.values))} {self.unit}{span}"

    @property
    def shown_by_processor(self) -> str:
        return short(statistics.median(self.by_processor)) if self.by_processor else ""

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"median": self.median, "verdict": self.verdict}


@dataclass(frozen=True)
class Curve:
    """Latency over the rate, for the report."""

    title: str
    points: Sequence[tuple[float, float, float]]
    """(rate, p50, p99), in milliseconds."""


@dataclass
class Outcome:
    """What one row came to; it grows while the row is measured."""

    name: str
    title: str
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader of the figures must know, and figures without a target."""
    seconds: float = 0.0
    failure: str | None = None

    @property
    def verdict(self) -> str:
        if self.failure is not None:
            return "FAILED"
        verdicts = {figure.verdict for figure in self.figures}
        return next((word for word in ("MISSED", "no figure") if word in verdicts), "met" if verdicts else "no figure")

    def document(self) -> dict[str, Any]:
        plain = asdict(self) | {"verdict": self.verdict}
        return plain | {"figures": [figure.document() for figure in self.figures]}


def short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
