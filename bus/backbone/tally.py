"""What a local backbone counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Tally:
    appended: int = 0
    duplicates: int = 0
    handed_out: int = 0
    redelivered: int = 0
    expired: int = 0
    """Records that nobody would have accepted any more."""
    acks: int = 0
    naks: int = 0
    put_off: int = 0
    """Deliveries that their reader could not open yet; they do not count."""
    terms: int = 0
    ignored: int = 0
    """Settlements of what was not outstanding."""
    dead: int = 0
    lost: int = 0
    """Records that were given up and could not be kept as dead letters: they were past their time, or there were too many."""
    failures: int = 0
    """Commits that failed."""

    def as_dict(self) -> dict[str, int]:
        return asdict(self)
