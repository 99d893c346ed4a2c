"""Processor time and memory of processes that do not measure themselves, as the kernel tells (Linux)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

_TICK_SECONDS: Final = 1 / os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Since it began; 0 for one that is gone."""
    with suppress(OSError, IndexError, ValueError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * _TICK_SECONDS
    return 0.0


def memory_mib(pid: int) -> float:
    """The most that was resident at once; 0 for one that is gone."""
    with suppress(OSError, IndexError, ValueError):
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)
    return 0.0


def children(pid: int) -> list[int]:
    """Started by it, or by those."""
    with suppress(OSError, ValueError):
        own = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
        return [*own, *(below for child in own for below in children(child))]
    return []


def running(pid: int, program: str) -> list[int]:
    """Those started by it that run this program."""
    return [child for child in children(pid) if _runs(child, program)]


def cpu_seconds_of(pids: Mapping[str, int]) -> dict[str, float]:
    return {name: cpu_seconds(pid) for name, pid in pids.items()}


def _runs(pid: int, program: str) -> bool:
    with suppress(OSError):
        return program.encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False
