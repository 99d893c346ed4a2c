"""Who hears who listens, and when a subscription is live: whatever is published after "subscribed" was said is delivered."""

from __future__ import annotations

from itertools import islice, product

import pytest
from played import Stage, settle

from bus.broker import host_link
from bus.protocol.frames import GONE, LISTENS, Frame, sub_ref

pytestmark = pytest.mark.anyio


async def test_a_subscription_is_live_when_every_publisher_has_seen_it(stage: Stage):
    async with stage.running():
        first, second, reader = (
            await stage.host("DIRECTOR", polite=False),
            await stage.host("DEPUTY", polite=False),
            await stage.host("BUILDER"),
        )
        for host in (first, second):
            await host.open("tasks.build")
        assert await reader.subscribe(1, "tasks.*") == []
        for host in (first, second):
            assert [one[0] for one in await host.hears()][-2:] == [Frame.PAPERS, Frame.INTEREST]
        first.send(Frame.INTEREST_SEEN, 1)
        assert await reader.hears() == []
        second.send(Frame.INTEREST_SEEN, 1)
        assert await reader.hears() == [[Frame.SUBSCRIBED, 1]]


async def test_a_publisher_that_does_not_say_so_within_a_second_is_cut(stage: Stage):
    async with stage.running():
        silent, honest, reader = (
            await stage.host("DIRECTOR", polite=False),
            await stage.host("DEPUTY", polite=False),
            await stage.host("BUILDER"),
        )
        for host in (silent, honest):
            await host.open("tasks.build")
        await reader.subscribe(1, "tasks.>")
        honest.send(Frame.INTEREST_SEEN, 1)
        await stage.later(0.9)
        assert await reader.hears() == []
        await stage.later(0.2)
        assert silent.lost
        assert not honest.lost
        assert await reader.hears() == [[Frame.SUBSCRIBED, 1]]
        assert stage.counted["cut"] == {"interest_not_seen": 1}


async def test_a_publisher_that_leaves_is_not_waited_for(stage: Stage):
    publisher, reader = await stage.host("DIRECTOR", polite=False), await stage.host("BUILDER")
    await publisher.open("tasks.build")
    await reader.subscribe(1, "tasks.>")
    publisher.link.close()
    assert await reader.hears() == [[Frame.SUBSCRIBED, 1]]


@pytest.mark.parametrize("number", [0, 2, 1 << 40])
async def test_numbers_that_were_not_given_have_not_been_seen(stage: Stage, number: int):
    publisher, reader = await stage.host("DIRECTOR", polite=False), await stage.host("BUILDER")
    await publisher.open("tasks.build")
    await reader.subscribe(1, "tasks.>")
    publisher.send(Frame.INTEREST_SEEN, number)
    assert await reader.hears() == []
    publisher.send(Frame.INTEREST_SEEN, 1)
    assert await reader.hears() == [[Frame.SUBSCRIBED, 1]]


async def test_a_later_number_stands_for_the_earlier_ones(stage: Stage):
    publisher, reader = await stage.host("DIRECTOR", polite=False), await stage.host("BUILDER")
    await publisher.open("tasks.build")
    await reader.subscribe(1, "tasks.>")
    await reader.subscribe(2, "tasks.*")
    publisher.send(Frame.INTEREST_SEEN, 2)
    assert await reader.hears() == [[Frame.SUBSCRIBED, 1], [Frame.SUBSCRIBED, 2]]


async def test_a_second_subscription_to_the_same_waits_for_the_same_number(stage: Stage):
    publisher, reader = await stage.host("DIRECTOR", polite=False), await stage.host("BUILDER")
    await publisher.open("tasks.build")
    await reader.subscribe(1, "tasks.>")
    assert await reader.subscribe(2, "tasks.>") == []
    assert [one[0] for one in await publisher.hears()].count(Frame.INTEREST) == 1, "told once"
    publisher.send(Frame.INTEREST_SEEN, 1)
    assert await reader.hears() == [[Frame.SUBSCRIBED, 1], [Frame.SUBSCRIBED, 2]]
    assert await reader.subscribe(3, "tasks.>") == [[Frame.SUBSCRIBED, 3]], "seen already"


async def test_who_publishes_elsewhere_is_neither_told_nor_waited_for(stage: Stage):
    publisher, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await publisher.open("ask.that")
    await publisher.hears()
    assert await reader.subscribe(1, "tasks.>") == [[Frame.SUBSCRIBED, 1]]
    assert await publisher.hears() == []


