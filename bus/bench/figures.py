"""What the processes of a step read -> the step. Pure.

Every process notes its processor time and its statistics at both ends of the window; what lies between is the step's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bus.bench.ear import added as heard_by_all
from bus.bench.ear import merged, unpacked
from bus.bench.order import SLOTS, Order
from bus.bench.step import Latency, Moment, Process, Step
from bus.metrics.sources import added, since
from bus.protocol.suites import HOST_SUITE

_CHIP_WORK: Final = ("create", "seal", "unseal", "certify", "quote", "activate")
"""Operations of the TPM besides signatures, which are counted by themselves: one covers many contents."""


@dataclass(frozen=True, slots=True)
class Around:
    """What was measured from outside: of each process its most memory, and of those that do not measure themselves the time."""

    memory_mib: Mapping[str, float]
    cpu_seconds: Mapping[str, float]


def step_of(
    order: Order, readings: Sequence[Mapping[str, Any]], around: Around, *, harness: Mapping[str, float], is_identity: bool
) -> Step:
    """`readings`: of every worker, as its `read` gives them. `harness`: what making and hearing a body takes, in microseconds."""
    senders = [sender for reading in readings for sender in reading["senders"]]
    ear = heard_by_all(reading["ear"] for reading in readings)
    sent = sum(sender["sent"] for sender in senders)
    not_sent = added(sender["not_sent"] for sender in senders)
    copies = sum(sender["copies"] for sender in senders)
    messages = sum(_between(reading, "sent") for reading in readings)
    processes = _processes(order, readings, around)
    passed = _statistics(readings)
    return Step(
        rate=order.rate,
        seconds=order.seconds,
        size=order.size,
        sent=sent,
        not_sent={name: count for name, count in not_sent.items() if count},
        due=sum(sender["due"] for sender in senders),
        delivered=ear["delivered"],
        in_time=ear["in_time"],
        lost=max(copies - ear["delivered"], 0) + sum(sender.get("unanswered", 0) for sender in senders),
        duplicated=ear["duplicated"] + sum(reading.get("asked", {}).get("duplicated", 0) for reading in readings),
        reordered=ear["reordered"] + sum(reading.get("asked", {}).get("reordered", 0) for reading in readings),
        sent_a_second=sum(_a_second(reading, "sent") for reading in readings),
        delivered_a_second=sum(_a_second(reading, "heard") for reading in readings),
        latency=Latency.of(unpacked(ear["latency"])),
        round_trip=Latency.of(merged(unpacked(sender.get("round_trip", {})) for sender in senders)),
        generator_late=Latency.of(merged(unpacked(sender["late"]) for sender in senders)),
        apart={kind: Latency.of(unpacked(one)) for kind, one in sorted(ear["apart"].items())},
        over_time=_over_time(order, ear["slots"]),
        processes=processes,
        costs=_costs(processes, messages, harness),
        tpm=_tpm(passed, messages, order.seconds),
        caches=_caches(passed),
        algorithms=_algorithms(passed, is_identity=is_identity),
        proof=_proof(passed, readings, ear),
        longest_silence=ear["longest_silence"],
    )


def of_statistics(passed: Mapping[str, Any], *, messages: int, seconds: float, refuses: int) -> dict[str, Any]:
    """What of a step the statistics alone say, by the names of its fields: for whoever measures without readings and ears.

    `passed`: hosts, broker and tpm, each what was counted meanwhile.
    """
    return {
        "tpm": _tpm(passed, messages, seconds),
        "caches": _caches(passed),
        "algorithms": _algorithms(passed, is_identity=False),
        "proof": _proof(passed, [{"refuses": refuses}], {"duplicated": 0}),
    }


def _between(reading: Mapping[str, Any], name: str) -> float:
    first, last = reading["marks"][0], reading["marks"][1]
    return float(last[name] - first[name])


def _a_second(reading: Mapping[str, Any], name: str) -> float:
    return _between(reading, name) / max(_between(reading, "ns") / 1e9, 1e-9)


def _over_time(order: Order, slots: Mapping[str, Any]) -> tuple[Moment, ...]:
    found = []
    for name, packed in sorted(slots.items(), key=lambda item: int(item[0])):
        latency = Latency.of(unpacked(packed))
        at = int(name) * order.seconds / SLOTS
        found.append(Moment(at, latency.count, latency.p50, latency.p99, latency.max))
    return tuple(found)


def _processes(order: Order, readings: Sequence[Mapping[str, Any]], around: Around) -> tuple[Process, ...]:
    times = {reading["name"]: (_between(reading, "cpu"), _between(reading, "ns") / 1e9) for reading in readings}
    times |= {name: (seconds, order.seconds) for name, seconds in around.cpu_seconds.items()}
    return tuple(
        Process(name, spent, 100 * spent / max(seconds, 1e-9), around.memory_mib.get(name, 0.0))
        for name, (spent, seconds) in times.items()
    )


def _costs(processes: Sequence[Process], messages: float, harness: Mapping[str, float]) -> dict[str, float]:
    """By what a process does: several of a kind add up."""
    if not messages:
        return {}
    found = Counter[str]()
    for process in processes:
        found[process.name.rstrip("0123456789 ")] += process.cpu_seconds / messages * 1e6  # type: ignore[assignment]  # a Counter adds floats as well
    return {**found, "generator": harness.get("make", 0.0) + harness.get("hear", 0.0)}


def _statistics(readings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """hosts, broker and tpm, between both ends of the window, of hub and gateway together. A broker that was started again counts
    from nothing: what it did before is not known."""
    hosts = added(since(reading["marks"][0]["hosts"], reading["marks"][1]["hosts"]) for reading in readings)
    hubs = [[mark["hub"] for mark in reading["marks"][:2] if "hub" in mark] for reading in readings]
    passed = [_of_a_hub(*both) for both in hubs if len(both) == 2]
    return {"hosts": hosts, "broker": added(one["broker"] for one in passed), "tpm": added(one["tpm"] for one in passed)}


def _of_a_hub(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    is_same = before["broker"].get("starts") == after["broker"].get("starts")
    broker = since(before["broker"] if is_same else {}, after["broker"])
    return {"broker": broker, "tpm": since(before["tpm"], after["tpm"])}


def _tpm(passed: Mapping[str, Any], messages: float, seconds: float) -> dict[str, float]:
    tpm = passed["tpm"]
    if not tpm:
        return {}
    signatures, done = tpm.get("signatures", 0), tpm.get("operations", {})
    operations = signatures + sum(done.get(name, 0) for name in _CHIP_WORK)
    return {
        "operations": operations,
        "per_million": operations / messages * 1e6 if messages else 0.0,
        "contents": tpm.get("signed_contents", 0) / signatures if signatures else 0.0,
        "busy": min(tpm.get("busy", 0.0) / seconds / max(1, len(tpm.get("tpms", ()))), 1.0),
    }


def _caches(passed: Mapping[str, Any]) -> dict[str, float]:
    """`signatures`: of the messages handed over, how many needed no verification of their own; `chains`: of certificates."""
    found = {}
    verifying = passed["hosts"].get("keyring", {}).get("verifying", {})
    if handed := verifying.get("handed_over", 0):
        found["signatures"] = max(1 - verifying.get("proved", 0) / handed, 0.0)
    hits, misses = verifying.get("chain_hits", 0), verifying.get("chain_misses", 0)
    if hits + misses:
        found["chains"] = hits / (hits + misses)
    return found


def _algorithms(passed: Mapping[str, Any], *, is_identity: bool) -> dict[str, int]:
    """The TPM's signatures by suite, and the sessions': one a turn."""
    found = {name: count for name, count in passed["tpm"].get("algorithms", {}).items() if count}
    broker = passed["broker"]
    turns = broker.get("turns", 0) - broker.get("turns_of_neighbours", 0)
    return found if is_identity or not turns else {**found, f"{HOST_SUITE.name} (sessions)": turns}


def _proof(passed: Mapping[str, Any], readings: Sequence[Mapping[str, Any]], ear: Mapping[str, Any]) -> dict[str, Any]:
    verifying = passed["hosts"].get("keyring", {}).get("verifying", {})
    return {
        "signatures_verified": verifying.get("verifications", 0),
        "envelopes_opened": verifying.get("opened", 0),
        "messages_handed_over": verifying.get("handed_over", 0),
        "refused": sum(passed["hosts"].get("refusals", {}).values()) + sum(passed["broker"].get("refused", {}).values()),
        "policy_refuses": sum(reading["refuses"] for reading in readings),
        "bodies_distinct": not ear["duplicated"],
    }
