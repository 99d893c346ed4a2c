"""What a neighbour says of who listens is judged as what hosts say, bounded for each broker, and let go of while others go on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import anyio.lowlevel
import pytest
from played import Played, Stage, settle, with_words
from played_neighbour import PlayedNeighbour

from bus.broker import neighbour as limits
from bus.broker import neighbour_kept, neighbour_shares
from bus.protocol.frames import DURABLE, GONE, Frame, numbers

pytestmark = pytest.mark.anyio
WORKERS_LESS = ('subscribe: ["tasks.>", "work.>", "ask.>"', 'subscribe: ["tasks.>", "ask.>"')


async def _met(stage: Stage, **changes: Any) -> PlayedNeighbour:
    neighbour = PlayedNeighbour(stage, **changes)
    await neighbour.meet()
    assert neighbour.is_open
    return neighbour


async def _publisher(stage: Stage, topic: str = "work.build") -> Played:
    host = await stage.host("DIRECTOR")
    await host.open(topic)
    await host.hears()
    return host


async def _told(host: Played) -> list[list[Any]]:
    return [row for _, _, rows in await host.hears(Frame.INTEREST) for row in rows]


def _durable(stage: Stage) -> int:
    found: Any = stage.broker.statistics()["neighbours"]
    return int(found["durable"])


# ---- what is judged --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern", ["", "work..x", ">.work", "work.>.x", "work.*x", "work.\x00", "_reply.X", "_dead.work.>", "_audit.", "a" * 519]
)
async def test_a_durable_subscription_of_what_no_topic_can_be_ends_the_link_and_nobody_hears_of_it(stage: Stage, pattern: str):
    neighbour, host = await _met(stage), await _publisher(stage)
    await neighbour.say(Frame.INTEREST, 1, [("BUILDER", "work.>", DURABLE), ("BUILDER", pattern, DURABLE)])
    assert neighbour.lost
    assert stage.counted["cut"] == {"malformed": 1}
    assert await _told(host) == []
    assert _durable(stage) == 0


@pytest.mark.parametrize(
    "row", [("NOBODY", "work.>"), ("GUEST", "work.>"), ("BUILDER", ">"), ("BUILDER", "results.>"), ("BUILDER", "_audit.*")]
)
async def test_whom_policy_does_not_let_listen_publishers_do_not_hear_of_and_the_neighbour_is_named(
    stage: Stage, row: tuple[str, str]
):
    neighbour, host = await _met(stage), await _publisher(stage)
    neighbour.send(Frame.INTEREST, 1, [(*row, DURABLE), ("TESTER", "work.>", DURABLE)])
    assert await neighbour.hears(Frame.INTEREST_SEEN) == [[Frame.INTEREST_SEEN, 1]]
    assert await _told(host) == [["TESTER", "work.>", DURABLE]]
    assert _durable(stage) == 1
    assert any("GATE tells of a durable subscription" in one for one in stage.counted["offences"])


async def test_who_may_read_dead_letters_or_audit_is_told(stage: Stage):
    await stage.follow(policy=with_words("dead_readers: [MONITOR]", "dead_readers: [GUEST]"))
    neighbour, host = await _met(stage), await _publisher(stage)
    await host.open("_audit.DIRECTOR")
    await neighbour.say(Frame.INTEREST, 1, [("GUEST", "work.>", DURABLE), ("MONITOR", "_audit.*", DURABLE)])
    assert sorted(await _told(host)) == [["GUEST", "work.>", DURABLE], ["MONITOR", "_audit.*", DURABLE]]


async def test_what_policy_does_not_allow_is_told_of_when_another_does_and_taken_back_when_none_does_any_more(stage: Stage):
    neighbour, host = await _met(stage), await _publisher(stage)
    await neighbour.say(Frame.INTEREST, 1, [("TESTER", "work.>", DURABLE)])
    assert await _told(host) == [["TESTER", "work.>", DURABLE]]
    before = stage.world.policy
    await stage.follow(policy=with_words(*WORKERS_LESS))
    assert await _told(host) == [["TESTER", "work.>", GONE]]
    await neighbour.say(Frame.INTEREST, 2, [("BUILDER", "work.>", DURABLE), ("PACKER", "work.>", DURABLE)])
    await neighbour.say(Frame.INTEREST, 3, [("PACKER", "work.>", GONE)])
    assert await _told(host) == []
    await stage.follow(policy=before)
    assert sorted(await _told(host)) == [["BUILDER", "work.>", DURABLE], ["TESTER", "work.>", DURABLE]]
    assert _durable(stage) == 2


async def test_of_durable_subscriptions_that_policy_does_not_allow_the_oldest_go(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbour_kept, "MAX_ASIDE", 2)
    neighbour, host = await _met(stage), await _publisher(stage)
    before = stage.world.policy
    await stage.follow(policy=with_words(*WORKERS_LESS))
    await neighbour.say(Frame.INTEREST, 1, [(name, "work.>", DURABLE) for name in ("BUILDER", "TESTER", "PACKER")])
    await stage.follow(policy=before)
    assert sorted(await _told(host)) == [["PACKER", "work.>", DURABLE], ["TESTER", "work.>", DURABLE]]


async def test_a_live_subscription_that_blocks_and_was_set_aside_blocks_when_it_is_in_force(stage: Stage):
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "work.>", overflow="block")
    before = stage.world.policy
    await stage.follow(policy=with_words(*WORKERS_LESS))
    assert stage.broker._router.stopper(_link(stage), "work.build") is None
    await stage.follow(policy=before)
    found = stage.broker._router.stopper(_link(stage), "work.build")
    assert found is not None
    assert (found.number, found.blocks) == (1, False)


# ---- how much --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["live", "durable"])
async def test_more_bytes_of_subscriptions_than_a_broker_may_have_end_its_link(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, kind: str
):
    monkeypatch.setattr(neighbour_shares, "MAX_BYTES", 120)
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER")
    pattern = f"tasks.{'x' * 40}"
    for number, end in enumerate(("a", "b", "c"), 1):
        assert not neighbour.lost
        if kind == "live":
            await neighbour.subscribe(number, "BUILDER", pattern + end)
        else:
            await neighbour.say(Frame.INTEREST, number, [("BUILDER", pattern + end, DURABLE)])
    assert neighbour.lost
    await settle()
    assert _durable(stage) == 0


async def test_what_has_ended_makes_room_and_another_broker_has_room_of_its_own(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbour_shares, "MOST", 2)
    neighbour, other = await _met(stage), await _met(stage, name="OTHER")
    serials = iter(range(1, 99))
    for one in (neighbour, other):
        await one.say(Frame.INTEREST, next(serials), [("BUILDER", f"tasks.{number}", DURABLE) for number in range(2)])
    for number in range(2, 6):
        rows = [("BUILDER", f"tasks.{number - 1}", GONE), ("BUILDER", f"tasks.{number}", DURABLE)]
        await neighbour.say(Frame.INTEREST, next(serials), rows)
    assert not neighbour.lost
    assert not other.lost
    assert _durable(stage) == 4


async def test_a_broker_that_comes_again_says_the_same_while_its_last_link_is_let_go_of(stage: Stage):
    rows = [("BUILDER", f"tasks.{number}", DURABLE) for number in range(500)]
    neighbour, host = await _met(stage), await _publisher(stage, "tasks.7")
    await neighbour.say(Frame.INTEREST, 1, rows)
    assert await _told(host) == [["BUILDER", "tasks.7", DURABLE]]
    again = PlayedNeighbour(stage, session=neighbour.session)
    neighbour.link.close()
    await again.meet()
    await again.say(Frame.INTEREST, 1, rows)
    await settle()
    assert _durable(stage) == 500
    told = await _told(host)
    assert told[-1:] in ([], [["BUILDER", "tasks.7", DURABLE]])


async def test_who_says_the_same_a_thousand_times_makes_no_route_longer(stage: Stage):
    neighbour, host = await _met(stage), await _publisher(stage, "tasks.build")
    await neighbour.seats("BUILDER")
    router = stage.broker._router
    await neighbour.subscribe(1, "BUILDER", "tasks.>", group="builders")
    await neighbour.subscribe(2, "BUILDER", "tasks.>")
    route = router.route("tasks.build")
    for number in range(3, 40):
        await neighbour.subscribe(number, "BUILDER", "tasks.>", group="builders" if number % 2 else "")
    assert router.route("tasks.build") is route
    for number in (5, 7, 8, 10):
        await neighbour.say(Frame.UNSUBSCRIBE, number)
    assert router.route("tasks.build") is route
    standing = {*range(1, 40)} - {5, 7, 8, 10}
    while standing:
        host.publish(host.seal("tasks.build"), topic="tasks.build")
        [[_, _, chosen, *_]] = await neighbour.hears(Frame.DELIVER)
        assert {*numbers(chosen)} <= standing
        assert bool(chosen) == any(number % 2 for number in standing)
        gone = {*numbers(chosen)} or {max(standing)}
        for number in gone:
            await neighbour.say(Frame.UNSUBSCRIBE, number)
        standing -= gone
    host.publish(host.seal("tasks.build"), topic="tasks.build")
    assert await neighbour.hears(Frame.DELIVER) == []
    assert len(router) == 0


# ---- how long --------------------------------------------------------------------------------------------------------------------


def _rows(count: int, how: int = DURABLE) -> list[tuple[str, str, int]]:
    names = ("BUILDER", "TESTER", "PACKER")
    return [(name, pattern, how) for pattern in _patterns(count // len(names)) for name in names]


def _patterns(count: int) -> Iterator[str]:
    """That all match work.1.2.3.4.5.6.7.8."""
    for number in range(count):
        tokens = ["*" if number >> place & 1 else str(place + 1) for place in range(8)]
        yield ".".join(("work", *tokens))


async def _turns(stage: Stage) -> int:
    """In how many turns of the loop there became more of them, or fewer, until nothing more happened; and never many at once."""
    kept = stage.broker._neighbours._listening.kept
    turns, before, quiet = 0, len(kept), 0
    while quiet < 40:
        await anyio.lowlevel.checkpoint()
        now = len(kept)
        assert abs(now - before) <= 3 * neighbour_kept.AT_ONCE
        quiet = 0 if now != before else quiet + 1
        turns += now != before
        before = now
    return turns


async def test_many_are_heard_and_let_go_of_a_few_at_a_time_and_told_in_few_frames(stage: Stage):
    neighbour, host = await _met(stage), await _publisher(stage, "work.1.2.3.4.5.6.7.8")
    rows = _rows(600)
    neighbour.send(Frame.INTEREST, 1, rows)
    least, most = len(rows) // (3 * neighbour_kept.AT_ONCE), 2 * len(rows) // neighbour_kept.AT_ONCE
    assert await _turns(stage) >= least
    told = await host.hears(Frame.INTEREST)
    assert least <= len(told) <= most
    assert [row for one in told for row in one[2]] == [[*row] for row in rows]
    assert await neighbour.hears(Frame.INTEREST_SEEN) == [[Frame.INTEREST_SEEN, 1]]
    neighbour.link.close()
    assert await _turns(stage) >= least
    told = await host.hears(Frame.INTEREST)
    assert least <= len(told) <= most
    assert sum(len(one[2]) for one in told) == len(rows)
    assert _durable(stage) == 0


async def test_a_neighbour_that_is_lost_while_it_is_heard_leaves_nothing(stage: Stage):
    neighbour, host = await _met(stage), await _publisher(stage, "work.1.2.3.4.5.6.7.8")
    neighbour.send(Frame.INTEREST, 1, _rows(600))
    while not any(one[0] == Frame.INTEREST for one in host.came):
        await anyio.lowlevel.checkpoint()
    neighbour.link.close()
    await settle()
    await settle()
    left: dict[tuple[str, str], int] = {}
    for agent, pattern, how in await _told(host):
        left[agent, pattern] = left.get((agent, pattern), 0) + (1 if how == DURABLE else -1)
    assert {*left.values()} == {0}
    assert _durable(stage) == len(stage.broker._interest) == 0


async def test_many_live_subscriptions_of_a_lost_neighbour_hear_nothing_more_and_are_let_go_of_a_few_at_a_time(stage: Stage):
    neighbour, host = await _met(stage), await _publisher(stage, "tasks.build")
    await host.open("tasks.7")
    await neighbour.seats("BUILDER")
    for number in range(1, 601):
        neighbour.send(Frame.SUBSCRIBE, number, "BUILDER", f"tasks.{number}", "", "", "", 1, "drop_newest")
        await anyio.lowlevel.checkpoint()
    for number in range(1, 601):
        neighbour.send(Frame.SUBSCRIBE, 1_000 + number, "BUILDER", "tasks.build", "builders", "", "", 1, "block")
        await anyio.lowlevel.checkpoint()
    await settle()
    assert len(_link(stage).subscriptions) == 1_200
    near = await stage.host("PACKER")
    near.send(Frame.SUBSCRIBE, 1, "PACKER", "tasks.build", "builders", "", "new", 1, "block")
    await settle()
    host.publish(host.seal("tasks.7"), topic="tasks.7")
    assert len(await neighbour.hears(Frame.DELIVER)) == 1
    link, left = _link(stage), []
    neighbour.link.close()
    host.publish(host.seal("tasks.7"), topic="tasks.7")
    host.publish(host.seal("tasks.build"), host.seal("tasks.build"), topic="tasks.build")
    while link.subscriptions:
        await anyio.lowlevel.checkpoint()
        left.append(len(link.subscriptions))
    assert len({*left}) > 4
    assert len(await near.delivered()) == 1
    counted = stage.counted
    assert (counted["held"], counted["unheard"], counted["dropped"]) == (1, 1, {})
    assert len(stage.broker._router) == 1


async def test_many_are_judged_anew_a_few_at_a_time(stage: Stage):
    neighbour, host = await _met(stage), await _publisher(stage, "work.1.2.3.4.5.6.7.8")
    neighbour.send(Frame.INTEREST, 1, _rows(600))
    await settle()
    await host.hears()
    stage.world.trust(policy=with_words(*WORKERS_LESS))
    stage.broker.follow(stage.world.snapshot, stage.documents)
    assert await _turns(stage) >= 600 // (3 * neighbour_kept.AT_ONCE)
    assert _durable(stage) == 0


def _link(stage: Stage) -> Any:
    [found] = stage.broker._neighbours._open
    assert isinstance(found, limits.Neighbour)
    return found
