"""What waits for credit of a full reader stops the lanes that feed it, until it is empty again."""

from __future__ import annotations

from typing import Protocol


class Stoppable(Protocol):
    """A lane, or what stands for those at a neighbour."""

    def stop(self) -> None: ...

    def go_on(self) -> None: ...


class Stops:
    """A queue that can stop lanes. `is_empty` says when it must not any more."""

    __slots__ = ("_stopped", "is_empty")

    def __init__(self) -> None:
        self.is_empty = False
        self._stopped: dict[Stoppable, None] = {}

    def stop(self, lane: Stoppable) -> None:
        if not self.is_empty and lane not in self._stopped:
            self._stopped[lane] = None
            lane.stop()

    def emptied(self) -> None:
        """Nothing waits here any more, and nothing will: who has to wait next gets another queue."""
        self.is_empty = True
        for lane in self._stopped:
            lane.go_on()
        self._stopped.clear()
