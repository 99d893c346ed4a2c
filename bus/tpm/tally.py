"""What an engine counts. Written by its one thread, read by anybody as a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from bus.tpm.interface import EngineStatistics


@dataclass(slots=True)
class Tally:
    operations: Counter[str] = field(default_factory=Counter)
    algorithms: Counter[str] = field(default_factory=Counter)
    batch_sizes: Counter[int] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    signed_contents: int = 0
    largest_batch: int = 0
    longest_wait: float = 0.0
    total_wait: float = 0.0
    busy: float = 0.0
    restarts: int = 0

    def waited(self, seconds: float) -> None:
        self.total_wait += seconds
        self.longest_wait = max(self.longest_wait, seconds)

    def signed(self, suite: str, contents: int) -> None:
        self.algorithms[suite] += 1
        self.signed_contents += contents
        self.largest_batch = max(self.largest_batch, contents)
        self.batch_sizes[1 << (contents - 1).bit_length()] += 1

    def snapshot(self, *, waiting: int, slots: Mapping[str, int]) -> EngineStatistics:
        return EngineStatistics(
            operations=dict(self.operations),
            signed_contents=self.signed_contents,
            signatures=sum(self.algorithms.values()),
            largest_batch=self.largest_batch,
            batch_sizes=dict(sorted(self.batch_sizes.items())),
            algorithms=dict(self.algorithms),
            waiting=waiting,
            longest_wait=self.longest_wait,
            total_wait=self.total_wait,
            busy=self.busy,
            slots=dict(slots),
            failures=dict(self.failures),
            restarts=self.restarts,
        )
