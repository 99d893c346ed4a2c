"""What is shown of a running fleet, out of two readings of it."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from bus.fleet.figures import figures
from bus.fleet.live_table import drawn, duration
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
                "verifying": {
                    "verifications": 90_000,
                    "proved": 50 * times,
                    "handed_over": 5_000 * times,
                    "chain_hits": 99,
                    "chain_misses": 1,
                }
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
    assert (found.signature_hits, found.chain_hits) == (None, None)


def test_more_signatures_than_messages_are_no_share_below_nothing():
    twice = reading(1.0, 1)
    twice["hosts"]["keyring"]["verifying"] |= {"proved": 40, "handed_over": 10}
    assert figures(twice, twice).signature_hits == 0


def test_the_table_shows_them():
    text = StringIO()
    Console(file=text, width=140).print(drawn(figures(reading(10.0, 3), reading(12.0, 5))))
    shown = text.getvalue()
    for expected in ("76 agents in 2 processes", "1,000", "25,000", "link_full 15", "40.0", "64", "99.0%", "architecture"):
        assert expected in shown


ROLES = ("infrastructure", "operations", "development", "architecture", "command")


@pytest.mark.parametrize("height", [24, 50])
@pytest.mark.parametrize("width", [40, 80, 100, 140])
def test_a_frame_is_never_larger_than_its_terminal(width, height):
    busy = [reading(10.0, 3_000), reading(12.0, 500_000)]
    busy[0]["play"]["talk"] = {}
    busy[1]["play"]["talk"] = {f"{sender}>{reader}": 100 for sender in ROLES for reader in ROLES}
    busy[1]["lost"] = busy[1]["hosts"]["refusals"] = {f"a_long_reason_{number}": number for number in range(1, 9)}
    text = StringIO()
    Console(file=text, width=width, height=height).print(drawn(figures(*busy), ending="ending: what was said is still taken in"))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert len(lines) <= height
    assert not lines[-1], "the cursor waits in a line of its own"
    if width >= 80:
        assert "still taken in" in lines[0]
        assert "who talks to whom" in text.getvalue()
        assert "…" not in text.getvalue().partition("messages")[2], "numbers and their names are whole"


def test_what_has_not_happened_yet_has_no_duration_and_no_share():
    nothing = {"seconds": 0.0, "processes": 1, "agents": 0, "lost": {}, "hosts": {}, "broker": {}, "tpm": {}, "play": {}}
    text = StringIO()
    Console(file=text, width=100).print(drawn(figures(nothing, nothing)))
    assert text.getvalue().split().count("-") == 8


@pytest.mark.parametrize(
    ("milliseconds", "shown"), [(0.0421, "0.04 ms"), (9.876, "9.88 ms"), (98.76, "98.8 ms"), (987.6, "988 ms"), (12_345, "12.3 s")]
)
def test_durations_have_three_digits(milliseconds, shown):
    assert duration(milliseconds) == shown