async def test_who_opens_a_topic_hears_of_all_who_listen_there_before_it_is_opened(stage: Stage):
    reader = await stage.host("BUILDER", "MONITOR")
    await reader.subscribe(1, "tasks.>", by="BUILDER")
    await reader.subscribe(2, "tasks.build", by="BUILDER")
    await reader.subscribe(3, ">", by="MONITOR")
    await reader.subscribe(4, "ask.*", by="BUILDER")
    publisher = await stage.host("DIRECTOR")
    *papers, interest, opened = await publisher.open("tasks.build")
    assert sorted(one[1][0] for one in papers) == sorted(agent.papers for agent in reader.agents.values())
    assert sorted(interest[2]) == [["BUILDER", "tasks.>", LISTENS], ["BUILDER", "tasks.build", LISTENS], ["MONITOR", ">", LISTENS]]
    assert opened == [Frame.OPENED, 2, 1, 0, interest[1]]
    assert await publisher.open("tasks.pack") == [[Frame.OPENED, 3, 1, 0, 1]], "told once"
    new, opened = await publisher.open("ask.that")
    assert new == [Frame.INTEREST, 2, [["BUILDER", "ask.*", LISTENS]]]
    assert opened == [Frame.OPENED, 4, 1, 0, 2]


async def test_when_the_last_of_an_agent_s_subscriptions_ends_those_who_were_told_hear_it(stage: Stage):
    publisher, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    await reader.subscribe(2, "tasks.>")
    await publisher.open("tasks.build")
    await publisher.hears()
    reader.send(Frame.UNSUBSCRIBE, 1)
    assert await publisher.hears() == []
    reader.send(Frame.UNSUBSCRIBE, 2)
    assert await publisher.hears() == [[Frame.INTEREST, 2, [["BUILDER", "tasks.>", GONE]]]]
    await reader.subscribe(3, "tasks.>")
    assert await publisher.hears() == [[Frame.INTEREST, 3, [["BUILDER", "tasks.>", LISTENS]]]]
    reader.link.close()
    assert await publisher.hears() == [[Frame.INTEREST, 4, [["BUILDER", "tasks.>", GONE]]]]


async def test_more_listeners_than_a_frame_holds_come_in_several(stage: Stage):
    reader, publisher = await stage.host("MONITOR"), await stage.host("DIRECTOR")
    patterns = ["tasks." + ".".join(tokens) for tokens in islice(product("a*", repeat=11), 1_100)]
    for number, pattern in enumerate(patterns, 1):
        reader.send(Frame.SUBSCRIBE, number, "MONITOR", pattern, "", "", "new", 1, "block")
    while stage.counted["subscriptions"] < len(patterns):
        await settle()
    _, *frames, opened = await publisher.open("tasks." + ".".join("a" * 11))
    assert [(one[1], len(one[2])) for one in frames] == [(1, 1_024), (2, 76)]
    assert sorted(row[1] for one in frames for row in one[2]) == sorted(patterns)
    assert opened == [Frame.OPENED, 2, 1, 0, 2]


async def test_the_papers_of_a_renewed_session_go_to_those_who_were_told_of_its_agent(stage: Stage):
    publisher, stranger, reader = await stage.host("DIRECTOR"), await stage.host("DEPUTY"), await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    await publisher.open("tasks.build")
    for host in (publisher, stranger):
        await host.hears()
    stage.clock.advance(300)
    stage.world.now = stage.clock.now_ms()
    renewed = stage.world.agent("BUILDER", identity=reader.agents["BUILDER"].identity, host=reader.keys)
    assert await reader.say(Frame.PAPERS, [renewed.papers], b"") == []
    assert await publisher.hears() == [[Frame.PAPERS, [renewed.papers], b""]]
    assert await stranger.hears() == []
    reader.send(Frame.PAPERS, [renewed.papers], b"")
    assert await publisher.hears() == [], "told once"


async def test_who_may_not_publish_on_a_topic_does_not_hear_who_reads_it(stage: Stage):
    publisher, reader = await stage.host("GUEST"), await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    assert await publisher.open("tasks.build") == [[Frame.OPENED, 2, 1, 0, 0]]
    assert await reader.subscribe(2, "tasks.*") == [[Frame.SUBSCRIBED, 2]]
    director = stage.world.agent("DIRECTOR", host=publisher.keys)
    frames = await publisher.say(Frame.PAPERS, [director.papers], b"")
    assert [one[0] for one in frames] == [Frame.PAPERS, Frame.INTEREST], "until an agent comes that may"


async def test_a_closed_topic_is_not_told_of_any_more(stage: Stage):
    publisher, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await publisher.open("tasks.build")
    assert await publisher.say(Frame.OPEN, 2, "") == []
    assert await reader.subscribe(1, "tasks.>") == [[Frame.SUBSCRIBED, 1]]
    assert await publisher.say(Frame.OPEN, 2, "") == [], "closing it again changes nothing"
    assert stage.counted["topics"] == 0


