"""How long things took, in bounded memory: 16 buckets for each doubling, so a percentile is right within 3.2 %.

From one microsecond to about four hours; what is shorter or longer counts as that. Histograms of several processes add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Final

_PER_DOUBLING: Final = 16
_DOUBLINGS: Final = 34
_SIZE: Final = _PER_DOUBLING * _DOUBLINGS


class Histogram:
    __slots__ = ("_buckets", "count", "largest", "total")

    def __init__(self) -> None:
        self._buckets = [0] * _SIZE
        self.count = 0
        self.total = 0.0
        self.largest = 0.0

    def add(self, seconds: float, *, times: int = 1) -> None:
        self._buckets[_bucket(seconds)] += times
        self.count += times
        self.total += seconds * times
        self.largest = max(self.largest, seconds)

    def percentile(self, percent: float) -> float:
        """Seconds that so many of a hundred did not exceed; 0 if there were none."""
        wanted = self.count * percent / 100
        for bucket, reached in enumerate(accumulate(self._buckets)):
            if reached and reached >= wanted:
                return min(_middle(bucket), self.largest)
        return 0.0

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0

    def merge(self, other: Histogram) -> None:
        for bucket, count in enumerate(other._buckets):
            self._buckets[bucket] += count
        self.count += other.count
        self.total += other.total
        self.largest = max(self.largest, other.largest)

    def summary(self) -> dict[str, float]:
        """For people and programs, in milliseconds."""
        figures = {f"p{percent:g}": self.percentile(percent) for percent in (50, 90, 99, 99.9)}
        return {"count": self.count} | {
            f"{name}_ms": round(seconds * 1_000, 4)
            for name, seconds in (figures | {"mean": self.mean, "max": self.largest}).items()
        }

    def packed(self) -> dict[str, int]:
        """Bucket -> count of what is not empty: JSON for another process, and a reading that can be added to others."""
        return {str(bucket): count for bucket, count in enumerate(self._buckets) if count}

    @classmethod
    def unpacked(cls, buckets: Mapping[str, int]) -> Histogram:
        """What `packed` gave, mean and largest as near as the buckets are. Raises ValueError for what no histogram packs."""
        histogram = cls()
        for name, count in buckets.items():
            bucket = int(name)
            if not 0 <= bucket < _SIZE or count < 0:
                raise ValueError(f"there is no bucket {bucket} with {count}")
            histogram._buckets[bucket] += count
            histogram.count += count
            histogram.total += _middle(bucket) * count
            histogram.largest = max(histogram.largest, _middle(bucket) if count else 0.0)
        return histogram


def _bucket(seconds: float) -> int:
    """Even steps within a doubling: a shift, where a logarithm would cost more than the rest."""
    sixteenths = int(seconds * (1e6 * _PER_DOUBLING))
    doubling = sixteenths.bit_length() - 5
    if doubling < 0:
        return 0
    return min(doubling * _PER_DOUBLING + (sixteenths >> doubling) - _PER_DOUBLING, _SIZE - 1)


def _middle(bucket: int) -> float:
    doubling, step = divmod(bucket, _PER_DOUBLING)
    return (1 << doubling) * (1 + (step + 0.5) / _PER_DOUBLING) / 1e6
