"""A clock whose hands only a test moves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel

from bus.clock import SystemClock


@dataclass(slots=True)
class ManualClock:
    """Starts at a fixed instant of 2027; `advance` moves both of its hands.

    Who sleeps by it wakes when its hand passes, in a later step of the loop: after `advance`, let the others run
    (`anyio.wait_all_tasks_blocked`) before you look. `advance` itself belongs into the loop's own thread.

    Whoever leaves something (a bus, an agent, its handlers) with work unfinished waits for it by this clock, which then often
    nobody turns any more; so by the system's time, too, for `patience_seconds`.
    """

    ms: int = 1_800_000_000_000
    seconds: float = 0.0
    patience_seconds: float = 10.0
    _sleepers: list[tuple[float, anyio.Event]] = field(default_factory=list, repr=False, compare=False)
    _limits: list[tuple[float, anyio.CancelScope]] = field(default_factory=list, repr=False, compare=False)
    _alarms: list[tuple[float, Callable[[], None]]] = field(default_factory=list, repr=False, compare=False)

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            await anyio.lowlevel.checkpoint()
            return
        sleeper = (self.seconds + seconds, anyio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    @contextmanager
    def fail_after(self, seconds: float) -> Iterator[None]:
        with anyio.CancelScope() as scope:
            limit = (self.seconds + seconds, scope)
            self._limits.append(limit)
            if seconds <= 0:
                scope.cancel()
            try:
                yield
            finally:
                self._limits.remove(limit)
        if scope.cancelled_caught:
            raise TimeoutError

    @contextmanager
    def leave_within(self, seconds: float) -> Iterator[None]:
        with SystemClock().fail_after(self.patience_seconds), self.fail_after(seconds):
            yield

    def alarm(self, seconds: float, ring: Callable[[], None]) -> Callable[[], object]:
        alarm = (self.seconds + seconds, ring)
        self._alarms.append(alarm)

        def cancel() -> None:
            if alarm in self._alarms:
                self._alarms.remove(alarm)

        return cancel

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("time only runs forward here; set `ms` to move the wall clock alone")
        self.ms += round(seconds * 1000)
        self.seconds += seconds
        for due, wake in self._sleepers:
            if due <= self.seconds:
                wake.set()
        for due, scope in self._limits:
            if due <= self.seconds:
                scope.cancel()
        for alarm in [alarm for alarm in self._alarms if alarm[0] <= self.seconds]:
            self._alarms.remove(alarm)
            alarm[1]()
