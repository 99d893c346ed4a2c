"""A neighbour stops publishers here for a reader that it has, and not a moment longer; work goes past one that takes none."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import anyio.lowlevel
import pytest
from played import Played, Stage, settle, with_words
from played_neighbour import PlayedNeighbour
from town import town

from bus.broker import neighbour_lanes
from bus.broker.neighbour_lanes import LONG_SECONDS, RENEW_SECONDS, STOP_SECONDS
from bus.protocol.frames import Frame
from bus.protocol.neighbour_frames import Between

pytestmark = pytest.mark.anyio
GO_ON, STOP = 0, 1


async def _met(stage: Stage, **changes: Any) -> PlayedNeighbour:
    neighbour = PlayedNeighbour(stage, **changes)
    await neighbour.meet()
    assert neighbour.is_open
    return neighbour


async def _publisher(stage: Stage, *topics: str) -> Played:
    host = await stage.host("DIRECTOR")
    for topic in topics or ("tasks.build",):
        await host.open(topic)
    await host.hears()
    return host


async def _says(host: Played) -> list[int]:
    """What became of its lanes: 0 stopped, 1 goes on."""
    return [one[2] for one in await host.hears(Frame.OPENED)]


async def _stopping(stage: Stage, neighbour: PlayedNeighbour, host: Played) -> None:
    """A reader there blocks, and its topic is stopped."""
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "tasks.>", overflow="block")
    await neighbour.say(Between.STOP, "tasks.build", STOP)
    assert await _says(host) == [GO_ON]


def _named(stage: Stage, what: str) -> bool:
    return any("GATE" in one and what in one for one in stage.counted["offences"])


# ---- whose stop is heeded --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("listens", ["nobody", "drops", "elsewhere", "not allowed", "hidden"])
async def test_who_has_no_reader_that_blocks_and_may_hear_the_topic_stops_nobody_and_is_named(stage: Stage, listens: str):
    neighbour, host = await _met(stage), await _publisher(stage, "tasks.hidden", "tasks.build")
    await neighbour.seats("BUILDER")
    await neighbour.seats("MONITOR")
    if listens == "drops":
        await neighbour.subscribe(1, "BUILDER", "tasks.>")
    elif listens == "elsewhere":
        await neighbour.subscribe(1, "BUILDER", "tasks.build", overflow="block")
    elif listens == "not allowed":
        await neighbour.subscribe(1, "BUILDER", "results.>", overflow="block")
        await neighbour.subscribe(2, "TESTER", "tasks.>", overflow="block")
    elif listens == "hidden":
        await neighbour.subscribe(1, "MONITOR", ">", overflow="block")
    await host.hears()
    await neighbour.say(Between.STOP, "tasks.hidden", STOP)
    assert await _says(host) == []
    assert _named(stage, "has no reader")
    assert not neighbour.lost


async def test_a_reader_of_another_neighbour_does_not_bear_a_stop(stage: Stage):
    neighbour, other, host = await _met(stage), await _met(stage, name="OTHER"), await _publisher(stage)
    await other.seats("BUILDER")
    await other.subscribe(1, "BUILDER", "tasks.>", overflow="block")
    await neighbour.say(Between.STOP, "tasks.build", STOP)
    assert await _says(host) == []


async def test_more_topics_than_a_neighbour_may_stop_are_not_stopped_and_its_link_lives(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(neighbour_lanes, "MAX_STOPPED", 2)
    topics = [f"tasks.{number}" for number in range(4)]
    neighbour, host = await _met(stage), await _publisher(stage, *topics)
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "tasks.>", overflow="block")
    for topic in topics:
        neighbour.send(Between.STOP, topic, STOP)
    assert await _says(host) == [GO_ON, GO_ON]
    assert not neighbour.lost
    assert _named(stage, "more than 2 topics")


# ---- how it ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["unsubscribed", "unseated", "seated elsewhere", "policy", "lost"])
async def test_what_is_stopped_goes_on_when_its_reader_is_gone(stage: Stage, how: str):
    neighbour, host = await _met(stage), await _publisher(stage)
    await _stopping(stage, neighbour, host)
    if how == "unsubscribed":
        neighbour.send(Frame.UNSUBSCRIBE, 1)
    elif how == "unseated":
        neighbour.send(Between.UNSEATED, "BUILDER")
    elif how == "seated elsewhere":
        await stage.host("BUILDER")
    elif how == "policy":
        await stage.follow(policy=with_words('subscribe: ["tasks.>", "work.>", "ask.>"', 'subscribe: ["work.>", "ask.>"'))
    else:
        neighbour.link.close()
    assert await _says(host) == [STOP]
    late = await stage.host("DEPUTY")
    assert [one[2] for one in await late.open("tasks.build") if one[0] == Frame.OPENED] == [STOP]


async def test_another_reader_there_bears_the_stop_when_the_first_is_gone(stage: Stage):
    neighbour, host = await _met(stage), await _publisher(stage)
    await _stopping(stage, neighbour, host)
    await neighbour.subscribe(2, "BUILDER", "tasks.*", overflow="block")
    await neighbour.say(Frame.UNSUBSCRIBE, 1)
    assert await _says(host) == []
    await neighbour.say(Frame.UNSUBSCRIBE, 2)
    assert await _says(host) == [STOP]


async def test_a_stop_that_is_not_said_again_ends_and_the_neighbour_is_named(stage: Stage):
    async with stage.running():
        neighbour, host = await _met(stage), await _publisher(stage)
        await _stopping(stage, neighbour, host)
        await stage.later(STOP_SECONDS - 1, step=0.5)
        assert await _says(host) == []
        await stage.later(1.5, step=0.5)
        assert await _says(host) == [STOP]
        assert _named(stage, "does not say so again")


async def test_a_stop_that_is_said_again_stands_and_is_named_when_it_does_so_for_long(stage: Stage):
    async with stage.running():
        neighbour, host = await _met(stage), await _publisher(stage)
        await _stopping(stage, neighbour, host)
        for _ in range(int(LONG_SECONDS / RENEW_SECONDS)):
            assert not _named(stage, "keeps a topic stopped")
            await stage.later(RENEW_SECONDS, step=1.0)
            await neighbour.say(Between.STOP, "tasks.build", STOP)
        assert await _says(host) == []
        assert _named(stage, "keeps a topic stopped")
        await neighbour.say(Between.STOP, "tasks.build", GO_ON)
        assert await _says(host) == [STOP]


async def test_many_stops_that_end_at_once_are_lifted_a_few_at_a_time(stage: Stage):
    topics = [f"tasks.{number}" for number in range(300)]
    neighbour, host = await _met(stage), await _publisher(stage, *topics)
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "tasks.>", overflow="block")
    for topic in topics:
        neighbour.send(Between.STOP, topic, STOP)
        await settle()
    assert await _says(host) == [GO_ON] * len(topics)
    lanes = [lane for topic in topics for lane in stage.broker._lanes.of(topic)]
    neighbour.link.close()
    stopped = [len(lanes)]
    while stopped[-1]:
        await anyio.lowlevel.checkpoint()
        stopped.append(sum(lane.stops for lane in lanes))
    assert len({*stopped}) > 3
    assert await _says(host) == [STOP] * len(topics)


# ---- an honest one ---------------------------------------------------------------------------------------------------------------


async def test_a_busy_group_at_a_neighbour_keeps_the_publisher_stopped_for_as_long_as_it_is_busy():
    async with town() as two, AsyncExitStack() as stack:
        director = await stack.enter_async_context(two[0].agent("DIRECTOR"))
        builder = await stack.enter_async_context(two[1].agent("BUILDER"))
        tasks = await stack.enter_async_context(builder.subscribe("tasks.>", group="builders", limit=1))
        for number in range(3):
            await director.publish("tasks.build", number)
            await two.later(0.02, step=0.01)
        [lane] = two[0].broker._lanes.of("tasks.build")
        assert lane.stops == 1
        await two.later(2 * STOP_SECONDS, step=0.5)
        assert lane.stops == 1
        assert [(await anext(tasks)).body for _ in range(3)] == [0, 1, 2]
        await two.settle()
        assert lane.stops == 0


# ---- work of groups --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two deliveries that are not credited are all that a link takes, and three wait."""
    monkeypatch.setattr("bus.broker.outbox.MAX_UNTAKEN", 2)
    monkeypatch.setattr("bus.broker.outbox.MAX_WAITING", 3)


