"""One step, as every process of it is told: which, how fast, and when. All times are of the machine's monotonic clock.

begin_ns        measure_ns                     end_ns          deadline_ns
   ├── warm-up ─────┼────────── window ───────────┼──── grace ─────┤
   thrown away          latency, processor time      what comes later is late
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from bus.bench.record import stamp_every

SLOTS: Final = 40
"""Of a window, for latency over time."""
GRACE_SECONDS: Final = 0.1
GRACE_SHARE: Final = 0.02
"""Of the window. What was due at its end must be there so soon after: whoever is two in a hundred too slow does not keep up,
and a hiccup in the middle that was made good again does no harm but to the latency."""


@dataclass(frozen=True, slots=True)
class Order:
    number: int
    """Of the step; stands in every body, so that stragglers are not taken for this step's."""
    rate: float
    """Messages a second of all senders together."""
    begin_ns: int
    warm_seconds: float
    seconds: float
    """Of the window."""
    size: int
    """Of a body."""
    slow_seconds: float = 0.0
    """What the bus must be granted besides, because something in it is slow on purpose."""

    @property
    def measure_ns(self) -> int:
        return self.begin_ns + round(self.warm_seconds * 1e9)

    @property
    def end_ns(self) -> int:
        return self.measure_ns + round(self.seconds * 1e9)

    @property
    def deadline_ns(self) -> int:
        return self.end_ns + round((max(GRACE_SECONDS, GRACE_SHARE * self.seconds) + self.slow_seconds) * 1e9)

    @property
    def stamp_every(self) -> int:
        return stamp_every(self.rate)

    def messages(self, senders: int) -> int:
        """That each sender has to send, in the warm-up too: as many each."""
        return max(round(self.rate * (self.warm_seconds + self.seconds) / senders), 1)

    def due_ns(self, number: int, sender: int, senders: int) -> int:
        """When this sender's message is due: the senders take turns, evenly."""
        return self.begin_ns + round((number * senders + sender) * 1e9 / self.rate)

    def packed(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def unpacked(cls, document: Mapping[str, Any]) -> Order:
        return cls(**{name: document[name] for name in cls.__slots__})
