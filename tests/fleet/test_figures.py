"""What is shown of a running fleet, out of two readings of it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from bus.fleet.figures import figures
from bus.fleet.live_table import drawn
from bus.metrics.histogram import Histogram

LATENCY = Histogram()
for _ in range(99):
    LATENCY.add(0.001)
LATENCY.add(0.1)


def reading(seconds: float, times: int) -> dict:
    """After so many rounds of the same."""
    return {
        "seconds": seconds,
        "processes": 2,
        "agents": 76,
        "lost": {},
        "hosts": {
            "sent": {"published": 1_000 * times},
            "received": {"delivered": 5_000 * times},
            "refusals": {},
            "keyring": {
                "verifying": {"verifications": 50 * times, "handed_over": 5_000 * times, "chain_hits": 99, "chain_misses": 1}
            },
        },
        "broker": {"dropped": {"link_full": 3 * times}, "refused": {}},
        "tpm": {"signatures": 10 * times, "signed_contents": 400 * times, "largest_batch": 64, "busy": 0.5 * times},
        "play": {"talk": {"operations>operations": 300 * times, "command>architecture": 20 * times}, "latency": LATENCY.packed()},
    }


def test_rates_are_of_the_interval_and_counts_of_all():
    found = figures(reading(10.0, 3), reading(12.0, 5))
    assert (found.published, found.delivered) == (1_000, 5_000)
    assert (found.published_in_all, found.delivered_in_all) == (5_000, 25_000)
    assert (found.tpm_signatures, found.tpm_contents, found.tpm_largest) == (10, 40, 64)
    assert found.tpm_busy == pytest.approx(0.5)
    assert (found.signature_hits, found.chain_hits) == (0.99, 0.99)
    assert found.talk == (("operations", "operations", 300), ("command", "architecture", 20))
    assert found.latency["p50_ms"] == pytest.approx(1, rel=0.04)
    assert found.latency["p99.9_ms"] == pytest.approx(100, rel=0.04)


def test_a_fleet_that_has_only_begun_has_figures_too():
    nothing = {"seconds": 0.0, "processes": 1, "agents": 0, "lost": {}, "hosts": {}, "broker": {}, "tpm": {}, "play": {}}
    found = figures(nothing, nothing)
    assert (found.published, found.tpm_contents, found.talk) == (0, 0, ())


def test_the_table_shows_them():
    text = StringIO()
    Console(file=text, width=140).print(drawn(figures(reading(10.0, 3), reading(12.0, 5))))
    shown = text.getvalue()
    for expected in ("76 agents in 2 processes", "1,000", "25,000", "link_full 15", "40.0 (largest 64)", "99.0%", "architecture"):
        assert expected in shown
