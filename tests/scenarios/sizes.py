"""Two sizes of everything: what `make test` has time for, and what `make soak` runs, with its figures beside their targets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

from targets import Row, percentile, show

SOAK = "TPMBUS_SOAK" in os.environ
ROWS: list[Row] = []
"""Figures of this run, shown at its end by `conftest`."""
T = TypeVar("T")


def size(small: T, whole: T) -> T:
    return whole if SOAK else small


def note(what: str, figure: float, unit: str, target: float, *, more_is_better: bool = False) -> None:
    """A figure for the table. It is no assertion: on a busy machine it says as much of the others."""
    ROWS.append(Row(what, figure, unit, target, more_is_better))


__all__ = ["ROWS", "SOAK", "Row", "note", "percentile", "show", "size"]
