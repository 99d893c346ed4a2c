"""Where a durable subscription begins, as people say it and as it travels."""

from __future__ import annotations

from datetime import datetime

from bus.flow.start import Start, parse_start


def encode_start(start: str | int | datetime) -> str:
    """One of "new", "all" and "last", a position, or a time (one without a zone is local). Raises ValueError, TypeError."""
    if isinstance(start, datetime):
        return str(Start("time", max(int(start.timestamp() * 1000), 0)))
    if isinstance(start, bool) or not isinstance(start, int | str):
        raise TypeError(f"start={start!r}: a word (new, all, last), a position or a time")
    return str(parse_start(f"position={start}" if isinstance(start, int) else start))
