"""Readings of several processes -> one step: what lies between both ends of the window, and books that add up."""

from __future__ import annotations

import time

import pytest

from bus.bench.ear import Ear, packed
from bus.bench.figures import Around, step_of
from bus.bench.order import Order
from bus.bench.record import Bodies
from bus.metrics.histogram import Histogram

ORDER = Order(number=1, rate=100.0, begin_ns=1_000, warm_seconds=1.0, seconds=2.0, size=64)
NO_EAR = Ear(ORDER, time.monotonic_ns, sources=0).reading()
HUB = {
    "broker": {"turns": 10, "refused": {}, "starts": 1},
    "tpm": {
        "signatures": 5,
        "signed_contents": 5,
        "operations": {"create": 2, "facts": 9},
        "busy": 1.0,
        "algorithms": {"ecc256/sha256": 5},
    },
}
LATER = {
    "broker": {"turns": 30, "refused": {"replayed": 1}, "starts": 1},
    "tpm": {
        "signatures": 9,
        "signed_contents": 45,
        "operations": {"create": 3, "facts": 19},
        "busy": 1.5,
        "algorithms": {"ecc256/sha256": 9},
    },
}


def mark(seconds: float, cpu: float, sent: int = 0, heard: int = 0, **more: object) -> dict:
    return {"ns": int(seconds * 1e9), "cpu": cpu, "sent": sent, "heard": heard, "hosts": {}, **more}


def reading(name: str, *marks: dict, senders: tuple = (), ear: dict = NO_EAR, refuses: int = 0) -> dict:
    return {"name": name, "marks": list(marks), "senders": list(senders), "ear": ear, "refuses": refuses}


def heard(count: int) -> dict:
    ear, make = Ear(ORDER, lambda: ORDER.measure_ns + 5_000_000, sources=1), Bodies(0).maker(step=1, size=64)
    for number in range(count):
        ear.hear(make(number, ORDER.due_ns(number, 0, 1)))
    return ear.reading()


def made(*, delivered: int = 290, later: dict = LATER, beside: tuple[dict, ...] = ()):
    sender = {"due": 300, "sent": 295, "copies": 295, "not_sent": {"too_late": 5, "overloaded": 0}, "late": packed(Histogram())}
    verifying = [
        {
            "keyring": {
                "verifying": {"handed_over": count, "verifications": count // 10, "proved": count // 10, "opened": count // 10}
            }
        }
        for count in (0, 200)
    ]
    readings = [
        reading("hub", mark(0, 1.0, hub=HUB), mark(2, 1.2, hub=later)),
        reading("sender 1", mark(0, 0.5, sent=100), mark(2, 0.9, sent=300), senders=(sender,), refuses=1),
        reading(
            "reader 1",
            mark(0, 0.2, heard=95) | {"hosts": verifying[0]},
            mark(2, 0.4, heard=285) | {"hosts": verifying[1]},
            ear=heard(delivered),
        ),
        *beside,
    ]
    around = Around({"hub": 60.0, "sender 1": 50.0}, {"tpm": 0.02, "bench": 0.01})
    return step_of(ORDER, readings, around, harness={"make": 1.0, "hear": 2.0}, is_identity=False)


def test_counts_add_up():
    step = made()
    assert (step.due, step.sent, step.not_sent) == (300, 295, {"too_late": 5})
    assert (step.delivered, step.lost) == (290, 5)
    assert not step.kept
    assert step.share == pytest.approx(290 / 300)


def test_what_went_wrong_with_requests_is_counted_where_it_shows():
    """The mix knows whose reply never came, and who answers what came twice or after a later one."""
    asked = reading("reader 2", mark(0, 0.0), mark(2, 0.0)) | {"asked": {"duplicated": 2, "reordered": 1}}
    asking = reading("fleet 1", mark(0, 0.0), mark(2, 0.0))
    asking["senders"] = [{"due": 0, "sent": 0, "copies": 0, "unanswered": 3, "not_sent": {}, "late": packed(Histogram())}]
    plain, step = made(), made(beside=(asked, asking))
    assert (step.lost, step.duplicated, step.reordered) == (plain.lost + 3, plain.duplicated + 2, plain.reordered + 1)


def test_rates_are_of_the_window():
    step = made()
    assert (step.sent_a_second, step.delivered_a_second) == (100.0, 95.0)


def test_processor_time_is_of_the_window_and_of_a_message():
    step = made()
    spent = {process.name: process.cpu_seconds for process in step.processes}
    assert spent == pytest.approx({"hub": 0.2, "sender 1": 0.4, "reader 1": 0.2, "tpm": 0.02, "bench": 0.01})
    assert step.costs == pytest.approx({"hub": 1_000, "sender": 2_000, "reader": 1_000, "tpm": 100, "bench": 50, "generator": 3})
    assert step.cpu_of_message == pytest.approx(4_100)
    assert {process.name: process.memory_mib for process in step.processes}["hub"] == 60


def test_the_tpm_is_told_by_what_its_chip_did():
    step = made()
    assert step.tpm == pytest.approx({"operations": 5, "per_million": 25_000, "contents": 10, "busy": 0.25})
    assert step.algorithms["ecc256/sha256"] == 4
    assert 20 in step.algorithms.values(), "the sessions' own: one a turn"


def test_the_statistics_prove_what_was_done():
    step = made()
    assert step.proof == {
        "signatures_verified": 20, "envelopes_opened": 20, "messages_handed_over": 200, "refused": 1, "policy_refuses": 1,
        "bodies_distinct": True,
    }  # fmt: skip
    assert step.caches["signatures"] == pytest.approx(0.9)


def test_a_broker_that_was_started_again_counts_from_nothing():
    again = LATER | {"broker": {"turns": 3, "refused": {}, "starts": 2}}
    assert 3 in made(later=again).algorithms.values()


def test_hub_and_gateway_add_up_and_what_passed_both_counts_once():
    early, late = ({"broker": {"turns": turns, "turns_of_neighbours": turns, "refused": {}}} for turns in (5, 25))
    step = made(beside=(reading("gateway", mark(0, 0.0, hub=HUB | early), mark(2, 0.1, hub=LATER | late)),))
    assert step.algorithms["ecc256/sha256"] == 8
    assert 20 in step.algorithms.values()
    assert step.tpm["operations"] == 10


def test_latency_over_time_is_in_its_places():
    step = made()
    assert [moment.at for moment in step.over_time] == sorted(moment.at for moment in step.over_time)
    assert sum(moment.count for moment in step.over_time) == step.latency.count == 190
