"""Processor time of other processes, for servers that are no workers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def spent_seconds(others: Iterable[int] = ()) -> float:
    """By this process with all its threads, and by those; what cannot be seen (another system, a process gone) is nothing."""
    return time.process_time() + sum(_of(pid) for pid in others)


def _of(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
