"""What runs that took turns say of two buses: a ratio for each pair, and how far the pairs are apart.

One pair is a run of this bus and a run of the other right after each other, so that whatever else the machine does happens to both;
who is first changes from pair to pair. Medians of the figures move with the machine, those of the ratios much less.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from bus.bench.ear import unpacked
from bus.bench.result import Spread, spread
from bus.bench.step import Latency

FORMAT: Final = "tpmbus bench peers"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Measured:
    """One run of one bus."""

    bus: str
    pair: int
    figure: float
    """Deliveries a second; milliseconds for requests, and for an open loop (both p50)."""
    cpu_us: float
    """Processor time of all its processes for one delivery, or one request with its reply; from the beginning to the last one."""
    latency: Latency = field(default_factory=Latency)
    """Of an open loop, from when a message was due; of requests, the round trip."""
    sent: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0


@dataclass(frozen=True, slots=True)
class Ratio:
    """This bus's figure through the other's."""

    ours: str
    figure: Spread
    cpu: Spread


@dataclass(frozen=True, slots=True)
class Row:
    bus: str
    figure: Spread
    cpu_us: Spread
    p99_ms: Spread
    lost: int
    duplicated: int
    reordered: int
    ratios: tuple[Ratio, ...] = ()
    """Empty for this bus itself."""


def measured(bus: str, pair: int, said: Mapping[str, Any], *, by_the_clock: bool) -> Measured:
    """Of what the processes of a run said. Raises ValueError for a run in which nothing came in its window."""
    if "round_trip" in said:
        trips = Latency.of(unpacked(said["round_trip"]))
        if not trips.count or said["wrong"]:
            raise ValueError(f"{said['wrong']} wrong replies, {trips.count} right ones")
        return Measured(bus, pair, trips.p50, said["cpu_seconds"] / said["asked"] * 1e6, trips, said["asked"], said["asked"])
    heard, seconds = said["window"]["heard"], said["window"]["seconds"]
    if not heard:
        raise ValueError("nothing came")
    latency = Latency.of(unpacked(said["latency"]))
    return Measured(
        bus=bus,
        pair=pair,
        figure=latency.p50 if by_the_clock else heard / seconds,
        cpu_us=said["cpu_seconds"] / said["delivered"] * 1e6,
        latency=latency,
        **{name: said[name] for name in ("sent", "delivered", "lost", "duplicated", "reordered")},
    )


def compare(runs: Sequence[Measured], ours: Sequence[str]) -> list[Row]:
    """A row for each bus, in the order in which they first ran; ratios for those that are not ours."""
    return [_row(runs, bus, ours) for bus in sorted({run.bus for run in runs}, key=[run.bus for run in runs].index)]


def _row(runs: Sequence[Measured], bus: str, ours: Sequence[str]) -> Row:
    own = [run for run in runs if run.bus == bus]
    return Row(
        bus=bus,
        figure=spread(run.figure for run in own),
        cpu_us=spread(run.cpu_us for run in own),
        p99_ms=spread(run.latency.p99 for run in own),
        lost=sum(run.lost for run in own),
        duplicated=sum(run.duplicated for run in own),
        reordered=sum(run.reordered for run in own),
        ratios=() if bus in ours else tuple(ratio for name in ours if (ratio := _ratio(runs, name, own)) is not None),
    )


def _ratio(runs: Sequence[Measured], name: str, others: Sequence[Measured]) -> Ratio | None:
    pairs = [(ours, other) for other in others for ours in runs if ours.bus == name and ours.pair == other.pair]
    if not pairs:
        return None
    return Ratio(
        name,
        spread(ours.figure / other.figure for ours, other in pairs),
        spread(ours.cpu_us / other.cpu_us for ours, other in pairs if other.cpu_us),
    )


@dataclass(frozen=True, slots=True)
class Absent:
    """A bus that has no figures, and why."""

    bus: str
    reason: str
    """`not_installed`, `cannot` or `failed`."""
    detail: str
    """How to install it, or what it said."""


@dataclass(frozen=True, slots=True)
class Comparison:
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    runs: tuple[Measured, ...]
    rows: tuple[Row, ...]
    absent: tuple[Absent, ...]

    def document(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}
