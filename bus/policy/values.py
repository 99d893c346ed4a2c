"""Durations and sizes as people write them: `500ms`, `60s`, `15m`, `24h`, `7d`; `512B`, `64KiB`, `1MiB`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

MILLISECONDS: Final[Mapping[str, int]] = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
BYTES: Final[Mapping[str, int]] = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20}

DURATION_PATTERN: Final = r"^[0-9]{1,9}(ms|s|m|h|d)$"
SIZE_PATTERN: Final = r"^[0-9]{1,9}(B|KiB|MiB)$"

_DURATION: Final = re.compile(DURATION_PATTERN.removesuffix("$"), re.ASCII)
_SIZE: Final = re.compile(SIZE_PATTERN.removesuffix("$"), re.ASCII)


def parse_duration(text: object) -> int:
    """Milliseconds. Raises ValueError."""
    if not isinstance(text, str) or (found := _DURATION.fullmatch(text)) is None:
        raise ValueError(f"{_shown(text)} is no duration; write a whole number and one of {', '.join(MILLISECONDS)}, such as 15m")
    return int(text[: -len(found[1])]) * MILLISECONDS[found[1]]


def parse_size(text: object) -> int:
    """Bytes. Raises ValueError."""
    if not isinstance(text, str) or (found := _SIZE.fullmatch(text)) is None:
        raise ValueError(f"{_shown(text)} is no size; write a whole number and one of {', '.join(BYTES)}, such as 64KiB")
    return int(text[: -len(found[1])]) * BYTES[found[1]]


def show_duration(milliseconds: int) -> str:
    return _show(milliseconds, MILLISECONDS)


def show_size(size: int) -> str:
    return _show(size, BYTES)


def _show(value: int, units: Mapping[str, int]) -> str:
    """In the largest unit that is exact, so that what is shown parses to the same value."""
    unit = next((unit for unit in reversed(list(units)) if value and value % units[unit] == 0), next(iter(units)))
    return f"{value // units[unit]}{unit}"


def _shown(value: object) -> str:
    return repr(value)[:60]
