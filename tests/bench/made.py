"""Steps and results for tests, with figures that are said or else plain."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bus.bench.result import Result, Run
from bus.bench.step import Latency, Moment, Process, Step

PLAIN = Step(
    rate=1_000.0, seconds=1.0, size=256, sent=1_000, not_sent={}, due=1_000, delivered=1_000, in_time=1_000, lost=0, duplicated=0,
    reordered=0, sent_a_second=1_000.0, delivered_a_second=1_000.0, latency=Latency(1_000, 1.0, 2.0, 3.0, 4.0, 5.0, 1.5),
    over_time=(Moment(0.0, 500, 1.0, 2.0, 3.0), Moment(0.5, 500, 1.0, 2.0, 3.0)),
    processes=(Process("hub", 0.01, 1.0, 60.0), Process("sender 1", 0.02, 2.0, 61.0), Process("bench", 0.001, 0.1, 50.0)),
    costs={"hub": 10.0, "sender": 20.0, "generator": 2.0},
    tpm={"operations": 1, "per_million": 1_000.0, "contents": 1.0, "busy": 0.1},
    caches={"signatures": 0.99}, algorithms={"ecc256/sha3-256": 1},
    proof={"signatures_verified": 10, "envelopes_opened": 10, "messages_handed_over": 1_000, "refused": 0, "policy_refuses": 1,
           "bodies_distinct": True},
)  # fmt: skip
WORDS = {"name": "made", "about": "made up", "kind": "stream", "transport": "unix", "delivery": "live", "senders": 1, "readers": 1,
         "processes": 2, "size": 256, "rates": [1_000.0], "call": "publish", "kill_broker": False, "tpm_delay": None}  # fmt: skip
MACHINE = {"cores": 2, "processor": "some", "python": "3.11", "loop": "uvloop"}


def step(**figures: Any) -> Step:
    return replace(PLAIN, **figures)


def result(*runs: list[Step], is_search: bool = False, **words: Any) -> Result:
    """Of these steps, a list for each run."""
    made = tuple(Run(tuple(steps)) for steps in runs)
    return Result("made", WORDS | words, MACHINE, "2026-01-01T00:00:00+00:00", made, is_search=is_search)


def latency(p50: float) -> Latency:
    return Latency(1_000, p50, p50 * 2, p50 * 3, p50 * 4, p50 * 5, p50)
