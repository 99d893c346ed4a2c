"""Many agents: a thousand on one broker, and a hundred processes of ten that start at the same time with one TPM service.

`make test` has forty of them in each: all that a hundred would do is done, by more than two of each kind.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from policies_of_scenarios import POLICY
from sizes import note, size
from troupe import PATIENCE, Actor, Company, Nursery, company

pytestmark = [pytest.mark.soak, pytest.mark.timeout(size(120, 1_800))]
LIVE = 1
TEN = 10
LONG = size(PATIENCE, 900.0)
"""For papers of all of them: how long that takes is a figure here, and no assertion."""


def named(count: int) -> list[str]:
    return [f"NODE{number:04}" for number in range(count)]


@pytest.fixture
def crowd(nursery: Nursery, tmp_path: Path, runtime: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Company, list[str]]]:
    """A new bus with so many agents in its policy, of whom none has papers yet."""
    names = named(request.param)
    policy = POLICY.replace("EVE: guest}", "EVE: guest, " + ", ".join(f"{name}: worker" for name in names) + "}")
    with company(nursery, None, tmp_path, runtime, policy) as found:
        yield found, names


def parts(names: list[str], size_: int) -> list[list[str]]:
    return [names[first : first + size_] for first in range(0, len(names), size_)]


def told_all(actors: list[Actor], do: str, orders: list[dict[str, object]]) -> None:
    """All at the same time."""
    for actor, order in zip(actors, orders, strict=True):
        actor.tell(do, **order)
    for actor in actors:
        actor.answer(LONG)


@pytest.mark.parametrize("crowd", [size(40, 1_000)], indirect=True)
def test_so_many_agents_on_one_broker_all_hear_all(crowd: tuple[Company, list[str]]):
    bus_of, names = crowd
    messages = size(20, 200)
    hub, lead = bus_of.hub(), bus_of.agents("LEAD")
    lots = parts(names, len(names) // 4)
    processes = [bus_of.agents() for _ in lots]
    began = time.monotonic()
    told_all(processes, "open", [{"names": lot, "url": None} for lot in lots])
    note(f"{len(names)} agents get their papers and are on the bus", time.monotonic() - began, "s", 120)
    for process, lot in zip(processes, lots, strict=True):
        for name in lot:
            process.ask("subscribe", name=name, pattern="tasks.>")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=messages, rate=size(0, 50))
    for process, lot in zip(processes, lots, strict=True):
        for name in lot:
            found = process.ask("until", key=name, run=LIVE, count=messages)
            assert (found["messages"], found["missed"], found["twice"]) == (messages, 0, 0)
    counted = hub.ask("statistics")
    assert counted["broker"]["agents"] == len(names) + 1
    assert counted["broker"]["refused"] == {}
    note(f"the hub with {len(names)} agents", counted["peak_mb"], "MB", 300)


@pytest.mark.parametrize("crowd", [size(TEN * 4, TEN * 100)], indirect=True)
def test_so_many_processes_of_ten_start_at_once_with_one_tpm_service(crowd: tuple[Company, list[str]]):
    bus_of, names = crowd
    bus_of.hub()
    maker = bus_of.agents()
    began = time.monotonic()
    maker.ask("open", within=LONG, names=names, url=None)
    note(f"papers for {len(names)} agents, in one process", time.monotonic() - began, "s", 120)
    maker.end()
    service = bus_of.service_pid
    lots = parts(names, TEN)
    began = time.monotonic()
    processes = [bus_of.start("agents", outside=True) for _ in lots]
    for process in processes:
        process.hear()
    told_all(processes, "open", [{"names": lot, "url": None} for lot in lots])
    took = time.monotonic() - began
    note(f"{len(lots)} processes of ten agents, from their start until all are on the bus", took, "s", 60)
    assert bus_of.service_pid == service
    assert sum(one["live"] for one in bus_of.desk("agents", names=names)) == len(names)
