"""What one step came to: the values of a row in every table, file and plot. Made by `figures`, or by whoever measures another bus.

Whatever a bus does not have (a TPM, caches, a policy) stays empty; nothing else differs between rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from bus.bench.search import KEPT_SHARE
from bus.metrics.histogram import Histogram


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds. Percentiles are right within 3.2 % (16 buckets for each doubling); mean and max are exact."""

    count: int = 0
    p50: float = 0.0
    p90: float = 0.0
    p99: float = 0.0
    p999: float = 0.0
    max: float = 0.0
    mean: float = 0.0

    @classmethod
    def of(cls, histogram: Histogram) -> Latency:
        p50, p90, p99, p999 = (histogram.percentile(percent) * 1e3 for percent in (50, 90, 99, 99.9))
        return cls(histogram.count, p50, p90, p99, p999, histogram.largest * 1e3, histogram.mean * 1e3)


@dataclass(frozen=True, slots=True)
class Moment:
    """A piece of the window."""

    at: float
    """Seconds after its beginning."""
    count: int
    p50: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Process:
    name: str
    """What it does: `hub`, `sender 1`, `reader 1`, `tpm`, `bench` (who started them all)."""
    cpu_seconds: float
    """In the window."""
    cpu_percent: float
    """Of one core."""
    memory_mib: float
    """At the most, since it began."""


@dataclass(frozen=True, slots=True)
class Step:
    rate: float
    """Messages a second that were asked for."""
    seconds: float
    size: int
    sent: int
    """Messages handed to the bus, in the warm-up too, as for all counts down to `reordered`."""
    not_sent: Mapping[str, int]
    """Messages that were due and that the bus did not take, by reason."""
    due: int
    """Copies: each message once for each reader that is to get it, whether it was sent or not."""
    delivered: int
    """Copies, each counted once."""
    in_time: int
    """Of them, those that had come soon after the window's end."""
    lost: int
    """Copies of messages that were sent, and never came. So is a request that nobody answered, or whose reply never came."""
    duplicated: int
    """Requests that came twice to who answers them are among them, as those below that came after a later one."""
    reordered: int
    sent_a_second: float
    """In the window."""
    delivered_a_second: float
    """Copies, in the window."""
    latency: Latency
    """From when a message was due to when a reader had it."""
    round_trip: Latency = Latency()
    """From when a request was due to when its reply was there."""
    generator_late: Latency = Latency()
    """From when a message was due to when the generator handed it over: what of the latency is the generator's, or the bus's for
    having it wait."""
    apart: Mapping[str, Latency] = field(default_factory=dict)
    """Of the mix: the same latency of what is signed by `session`, by `identity`, or kept (`durable`), each by itself."""
    over_time: tuple[Moment, ...] = ()
    processes: tuple[Process, ...] = ()
    costs: Mapping[str, float] = field(default_factory=dict)
    """Microseconds of processor time for a message, by process; `generator` is what the harness itself takes of them."""
    tpm: Mapping[str, float] = field(default_factory=dict)
    """operations, per_million (for so many messages), contents (that a signature covers), busy (share of the window)."""
    caches: Mapping[str, float] = field(default_factory=dict)
    """Hit rates from 0 to 1."""
    algorithms: Mapping[str, int] = field(default_factory=dict)
    """Signatures of the TPM by suite."""
    proof: Mapping[str, Any] = field(default_factory=dict)
    """What the bus's own statistics say was done in this step: signatures verified, envelopes opened, policy asked."""
    longest_silence: float = 0.0
    """Seconds in which a reader heard nothing, at the worst."""

    @property
    def share(self) -> float:
        """Of what was due, delivered in time."""
        return self.in_time / self.due if self.due else 0.0

    @property
    def cpu_of_message(self) -> float:
        """Microseconds, of all processes but the one that started them."""
        return sum(cost for name, cost in self.costs.items() if name not in ("generator", "bench"))

    @property
    def kept(self) -> bool:
        return self.share >= KEPT_SHARE

    def document(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share, "kept": self.kept}

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Step:
        """Raises KeyError, TypeError or ValueError for what is no step."""
        values = {one.name: document[one.name] for one in fields(cls) if one.name in document}  # older ones lack a word
        for name in ("latency", "round_trip", "generator_late"):
            values[name] = Latency(**values[name])
        values["apart"] = {kind: Latency(**one) for kind, one in values.get("apart", {}).items()}
        values["over_time"] = tuple(Moment(**one) for one in values["over_time"])
        values["processes"] = tuple(Process(**one) for one in values["processes"])
        return cls(**values)
