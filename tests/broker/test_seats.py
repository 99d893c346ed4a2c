"""Seats of a link are found by agent: what one costs does not grow with how many others are on the link."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from types import FrameType
from typing import Any

import anyio.lowlevel
import pytest
from played import Stage
from played_neighbour import PlayedNeighbour
from small_world import World

from bus.broker.host_link import HostLink, Subscription
from bus.broker.joining import AT_ONCE
from bus.broker.seats import MAX_SESSIONS, Seats
from bus.identity.envelopes.believe import Believed, believe
from bus.protocol.frames import DURABLE, Frame
from bus.protocol.neighbour_frames import Between
from bus.transport.memory import memory_pair

pytestmark = pytest.mark.anyio


@pytest.fixture
def believed(world: World) -> Believed:
    return believe(world.agent("BUILDER").papers, world.verifier, now_ms=world.now)


def _seats(believed: Believed, count: int) -> tuple[Seats, HostLink]:
    seats, host = Seats(), HostLink(1, memory_pair()[0], now=0)
    for number in range(count):
        seats.take(host, _named(believed, f"A{number}"))
    return seats, host


def _named(believed: Believed, name: str, id_: bytes = b"") -> Believed:
    return replace(believed, name=name, id=id_ or name.encode())


def _steps(work: Callable[[], Any]) -> int:
    """How many instructions of Python that takes: a measure that is the same on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("what", ["take", "leave", "renew"])
async def test_a_seat_costs_the_same_however_many_agents_are_on_the_link(believed: Believed, what: str):
    costs = []
    for count in (3, 1_000):
        seats, host = _seats(believed, count)
        works: dict[str, Callable[[], Any]] = {
            "take": partial(seats.take, host, _named(believed, "B")),
            "leave": partial(seats.leave, host, "A1"),
            "renew": partial(seats.take, host, _named(believed, "A1", b"next")),
        }
        costs.append(_steps(works[what]))
    assert costs[0] == costs[1] > 0


async def test_the_sessions_of_an_agent_have_a_bound_and_go_with_it(believed: Believed):
    seats, host = _seats(believed, 3)
    for number in range(2 * MAX_SESSIONS):
        seats.take(host, _named(believed, "A1", bytes([number])))
    assert len(host.sessions_of["A1"]) == MAX_SESSIONS
    assert len(host.sessions) == MAX_SESSIONS + 2
    seats.leave(host, "A1")
    assert {*host.sessions} == {b"A0", b"A2"}
    assert {*host.sessions_of} == {"A0", "A2"}


async def test_sessions_that_are_over_are_forgotten_by_both_ways(believed: Believed):
    seats, host = _seats(believed, 1)
    seats.take(host, replace(_named(believed, "A0", b"next"), not_before_ms=believed.not_before_ms + 1))
    seats.forget(believed.not_after_ms + 3_600_000)
    assert [*host.sessions] == [*host.sessions_of["A0"]] == [b"next"]


async def test_subscriptions_are_found_by_agent():
    host = HostLink(1, memory_pair()[0], now=0)
    for number in range(10):
        host.subscriptions[number] = Subscription(host, number, f"A{number % 3}", "tasks.>", "", "block", 1, 1)
    assert [one.number for one in host.subscriptions.of("A1")] == [1, 4, 7]
    for number in (1, 4, 7):
        del host.subscriptions[number]
    assert host.subscriptions.of("A1") == []
    assert len(host.subscriptions) == 7
    assert {*host.subscriptions._of} == {"A0", "A2"}


async def test_to_unseat_somebody_costs_the_same_however_many_listen_there(stage: Stage):
    neighbour = PlayedNeighbour(stage)
    await neighbour.meet()
    await neighbour.seats("TESTER")
    await neighbour.seats("BUILDER")
    [link] = [one for one in stage.broker._hosts if one.is_neighbour]
    places: Any = stage.broker._neighbours._places
    costs = []
    for count in (2, 500):
        for number in range(len(link.subscriptions) + 1, count + 1):
            neighbour.send(Frame.SUBSCRIBE, number, "TESTER", "tasks.>", "", "", "", 1, "drop_newest")
            await neighbour.hears()
        moment = stage.broker._moment()
        costs += [
            _steps(partial(places.unseated, link, [Between.UNSEATED, name], moment))
            for name in ("PACKER", "BUILDER")  # who is not there, and who is
        ]
        await neighbour.seats("BUILDER")
    assert costs[:2] == costs[2:]


@pytest.mark.parametrize("how", ["unseated", "taken over"])
async def test_the_subscriptions_of_an_agent_that_was_at_a_neighbour_end_a_few_at_a_time(stage: Stage, how: str):
    neighbour = PlayedNeighbour(stage)
    await neighbour.meet()
    await neighbour.seats("TESTER", later=-1)
    for number in range(1, 8 * AT_ONCE):
        neighbour.send(Frame.SUBSCRIBE, number, "TESTER", "tasks.>", "", "", "", 1, "drop_newest")
        if not number % 50:
            await neighbour.hears()
    await neighbour.hears()
    [link] = [one for one in stage.broker._hosts if one.is_neighbour]
    assert len(link.subscriptions) == 8 * AT_ONCE - 1
    if how == "unseated":
        neighbour.send(Between.UNSEATED, "TESTER")
    else:
        stage.broker._joining.leave(link, "TESTER", "session_replaced", stage.broker._moment())
    left = [8 * AT_ONCE - 1]
    for _ in range(60):
        if len(link.subscriptions) != left[-1]:
            left.append(len(link.subscriptions))
        await anyio.lowlevel.checkpoint()
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) < 4 * AT_ONCE  # a loop may take a few turns in one
    assert not neighbour.lost


async def test_new_papers_cost_the_same_however_many_others_listen(stage: Stage):
    director, builder = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await director.open("tasks.build")
    await builder.subscribe(1, "tasks.>")
    interest: Any = stage.broker._interest
    costs = []
    for more in (0, 500):
        interest.keep_far([(f"A{number}", "tasks.>", DURABLE) for number in range(more)], None)
        await director.hears()
        costs.append(_steps(partial(interest.renewed, "BUILDER")))
    assert costs[0] == costs[1]
    director.link.close()
    await builder.hears()
    assert interest._told == interest._told_by == {}