@pytest.mark.usefixtures("little")
async def test_a_neighbour_that_takes_nothing_in_does_not_keep_work_from_other_groups(stage: Stage):
    async with stage.running():
        neighbour, host, near = await _met(stage), await _publisher(stage), await stage.host("PACKER")
        await neighbour.seats("BUILDER")
        await neighbour.subscribe(1, "BUILDER", "tasks.>", group="testers")
        near.send(Frame.SUBSCRIBE, 1, "PACKER", "tasks.>", "builders", "", "new", 1_024, "block")
        await settle()
        await _says(host)
        for _ in range(12):
            host.publish(host.seal("tasks.build"), topic="tasks.build")
            assert len(await near.delivered()) == 1
            await stage.later(0.02, step=0.01)
        assert await _says(host) == []
        assert len(await neighbour.hears(Frame.DELIVER)) == 2
        assert stage.counted["dropped"] == {"neighbour_full": 7}
        neighbour.send(Frame.CREDIT, 1, 2)
        assert len(await neighbour.hears(Frame.DELIVER)) == 2


@pytest.mark.usefixtures("little")
async def test_what_a_full_neighbour_does_not_take_goes_to_another_or_waits_for_a_member_here(stage: Stage):
    async with stage.running():
        full, other, host = await _met(stage), await _met(stage, name="OTHER"), await _publisher(stage)
        await full.seats("BUILDER")
        await full.subscribe(1, "BUILDER", "tasks.>", group="builders")
        await other.seats("TESTER")
        await other.subscribe(1, "TESTER", "tasks.>", group="builders")
        got = 0
        for _ in range(10):
            host.publish(host.seal("tasks.build"), topic="tasks.build")
            came = len(await other.hears(Frame.DELIVER))
            if came:
                other.send(Frame.CREDIT, 1, came)
            got += came
        assert (got, len(await full.hears(Frame.DELIVER))) == (8, 2)
        other.link.close()
        near = await stage.host("PACKER")
        near.send(Frame.SUBSCRIBE, 1, "PACKER", "tasks.>", "builders", "", "new", 1, "block")
        await full.hears(Frame.SUBSCRIBE)
        for _ in range(3):
            host.publish(host.seal("tasks.build"), topic="tasks.build")
        assert len(await near.delivered()) == 1
        assert stage.counted["held"] == 2
        near.send(Frame.CREDIT, 1, 1)
        assert len(await near.delivered()) == 1
        assert stage.counted["dropped"] == {}


async def test_a_neighbour_that_has_stopped_the_topic_gets_no_work_that_another_takes(stage: Stage):
    stopped, other, host = await _met(stage), await _met(stage, name="OTHER"), await _publisher(stage)
    for neighbour, name in ((stopped, "BUILDER"), (other, "TESTER")):
        await neighbour.seats(name)
        await neighbour.subscribe(1, name, "tasks.>", group="builders", overflow="block")
    await stopped.say(Between.STOP, "tasks.build", STOP)
    for _ in range(4):
        host.publish(host.seal("tasks.build"), topic="tasks.build")
    assert (len(await stopped.hears(Frame.DELIVER)), len(await other.hears(Frame.DELIVER))) == (0, 4)
    await stopped.say(Between.STOP, "tasks.build", GO_ON)
    for _ in range(4):
        host.publish(host.seal("tasks.build"), topic="tasks.build")
    assert (len(await stopped.hears(Frame.DELIVER)), len(await other.hears(Frame.DELIVER))) == (2, 2)