SUBSCRIPTIONS = {
    "what policy forbids": (("ask.>", "", "block"), "not_permitted"),
    "a reserved topic": (("_reply.>", "", "block"), "not_permitted"),
    "no pattern": (("tasks..x", "", "block"), "not_permitted"),
    "a group that is not its own": (("tasks.>", "builders", "block"), "not_permitted"),
    "dead letters of others": (("_dead.work.>", "", "block"), "not_permitted"),
}


@pytest.mark.parametrize("case", SUBSCRIPTIONS)
async def test_what_an_agent_may_not_hear_is_refused(stage: Stage, case: str):
    (pattern, group, overflow), code = SUBSCRIPTIONS[case]
    host = await stage.host("DIRECTOR")
    assert await host.subscribe(9, pattern, group=group, overflow=overflow) == [[Frame.REFUSE, code, sub_ref(9)]]
    assert stage.counted["subscriptions"] == 0


async def test_groups_are_joined_where_policy_says_so(stage: Stage):
    host = await stage.host("BUILDER")
    assert await host.subscribe(1, "work.>", group="builders") == [[Frame.SUBSCRIBED, 1]]
    assert await host.subscribe(2, "tasks.a.>", group="testers") == [[Frame.SUBSCRIBED, 2]]
    assert await host.subscribe(3, "work.>", group="testers") == [[Frame.REFUSE, "not_permitted", sub_ref(3)]]


async def test_an_agent_of_another_link_cannot_be_subscribed_for(stage: Stage):
    await stage.host("MONITOR")
    host = await stage.host("DIRECTOR")
    assert await host.subscribe(9, "tasks.>", by="MONITOR") == [[Frame.REFUSE, "not_permitted", sub_ref(9)]]


async def test_what_would_have_to_be_kept_is_refused_where_nothing_is(stage: Stage):
    host = await stage.host("MONITOR")
    assert await host.say(Frame.SUBSCRIBE, 9, "MONITOR", "work.>", "", "mine", "new", 1, "block") == [
        [Frame.REFUSE, "busy", sub_ref(9)]
    ]
    assert await host.subscribe(8, "_dead.work.>") == [[Frame.REFUSE, "busy", sub_ref(8)]]


@pytest.mark.parametrize("number", [0, 1])
async def test_a_subscription_that_could_not_be_refused_by_its_number_ends_the_link(stage: Stage, number: int):
    host = await stage.host("MONITOR")
    await host.subscribe(1, ">")
    await host.subscribe(number, "tasks.>")
    assert host.lost


MALFORMED = {
    "no limit": ("", "", "new", 0, "block"),
    "another way to overflow": ("", "", "new", 1, "explode"),
    "a group of no name": ("Builders!", "", "new", 1, "block"),
    "a durable of no name": ("", "../x", "new", 1, "block"),
}


@pytest.mark.parametrize("case", MALFORMED)
async def test_a_subscription_that_is_none_is_refused_and_the_others_of_its_link_go_on(stage: Stage, case: str):
    host, director = await stage.host("MONITOR", "BUILDER"), await stage.host("DIRECTOR")
    await host.subscribe(1, "tasks.>", by="BUILDER")
    for number in (2, 3):
        assert await host.say(Frame.SUBSCRIBE, number, "MONITOR", "tasks.>", *MALFORMED[case]) == [
            [Frame.REFUSE, "malformed", sub_ref(number)]
        ]
    await director.open("tasks.build")
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert [subscriptions for subscriptions, _ in await host.delivered()] == [(1,)]
    assert stage.counted["cut"] == {}
    await host.subscribe(2, "tasks.>")
    assert stage.counted["subscriptions"] == 2, "its number is free"


async def test_who_does_not_read_why_its_subscriptions_are_refused_is_cut(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_link, "MAX_UNREAD_BYTES", 1_000)
    host = await stage.host("MONITOR")
    host.link.pause()
    for number in range(1, 200):
        host.send(Frame.SUBSCRIBE, number, "MONITOR", "tasks.>", "", "", "new", 0, "block")
    await settle()
    assert stage.counted["links_open"] == 0
    assert host.link.inbox_bytes < 2_000


@pytest.mark.parametrize("fields", [(1, "tasks.a"), (2, "tasks.a"), (3, "tasks..a"), (3, "tasks.*")])
async def test_a_topic_that_no_honest_host_opens_ends_the_link(stage: Stage, fields: tuple[int, str]):
    host = await stage.host("DIRECTOR")
    await host.open("tasks.build")
    host.send(Frame.OPEN, *fields)
    await settle()
    assert host.lost
