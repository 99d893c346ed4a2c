"""What an engine counts. Written by its one thread, read by anybody as a copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from bus.tpm.interface import EngineStatistics, TpmReading


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

    def snapshot(
        self, *, waiting: int, slots: Mapping[str, int], tpms: Mapping[str, TpmReading] = MappingProxyType({})
    ) -> EngineStatistics:
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
            tpms=dict(tpms),
        )

    def reading(self, *, origin: str, primary_name: bytes, is_there: bool, waiting: int) -> TpmReading:
        """Of the one TPM that this engine has."""
        return TpmReading(
            origin=origin,
            primary_name=primary_name,
            is_there=is_there,
            signed_contents=self.signed_contents,
            signatures=sum(self.algorithms.values()),
            waiting=waiting,
            longest_wait=self.longest_wait,
            busy=self.busy,
            failures=sum(self.failures.values()),
            restarts=self.restarts,
        )


def together(parts: Sequence[EngineStatistics]) -> EngineStatistics:
    """Of several TPMs as of one: what is counted is added up; `longest` and `largest` are those of any."""

    def counted(of: Callable[[EngineStatistics], Mapping[Any, int]]) -> dict[Any, int]:
        whole: Counter[Any] = Counter()
        for part in parts:
            whole.update(of(part))
        return dict(sorted(whole.items()))

    return EngineStatistics(
        operations=counted(lambda part: part.operations),
        signed_contents=sum(part.signed_contents for part in parts),
        signatures=sum(part.signatures for part in parts),
        largest_batch=max((part.largest_batch for part in parts), default=0),
        batch_sizes=counted(lambda part: part.batch_sizes),
        algorithms=counted(lambda part: part.algorithms),
        waiting=sum(part.waiting for part in parts),
        longest_wait=max((part.longest_wait for part in parts), default=0.0),
        total_wait=sum(part.total_wait for part in parts),
        busy=sum(part.busy for part in parts),
        slots=counted(lambda part: part.slots),
        failures=counted(lambda part: part.failures),
        restarts=sum(part.restarts for part in parts),
        tpms={name: reading for part in parts for name, reading in part.tpms.items()},
    )
