"""For the tests of tpmbus and of programs that use it: a bus in memory, fakes, clocks that are turned by hand, conformance checks.

Imported on first use, as the names of `bus`: who wants a clock needs no broker.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors, which do not run `__getattr__`
    from bus.testing.backbone_check import check_backbone
    from bus.testing.cancelling import LeftBehindError, cancel_everywhere
    from bus.testing.clock import ManualClock
    from bus.testing.fake_tpm import FakeTpm
    from bus.testing.inline_engine import InlineEngine
    from bus.testing.link_check import check_link
    from bus.testing.memory_hub import open  # noqa: A004  as `bus.open`
    from bus.testing.tpm_check import check_tpm
    from bus.tpm.slow import SlowTpm

_PLACES = {
    "FakeTpm": "bus.testing.fake_tpm",
    "InlineEngine": "bus.testing.inline_engine",
    "LeftBehindError": "bus.testing.cancelling",
    "ManualClock": "bus.testing.clock",
    "SlowTpm": "bus.tpm.slow",
    "cancel_everywhere": "bus.testing.cancelling",
    "check_backbone": "bus.testing.backbone_check",
    "check_link": "bus.testing.link_check",
    "check_tpm": "bus.testing.tpm_check",
    "open": "bus.testing.memory_hub",
}
__all__ = [
    "FakeTpm",
    "InlineEngine",
    "LeftBehindError",
    "ManualClock",
    "SlowTpm",
    "cancel_everywhere",
    "check_backbone",
    "check_link",
    "check_tpm",
    "open",
]


def __getattr__(name: str) -> Any:
    try:
        place = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module 'bus.testing' has no attribute {name!r}") from None
    value = getattr(import_module(place), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
