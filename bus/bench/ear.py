"""What one reader hears in one step. Nothing here waits or has a clock: whoever reads says what came, and gives the clock.

`hear` is called for every message that is measured, so the usual one costs an unpacking and a comparison; of a stamped one three
numbers are noted, and sorted when the step is over.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from bus.bench.order import SLOTS, Order
from bus.bench.record import HEADER
from bus.bench.tally import Tally
from bus.metrics.histogram import Histogram

ALL_ALIKE: Final = ""
COUNTS: Final = ("delivered", "in_time", "duplicated", "reordered", "stale")


class Ear:
    """`sources`: how many there may be, counted from 0. `now_ns` is a clock that all processes of this machine share.

    `kinds`: of each source, where latencies are to be told apart: what waits for a chip beside what does not.
    """

    def __init__(self, order: Order, now_ns: Callable[[], int], *, sources: int, kinds: Sequence[str] = ()) -> None:
        self._step, self._now_ns = order.number, now_ns
        self._measure_ns, self._end_ns, self._deadline_ns = order.measure_ns, order.end_ns, order.deadline_ns
        self._slot_ns = max((order.end_ns - order.measure_ns) // SLOTS, 1)
        self._tallies = [Tally() for _ in range(sources)]
        self.heard = 0
        """With those that came twice."""
        self._in_time: int | None = None
        """How many had been heard when the first came after the deadline."""
        self.stale = 0
        """Of steps before this one, or of nobody."""
        self.longest_silence_ns = 0
        """Between two stamped ones: how long nothing came; `reading` adds the time from the last one to the window's end."""
        self._last_ns = 0
        self._latency = {kind: Histogram() for kind in kinds or (ALL_ALIKE,)}
        self._latency_of = [self._latency[kind] for kind in kinds or (ALL_ALIKE,) * sources]
        self._slots: dict[int, Histogram] = {}
        self._noted = array("Q")
        """Of each stamped one: when it was due, when it came, and its source."""

    def hear(self, data: bytes) -> None:
        due_ns, number, source, step = HEADER.unpack_from(data)
        if step != self._step or source >= len(self._tallies):
            self.stale += 1
            return
        if due_ns:
            self._stamped(due_ns, source)
        tally = self._tallies[source]
        if number == tally.next:
            tally.next = number + 1
            tally.came += 1
        else:
            tally.add(number)
        self.heard += 1

    def _stamped(self, due_ns: int, source: int) -> None:
        now = self._now_ns()
        if now > self._deadline_ns and self._in_time is None:
            self._in_time = self.heard
        self._noted.extend((due_ns, now, source))

    def _sort(self) -> None:
        """What was noted goes into histograms: when nobody measures any more, because this process is what is measured."""
        noted, self._noted = iter(self._noted), array("Q")
        for due_ns, now, source in zip(noted, noted, noted, strict=True):
            if due_ns < self._measure_ns:
                self._last_ns = now
                continue
            if self._last_ns and now - self._last_ns > self.longest_silence_ns:
                self.longest_silence_ns = now - self._last_ns
            self._last_ns = now
            seconds = (now - due_ns) / 1e9
            self._latency_of[source].add(seconds)
            slot = min((due_ns - self._measure_ns) // self._slot_ns, SLOTS - 1)
            if slot not in self._slots:
                self._slots[slot] = Histogram()
            self._slots[slot].add(seconds)

    def reading(self) -> dict[str, Any]:
        """For the process that adds up several."""
        self._sort()
        came = sum(tally.came for tally in self._tallies)
        return {
            "delivered": came,
            "in_time": min(came, self.heard if self._in_time is None else self._in_time),
            "duplicated": sum(tally.duplicated for tally in self._tallies),
            "reordered": sum(tally.reordered for tally in self._tallies),
            "stale": self.stale,
            "longest_silence": max(self.longest_silence_ns, self._end_ns - self._last_ns if self._last_ns else 0) / 1e9,
            "latency": packed(merged(self._latency.values())),
            "apart": {kind: packed(one) for kind, one in self._latency.items() if kind != ALL_ALIKE and one.count},
            "slots": {str(slot): packed(histogram) for slot, histogram in self._slots.items()},
        }


def added(readings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One reading of several readers: counts are added up, of the silences the longest is kept."""
    whole: dict[str, Any] = {"longest_silence": 0.0, **dict.fromkeys(COUNTS, 0)}
    latency, slots, apart = Histogram(), defaultdict[str, Histogram](Histogram), defaultdict[str, Histogram](Histogram)
    for reading in readings:
        for name in COUNTS:
            whole[name] += reading[name]
        whole["longest_silence"] = max(whole["longest_silence"], reading["longest_silence"])
        latency.merge(unpacked(reading["latency"]))
        for slot, one in reading["slots"].items():
            slots[slot].merge(unpacked(one))
        for kind, one in reading["apart"].items():
            apart[kind].merge(unpacked(one))
    return whole | {"latency": packed(latency), "slots": _all_packed(slots), "apart": _all_packed(apart)}


def merged(histograms: Iterable[Histogram]) -> Histogram:
    whole = Histogram()
    for one in histograms:
        whole.merge(one)
    return whole


def _all_packed(histograms: Mapping[str, Histogram]) -> dict[str, Any]:
    return {name: packed(one) for name, one in histograms.items()}


def packed(histogram: Histogram) -> dict[str, Any]:
    """With what buckets do not say exactly."""
    return {"largest": histogram.largest, "total": histogram.total, "buckets": histogram.packed()}


def unpacked(document: Mapping[str, Any]) -> Histogram:
    histogram = Histogram.unpacked(document.get("buckets", {}))
    histogram.largest, histogram.total = document.get("largest", 0.0), document.get("total", 0.0)
    return histogram
