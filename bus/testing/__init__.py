"""For the tests of tpmbus and of programs that use it: fakes, clocks that are turned by hand, and conformance checks."""

from __future__ import annotations

from bus.testing.backbone_check import check_backbone
from bus.testing.cancelling import LeftBehindError, cancel_everywhere
from bus.testing.clock import ManualClock
from bus.testing.fake_tpm import FakeTpm
from bus.testing.inline_engine import InlineEngine
from bus.testing.link_check import check_link
from bus.testing.open import open  # noqa: A004  as `bus.open`
from bus.testing.tpm_check import check_tpm
from bus.tpm.slow import SlowTpm

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
