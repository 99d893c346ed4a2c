"""Walk through every state that a model can reach, nearest first. The first fault found has the shortest story."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Explored(NamedTuple):
    states: int
    fault: str
    """The property that does not hold; empty if all do."""
    trace: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join([f"{self.states} states. {self.fault or 'Every property holds.'}", *self.trace])


class TooManyStatesError(Exception):
    """The model has more states than its author thought."""


def explore(start: S, moves: Callable[[S], Iterable[tuple[str, S]]], fault: Callable[[S], str], *, most: int) -> Explored:
    came: dict[S, tuple[S, str] | None] = {start: None}
    ahead = deque([start])
    while ahead:
        state = ahead.popleft()
        if found := fault(state):
            return Explored(len(came), found, _trace(state, came))
        for label, after in moves(state):
            if after not in came:
                came[after] = state, label
                ahead.append(after)
        if len(came) > most:
            raise TooManyStatesError(len(came))
    return Explored(len(came), "", ())


def _trace(state: S, came: dict[S, tuple[S, str] | None]) -> tuple[str, ...]:
    labels: list[str] = []
    while (step := came[state]) is not None:
        state, label = step
        labels.append(label)
    return tuple(reversed(labels))
