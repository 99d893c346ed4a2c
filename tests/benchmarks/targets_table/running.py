"""Row after row: each has its time, what it measured stays when it fails, and everything is on disk after each of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from targets_table.figure import Outcome

Told = Callable[[str], None]
USUAL_PAIRS = 5
"""Of most rows. Who wants more of them has more time, too."""


@dataclass(frozen=True)
class Run:
    """What a row gets."""

    outcome: Outcome
    told: Told
    place: Path
    """A folder for state that rows share."""
    quick: bool
    """One short pair: whether it works at all. Its figures say nothing."""
    pairs: int | None
    """That were asked for; None for each row's own."""

    def turns(self, usual: int) -> int:
        """How many pairs, or runs; rows with long ones have fewer."""
        return 1 if self.quick else self.pairs or usual

    def seconds(self, usual: float) -> float:
        return min(usual, 0.2) if self.quick else usual


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    """As the table of targets has it."""
    most_seconds: float
    """Then it is stopped, and keeps what it has."""
    measure: Callable[[Run], Awaitable[None]]


async def all_of(
    rows: Sequence[Row], *, place: Path, told: Told, ended: Callable[[list[Outcome]], None], quick: bool, pairs: int | None
) -> list[Outcome]:
    """`ended` is called with all outcomes so far, after each row and when it is interrupted."""
    outcomes: list[Outcome] = []
    for row in rows:
        outcome, most = Outcome(row.name, row.title), row.most_seconds * max((pairs or 0) / USUAL_PAIRS, 1)
        outcomes.append(outcome)
        told(f"{row.name}: begins, at most {most:.0f} s")
        began = time.monotonic()
        try:
            await _measured(row, most, Run(outcome, lambda text, row=row: told(f"{row.name}: {text}"), place, quick, pairs))
        except BaseException as error:
            outcome.failure = f"interrupted: {type(error).__name__}"
            raise
        finally:
            outcome.seconds = time.monotonic() - began
            ended(outcomes)
        told(f"{row.name}: {outcome.verdict} after {outcome.seconds:.0f} s" + (f": {outcome.failure}" if outcome.failure else ""))
        for figure in outcome.figures:
            told(f"    {figure.verdict:<9} {figure.what}: {figure.shown}, wanted {figure.target_text}")
    return outcomes


async def _measured(row: Row, most_seconds: float, run: Run) -> None:
    with anyio.move_on_after(most_seconds) as limit:
        try:
            await row.measure(run)
        except Exception as error:  # noqa: BLE001  whatever it is: the next row can still be measured
            run.outcome.failure = _said(error)
    if limit.cancelled_caught:
        run.outcome.failure = f"stopped after {most_seconds:.0f} s; what it had measured by then stands"


def _said(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"[:500]
