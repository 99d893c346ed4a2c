"""What a person wants to see of a running fleet, worked out of two readings of everything that counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bus.metrics.histogram import Histogram
from bus.metrics.sources import counts, since

TALKERS: Final = 24
"""Rows of who talks to whom, at most: a small terminal shows fewer."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Rates are of the last interval, counts since the beginning."""

    seconds: float
    processes: int
    agents: int
    lost: Mapping[str, int]
    published: float
    delivered: float
    published_in_all: int
    delivered_in_all: int
    dropped: Mapping[str, int]
    refused: Mapping[str, int]
    latency: Mapping[str, float]
    """Of the reference traffic, since the beginning, in milliseconds."""
    round_trip: Mapping[str, float]
    tpm_signatures: float
    tpm_contents: float
    """That a signature covered, on average."""
    tpm_largest: int
    tpm_busy: float
    """Share of the interval."""
    signature_hits: float | None
    """Share of the messages handed over that needed no signature of their own to be verified; None while there are none."""
    chain_hits: float | None
    """Of certificates, how many were known already."""
    talk: tuple[tuple[str, str, float], ...]
    """Role, role, deliveries a second."""


def figures(before: Mapping[str, Any], now: Mapping[str, Any]) -> Figures:
    """Each reading: seconds, processes, agents, lost, hosts, broker, tpm, play, as `reading` of a fleet gives them."""
    passed, seconds = since(before, now), max(now["seconds"] - before["seconds"], 1e-9)
    sent, received = passed["hosts"].get("sent", {}), passed["hosts"].get("received", {})
    tpm, verifying = passed["tpm"], now["hosts"].get("keyring", {}).get("verifying", {})
    return Figures(
        seconds=now["seconds"],
        processes=now["processes"],
        agents=now["agents"],
        lost=now["lost"],
        published=sent.get("published", 0) / seconds,
        delivered=received.get("delivered", 0) / seconds,
        published_in_all=now["hosts"].get("sent", {}).get("published", 0),
        delivered_in_all=now["hosts"].get("received", {}).get("delivered", 0),
        dropped=counts(now["broker"], "dropped"),
        refused={**counts(now["broker"], "refused"), **now["hosts"].get("refusals", {})},
        latency=_histogram(now, "latency").summary(),
        round_trip=_histogram(now, "round_trip").summary(),
        tpm_signatures=tpm.get("signatures", 0) / seconds,
        tpm_contents=_share(tpm.get("signed_contents", 0), tpm.get("signatures", 0)),
        tpm_largest=now["tpm"].get("largest_batch", 0),
        tpm_busy=min(tpm.get("busy", 0.0) / seconds / max(1, len(tpm.get("tpms", ()))), 1.0),
        signature_hits=_spared(verifying.get("proved", 0), verifying.get("handed_over", 0)),
        chain_hits=_spared(verifying.get("chain_misses", 0), verifying.get("chain_hits", 0) + verifying.get("chain_misses", 0)),
        talk=_talk(passed.get("play", {}).get("talk", {}), seconds),
    )


def _histogram(reading: Mapping[str, Any], name: str) -> Histogram:
    return Histogram.unpacked(reading.get("play", {}).get(name, {}))


def _talk(counts: Mapping[str, int], seconds: float) -> tuple[tuple[str, str, float], ...]:
    most = sorted(counts.items(), key=lambda item: -item[1])[:TALKERS]
    return tuple((*_pair(name), count / seconds) for name, count in most if count)


def _pair(name: str) -> tuple[str, str]:
    sender, _, reader = name.partition(">")
    return sender, reader


def _spared(work: float, whole: float) -> float | None:
    """The share for which nothing had to be done. Two signatures of one message can be more work than there are messages."""
    return max(1 - work / whole, 0.0) if whole else None


def _share(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
