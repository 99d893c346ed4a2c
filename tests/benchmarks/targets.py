"""How every benchmark here ends: a figure of today beside its target, met or missed."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    what: str
    figure: float
    unit: str
    target: float
    more_is_better: bool = False

    @property
    def met(self) -> bool:
        return self.figure >= self.target if self.more_is_better else self.figure <= self.target


def show(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}  ({os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f})")
    for row in rows:
        sign = ">=" if row.more_is_better else "<="
        verdict = "met" if row.met else "MISSED"
        print(f"  {row.what:<58} {row.figure:>10.4g} {row.unit:<4} {sign} {row.target:>8.4g} {row.unit:<4} {verdict}")


def percentile(values: Sequence[float], percent: float) -> float:
    return (
        statistics.quantiles(sorted(values), n=1000, method="inclusive")[round(percent * 10) - 1] if len(values) > 1 else values[0]
    )
