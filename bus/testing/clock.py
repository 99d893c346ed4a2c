"""A clock whose hands only a test moves."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ManualClock:
    """Starts at a fixed instant of 2026; `advance` moves both of its hands."""

    ms: int = 1_800_000_000_000
    seconds: float = 0.0

    def now_ms(self) -> int:
        return self.ms

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError("time only runs forward here; set `ms` to move the wall clock alone")
        self.ms += round(seconds * 1000)
        self.seconds += seconds
