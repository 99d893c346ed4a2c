"""A neighbour has valid papers and may lie: what it can do is bounded, what it may not ends its link, by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest
from played import Stage, broker_session, documents_of, settle, with_words
from played_neighbour import PlayedNeighbour

from bus.broker import neighbour as limits
from bus.broker import neighbour_seats
from bus.broker.neighbour_greeting import MAX_SECONDS
from bus.identity.envelopes.granting import Reader
from bus.identity.host.host_keys import HostKeys
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import DURABLE, GONE, LISTENS, UNHEARD, Frame, column, numbers, sub_ref
from bus.protocol.kem import HYBRID, PublicKey
from bus.protocol.neighbour_frames import Between, greeting_tbs
from bus.protocol.papers import claimed
from bus.trust.revocations import Reason, Revocation

pytestmark = pytest.mark.anyio


async def _met(stage: Stage, **changes: Any) -> PlayedNeighbour:
    neighbour = PlayedNeighbour(stage, **changes)
    await neighbour.meet()
    assert neighbour.is_open
    return neighbour


def _cut(stage: Stage) -> dict[str, int]:
    found: dict[str, int] = stage.counted["cut"]
    return found


# ---- meeting --------------------------------------------------------------------------------------------------------------------


async def test_who_says_nothing_is_no_neighbour(stage: Stage):
    async with stage.running():
        stranger = PlayedNeighbour(stage)
        await stage.later(MAX_SECONDS + 0.2)
        assert stranger.lost
        assert _cut(stage) == {"no_neighbour": 1}


async def test_an_agents_papers_are_no_brokers(stage: Stage):
    stranger = PlayedNeighbour(stage)
    await stranger.meet(papers=stage.world.agent("BUILDER").papers)
    assert stranger.lost
    assert _cut(stage) == {"no_neighbour": 1}
    assert await stranger.hears(Frame.PROVE, Between.SEATED) == []


async def test_papers_without_their_key_prove_nothing(stage: Stage):
    stranger = PlayedNeighbour(stage)
    [[_, theirs]] = await stranger.hears(Between.GREET)
    mine = stranger.greeting()
    stranger.send(Between.GREET, mine)
    await stranger.say(Frame.PROVE, HostKeys.make(HYBRID, os.urandom).sign(greeting_tbs(mine, theirs)))
    assert stranger.lost
    assert not stranger.is_open


@pytest.mark.parametrize("leaves", [{"server_leaf": b"one"}, {"client_leaf": b"two"}])
async def test_a_proof_for_another_link_proves_nothing_on_this_one(stage: Stage, leaves: dict[str, bytes]):
    stranger = PlayedNeighbour(stage)
    [[_, theirs]] = await stranger.hears(Between.GREET)
    mine = stranger.greeting()
    stranger.send(Between.GREET, mine)
    await stranger.say(Frame.PROVE, stranger.session.keys.sign(greeting_tbs(mine, theirs, **leaves)))
    assert stranger.lost
    assert not stranger.is_open


async def test_a_broker_does_not_meet_itself(stage: Stage):
    stranger = PlayedNeighbour(stage)
    [[_, theirs]] = await stranger.hears(Between.GREET)
    await stranger.say(Between.GREET, theirs)
    assert stranger.lost
    assert _cut(stage) == {"no_neighbour": 1}


async def test_a_greeting_and_its_proof_sent_back_by_two_links_open_neither(stage: Stage):
    one, two = PlayedNeighbour(stage), PlayedNeighbour(stage)
    [[_, first]], [[_, second]] = await one.hears(Between.GREET), await two.hears(Between.GREET)
    await one.say(Between.GREET, second)
    await two.say(Between.GREET, first)
    assert one.lost
    assert two.lost
    assert not one.is_open


@pytest.mark.parametrize("changes", [{"versions": (9,)}, {"time_ms": 1 << 63, "papers": b"\x90"}])
async def test_a_greeting_that_is_none_ends_the_link(stage: Stage, changes: dict[str, Any]):
    stranger = PlayedNeighbour(stage)
    await stranger.say(Between.GREET, stranger.greeting(**changes))
    assert stranger.lost


async def test_nothing_else_is_heard_before_the_proof(stage: Stage):
    stranger = PlayedNeighbour(stage)
    agent = stage.world.agent("BUILDER")
    await stranger.say(Between.SEATED, stranger.number(), agent.papers)
    assert stranger.lost
    assert stage.broker.listing.live() == []


async def test_a_broker_whose_certificate_was_revoked_is_no_neighbour_any_more(stage: Stage):
    async with stage.running():
        neighbour = await _met(stage)
        serial = neighbour.session.holder.identity.serial
        await stage.follow(revoked={serial: _revoked(stage)})
        assert neighbour.lost
        assert _cut(stage) == {"revoked": 1}
        again = PlayedNeighbour(stage, session=neighbour.session)
        await again.meet()
        assert again.lost


async def test_of_a_crowd_that_proves_nothing_the_oldest_go_and_an_honest_one_comes_in(stage: Stage):
    session = broker_session(stage.world)
    crowd = [PlayedNeighbour(stage, session=session) for _ in range(64)]
    await settle()
    await _met(stage)
    assert [bool(one.lost) for one in crowd] == [True] + [False] * 63


async def test_more_neighbours_than_there_can_be_are_sent_away(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.neighbours.MAX_NEIGHBOURS", 1)
    first, second = await _met(stage), PlayedNeighbour(stage, name="OTHER")
    await second.meet()
    assert second.lost
    assert not first.lost
    assert _cut(stage) == {"too_many_neighbours": 1}


# ---- agents ----------------------------------------------------------------------------------------------------------------------


async def test_papers_that_do_not_hold_put_nobody_there(stage: Stage):
    neighbour = await _met(stage)
    papers = bytearray(stage.world.agent("BUILDER").papers)
    papers[len(papers) // 2] ^= 1
    neighbour.send(Between.SEATED, neighbour.number(), bytes(papers))
    await settle()
    assert stage.broker.listing.live() == []


@pytest.mark.parametrize("case", ["revoked", "from before its sessions count", "ended"])
async def test_papers_that_count_no_more_put_nobody_there_and_nobody_off(stage: Stage, case: str):
    """A neighbour may show what it once had."""
    neighbour = await _met(stage)
    old = stage.world.agent("BUILDER")
    if case == "revoked":
        await stage.follow(revoked={old.identity.certificate.serial: _revoked(stage)})
    elif case == "from before its sessions count":
        stage.clock.advance(1)
        stage.world.now = stage.clock.now_ms()
        await stage.follow(agents={"BUILDER": (0, stage.world.now)})
    else:
        stage.clock.advance(17 * 60)
        stage.world.now = stage.clock.now_ms()
    host = await stage.host("BUILDER")
    neighbour.send(Between.SEATED, neighbour.number(later=1_000), old.papers)
    await settle()
    assert [(one.agent, one.kind) for one in stage.broker.listing.live()] == [("BUILDER", "memory")]
    assert not await host.hears(Frame.DRAIN)


async def test_an_agent_is_where_it_was_last_and_an_older_seat_does_not_count(stage: Stage):
    host = await stage.host("BUILDER")
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER", later=-1_000)
    assert not await host.hears(Frame.DRAIN)
    await neighbour.seats("BUILDER", later=1_000)
    assert [one[1] for one in await host.hears(Frame.DRAIN)] == ["session_replaced BUILDER"]
    again = await stage.host("BUILDER")
    assert [one.kind for one in stage.broker.listing.live()] == ["memory"]
    assert not await again.hears(Frame.DRAIN)


async def test_a_neighbour_is_told_who_comes_renews_and_leaves_but_not_who_is_at_another(stage: Stage):
    before = await stage.host("DEPUTY")
    neighbour = PlayedNeighbour(stage)
    await neighbour.meet()
    assert [claimed(one[2]).name for one in await neighbour.hears(Between.SEATED)] == ["DEPUTY"]
    host = await stage.host("BUILDER")
    [[_, first, papers]] = await neighbour.hears(Between.SEATED)
    assert papers == host.agents["BUILDER"].papers
    renewed = stage.world.agent("BUILDER", identity=host.agents["BUILDER"].identity, host=host.keys).papers
    await host.say(Frame.PAPERS, [renewed], b"")
    assert await neighbour.hears(Between.SEATED) == [[Between.SEATED, first, renewed]]
    host.send(Frame.DRAIN, "closed BUILDER")
    assert await neighbour.hears() == [[Between.UNSEATED, "BUILDER"]]
    before.link.close()
    assert await neighbour.hears() == [[Between.UNSEATED, "DEPUTY"]]
    other = await _met(stage, name="OTHER")
    await other.seats("TESTER")
    assert await neighbour.hears() == []


async def test_a_seat_in_the_future_ends_the_link(stage: Stage):
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER", later=3_600_000)
    assert neighbour.lost
    assert _cut(stage) == {"malformed": 1}


async def test_who_is_set_aside_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "MAX_ASIDE", 3)
    neighbour = await _met(stage)
    for number in range(1, 10):
        await neighbour.subscribe(number, "BUILDER", f"tasks.{number}")
    found: Any = stage.broker.statistics()["neighbours"]
    assert found["set_aside"] == 3


async def test_those_who_were_set_aside_are_judged_a_few_at_a_time(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(neighbour_seats, "AT_ONCE", 2)
    neighbour, before = await _met(stage), stage.world.policy
    names = {"BUILDER", "TESTER", "DEPUTY", "DIRECTOR", "GUEST"}
    for name in names:
        await neighbour.seats(name)
    await stage.follow(
        policy=with_words(
            "DIRECTOR: command, DEPUTY: command, BUILDER: worker, TESTER: worker, PACKER: worker, MONITOR: monitor, GUEST: guest",
            "MONITOR: monitor",
        )
    )
    assert stage.broker.listing.live() == []
    stage.world.trust(policy=before)
    stage.broker.follow(stage.world.snapshot, documents_of(stage.world))
    assert len(stage.broker.listing.live()) == 2
    await settle()
    assert {one.agent for one in stage.broker.listing.live()} == names
    found: Any = stage.broker.statistics()["neighbours"]
    assert found["set_aside"] == 0


async def test_the_log_names_the_neighbour_whose_link_is_cut(stage: Stage):
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER", later=3_600_000)
    assert neighbour.lost
    assert any("link to GATE cut: malformed" in one for one in stage.counted["offences"])


# ---- subscriptions ---------------------------------------------------------------------------------------------------------------


async def test_a_subscription_without_a_seat_or_against_policy_hears_nothing(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("DIRECTOR")
    await host.open("tasks.build")
    assert [one[:2] for one in await neighbour.subscribe(1, "BUILDER", "tasks.>")][-1:] == [[Frame.REFUSE, "not_permitted"]]
    await neighbour.seats("GUEST")
    assert await neighbour.subscribe(2, "GUEST", "tasks.>") == [[Frame.REFUSE, "not_permitted", sub_ref(2)]]
    host.publish(host.seal("tasks.build"), topic="tasks.build")
    assert await neighbour.hears(Frame.DELIVER) == []
    assert await host.hears(Frame.INTEREST) == []


async def test_a_subscription_is_said_to_be_live_when_the_publishers_here_have_seen_it(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("DIRECTOR", polite=False)
    await host.open("tasks.build")
    await neighbour.hears()
    await neighbour.seats("BUILDER")
    assert await neighbour.subscribe(1, "BUILDER", "tasks.>") == []
    host.send(Frame.INTEREST_SEEN, 1)
    assert await neighbour.hears() == [[Frame.SUBSCRIBED, 1]]


async def test_a_neighbour_that_never_says_that_its_publishers_know_is_cut_and_the_subscription_lives(stage: Stage):
    async with stage.running():
        neighbour, host = await _met(stage), await stage.host("BUILDER")
        assert await host.subscribe(1, "tasks.>") == []
        await stage.later(1.5)
        assert not neighbour.lost
        await stage.later(0.7)
        assert neighbour.lost
        assert await host.hears(Frame.SUBSCRIBED) == [[Frame.SUBSCRIBED, 1]]
        assert _cut(stage) == {"interest_not_seen": 1}


async def test_a_neighbour_is_not_waited_for_before_it_has_heard_of_all_that_was_here(stage: Stage):
    host, neighbour = await stage.host("BUILDER"), PlayedNeighbour(stage)
    neighbour.polite = False
    await neighbour.meet()
    [*_, [_, number]] = await neighbour.hears(Frame.PING)
    assert await host.subscribe(1, "tasks.>") == [[Frame.SUBSCRIBED, 1]]
    assert len(await neighbour.hears(Frame.SUBSCRIBE)) == 1
    await neighbour.say(Frame.PONG, number)
    assert await host.subscribe(2, "tasks.>") == []
    neighbour.send(Frame.SUBSCRIBED, 2)
    assert await host.hears() == [[Frame.SUBSCRIBED, 2]]


async def test_what_a_neighbour_is_told_goes_no_faster_than_its_link_and_in_order(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.transport.memory.HIGH_WATER_BYTES", 1)
    names = ("BUILDER", "TESTER", "PACKER")
    host, neighbour = await stage.host(*names), PlayedNeighbour(stage)
    for number, name in enumerate(names, 1):
        await host.subscribe(number, "tasks.>", by=name)
    [[_, theirs]] = await neighbour.hears(Between.GREET)
    mine = neighbour.greeting()
    neighbour.send(Between.GREET, mine)
    await neighbour.hears(Frame.PROVE)
    neighbour.link.pause()
    neighbour.send(Frame.PROVE, neighbour.session.keys.sign(greeting_tbs(mine, theirs)))
    assert await neighbour.hears() == []
    assert 0 < len(neighbour.link.inbox) < len(names)
    await host.subscribe(4, "ask.>", by="BUILDER")
    host.send(Frame.UNSUBSCRIBE, 1)
    await settle()
    neighbour.link.resume()
    frames = await neighbour.hears()
    assert [claimed(one[2]).name for one in frames if one[0] == Between.SEATED] == [*names]
    assert [one[2:4] for one in frames if one[0] == Frame.SUBSCRIBE] == [
        ["TESTER", "tasks.>"],
        ["PACKER", "tasks.>"],
        ["BUILDER", "ask.>"],
    ]
    assert [one[0] for one in frames][:3] == [Between.SEATED] * 3


@pytest.mark.parametrize("how", ["durable", "start", "limit", "overflow", "dead", "again", "none", "group"])
async def test_a_subscription_that_no_broker_tells_of_ends_the_link(stage: Stage, how: str):
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "tasks.>")
    rows: dict[str, tuple[Any, ...]] = {
        "durable": (2, "BUILDER", "tasks.>", "", "mine", "", 1, "drop_newest"),
        "start": (2, "BUILDER", "tasks.>", "", "", "all", 1, "drop_newest"),
        "limit": (2, "BUILDER", "tasks.>", "", "", "", 9, "drop_newest"),
        "overflow": (2, "BUILDER", "tasks.>", "", "", "", 1, "drop_oldest"),
        "dead": (2, "BUILDER", "_dead.tasks.>", "", "", "", 1, "drop_newest"),
        "again": (1, "BUILDER", "tasks.>", "", "", "", 1, "drop_newest"),
        "none": (0, "BUILDER", "tasks.>", "", "", "", 1, "drop_newest"),
        "group": (2, "BUILDER", "tasks.>", "No Group", "", "", 1, "drop_newest"),
    }
    await neighbour.say(Frame.SUBSCRIBE, *rows[how])
    assert neighbour.lost


async def test_more_subscriptions_than_a_broker_can_have_end_the_link(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.neighbour_shares.MOST", 3)
    neighbour = await _met(stage)
    await neighbour.seats("BUILDER")
    for number in range(1, 5):
        await neighbour.subscribe(number, "BUILDER", "tasks.>")
    assert neighbour.lost


@pytest.mark.parametrize(
    "frames",
    [
        [(1, [("BUILDER", "tasks.>", LISTENS)])],
        [(1, [("BUILDER", f"tasks.{number}", DURABLE) for number in range(9)])],
    ],
    ids=["live", "many"],
)
async def test_interest_that_no_broker_tells_of_ends_the_link(
    stage: Stage, frames: list[tuple[int, Any]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("bus.broker.neighbour_shares.MOST", 8)
    neighbour = await _met(stage)
    for serial, rows in frames:
        await neighbour.say(Frame.INTEREST, serial, rows)
    assert neighbour.lost


async def test_durable_interest_is_answered_in_order_when_the_publishers_have_seen_it(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("DIRECTOR", polite=False)
    await host.open("work.build")
    await neighbour.hears()
    assert await neighbour.say(Frame.INTEREST, 1, [("BUILDER", "work.>", DURABLE)]) == []
    assert await neighbour.say(Frame.INTEREST, 2, [("BUILDER", "tasks.>", DURABLE)]) == []
    host.send(Frame.INTEREST_SEEN, 1)
    assert await neighbour.hears() == [[Frame.INTEREST_SEEN, 2]]
    await host.hears()
    assert await neighbour.say(Frame.INTEREST, 3, [("BUILDER", "work.>", GONE)]) == [[Frame.INTEREST_SEEN, 3]]
    assert await host.hears(Frame.INTEREST) == [[Frame.INTEREST, 2, [["BUILDER", "work.>", GONE]]]]


async def test_what_a_neighbour_had_is_gone_with_its_link(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("DIRECTOR")
    await host.open("tasks.build")
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "tasks.>")
    await neighbour.say(Frame.INTEREST, 1, [("TESTER", "tasks.>", DURABLE)])
    await host.hears()
    neighbour.link.close()
    gone = [row for _, _, rows in await host.hears(Frame.INTEREST) for row in rows]
    assert gone == [["BUILDER", "tasks.>", GONE], ["TESTER", "tasks.>", GONE]]
    assert {one.agent for one in stage.broker.listing.live()} == {"DIRECTOR"}


# ---- envelopes -------------------------------------------------------------------------------------------------------------------


async def test_what_a_neighbour_brings_goes_to_readers_here_and_to_no_other_neighbour(stage: Stage):
    neighbour, other, host = await _met(stage), await _met(stage, name="OTHER"), await stage.host("BUILDER")
    await other.seats("TESTER")
    await other.subscribe(1, "TESTER", "tasks.>")
    await neighbour.seats("DIRECTOR")
    neighbour.send(Frame.SUBSCRIBED, 1)
    other.send(Frame.SUBSCRIBED, 1)
    await host.subscribe(1, "tasks.>")
    envelope = neighbour.envelope("DIRECTOR", "tasks.build")
    await neighbour.deliver(1, envelope)
    assert await host.delivered() == [((1,), envelope)]
    assert await other.hears(Frame.DELIVER) == []
    assert await neighbour.hears(Frame.CREDIT) == [[Frame.CREDIT, 1, 1]]


async def test_an_envelope_of_an_agent_whose_papers_were_not_shown_is_refused(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("BUILDER")
    await host.subscribe(1, "tasks.>")
    neighbour.agents["DIRECTOR"] = stage.world.agent("DIRECTOR")
    await neighbour.deliver(1, neighbour.envelope("DIRECTOR", "tasks.build"))
    assert await host.delivered() == []
    assert stage.counted["refused"] == {"untrusted": 1}
    assert not neighbour.lost


async def test_an_agent_does_not_speak_for_another_one_by_a_neighbour(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("BUILDER")
    await host.subscribe(1, "tasks.>")
    await neighbour.seats("DIRECTOR")
    await neighbour.seats("DEPUTY")
    mine = neighbour.agents["DIRECTOR"]
    neighbour.agents["DIRECTOR"] = stage.world.agent("DEPUTY", identity=neighbour.agents["DEPUTY"].identity)
    forged = neighbour.envelope("DIRECTOR", "tasks.build", session=mine.session)
    await neighbour.deliver(1, forged)
    assert await host.delivered() == []
    assert sum(stage.counted["refused"].values()) == 1


async def test_an_envelope_against_policy_is_refused_here_though_the_neighbour_let_it_pass(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("MONITOR")
    await host.subscribe(1, "tasks.>")
    await neighbour.seats("GUEST")
    await neighbour.deliver(1, neighbour.envelope("GUEST", "tasks.build"))
    assert await host.delivered() == []
    assert sum(stage.counted["refused"].values()) == 1


async def test_a_grant_goes_to_its_reader_here_and_not_to_one_at_another_neighbour(stage: Stage):
    neighbour, other, host = await _met(stage), await _met(stage, name="OTHER"), await stage.host("BUILDER")
    director = await neighbour.seats("DIRECTOR")
    await other.seats("TESTER")
    epoch = stage.world.epoch(director, "tasks.build")
    key = PublicKey(host.keys.kem, host.keys.kem_key)
    for number, reader in enumerate(("BUILDER", "TESTER"), 1):
        [grant] = stage.world.grant(director, epoch, Reader(reader, key, b""))
        await neighbour.deliver(number, grant)
    assert [columns for columns, _ in await host.delivered()] == [()]
    assert await other.hears(Frame.DELIVER) == []
    assert stage.counted["unheard"] == 1


async def test_an_agent_that_has_left_the_neighbour_is_believed_for_what_it_sent_before(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("BUILDER")
    await host.subscribe(1, "tasks.>")
    await neighbour.seats("DIRECTOR")
    envelope = neighbour.envelope("DIRECTOR", "tasks.build")
    neighbour.send(Between.UNSEATED, "DIRECTOR")
    await neighbour.deliver(1, envelope)
    assert len(await host.delivered()) == 1


@pytest.mark.parametrize(
    "breaks",
    [
        lambda one: one.send(Frame.CREDIT, 1, 1),
        lambda one: one.send(Frame.SUBSCRIBED, 1) or one.send(Frame.PUBLISH, 1, column([2]), [b"x"]),
        lambda one: one.send(Frame.OPEN, 2, "tasks.build"),
        lambda one: one.send(Frame.ASK, bytes(16), b""),
        lambda one: one.send(Between.GREET, b"again"),
        lambda one: one.send(Between.UNSEATED, "no name"),
        lambda one: one.send(Between.STOP, "tasks.*", 1),
        lambda one: one.link.send(b"\xff"),
    ],
    ids=["credit", "publish", "open", "papers", "greet", "name", "topic", "nothing"],
)
async def test_what_a_neighbour_does_not_say_ends_the_link(stage: Stage, breaks: Callable[[PlayedNeighbour], Any]):
    neighbour = await _met(stage)
    breaks(neighbour)
    await settle()
    assert neighbour.lost
    assert _cut(stage) == {"malformed": 1}


async def test_a_number_that_is_out_already_ends_the_link(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("BUILDER")
    await neighbour.seats("DIRECTOR")
    neighbour.send(Frame.SUBSCRIBED, 1)
    await host.subscribe(1, "tasks.>")
    for _ in range(2):
        await neighbour.deliver(1, neighbour.envelope("DIRECTOR", "tasks.build"))
    assert neighbour.lost


async def test_more_deliveries_than_a_neighbour_can_have_out_end_the_link(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.neighbour_crossing.MAX_TURNS", 3)
    neighbour, host = await _met(stage), await stage.host("BUILDER")
    await neighbour.seats("DIRECTOR")
    host.send(Frame.SUBSCRIBE, 1, "BUILDER", "tasks.>", "", "", "new", 9, "block")
    await settle()
    neighbour.send(Frame.SUBSCRIBED, 1)
    for number in range(1, 4):
        await neighbour.deliver(number, neighbour.envelope("DIRECTOR", "tasks.build"))
    assert not neighbour.lost
    await neighbour.deliver(4, neighbour.envelope("DIRECTOR", "tasks.build"))
    assert neighbour.lost


async def test_a_group_that_has_just_ended_here_is_known_to_whoever_was_chosen_for_it(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("BUILDER", "TESTER")
    await neighbour.seats("DIRECTOR")
    for number, name in enumerate(("BUILDER", "TESTER"), 1):
        host.send(Frame.SUBSCRIBE, number, name, "tasks.>", "builders", "", "new", 9, "block")
        await settle()
        neighbour.send(Frame.SUBSCRIBED, number)
    host.send(Frame.UNSUBSCRIBE, 1)
    await settle()
    await neighbour.deliver(1, neighbour.envelope("DIRECTOR", "tasks.build"), chosen=column([1]))
    assert [columns for columns, _ in await host.delivered()] == [(2,)]


async def test_too_much_that_is_no_envelope_ends_the_link(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.neighbour_crossing.MAX_JUNK", 5)
    neighbour = await _met(stage)
    for number in range(1, 8):
        await neighbour.deliver(number, b"nonsense")
    assert neighbour.lost
    assert _cut(stage) == {"junk": 1}


async def test_a_neighbour_stops_no_topic_of_which_it_has_no_reader(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("DIRECTOR")
    await host.open("tasks.build")
    await host.hears()
    await neighbour.say(Between.STOP, "tasks.build", 1)
    assert await host.hears(Frame.OPENED) == []
    await neighbour.say(Between.STOP, "tasks.build", 0)
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "tasks.>", overflow="block")
    await neighbour.say(Between.STOP, "tasks.build", 1)
    assert [one[2] for one in await host.hears(Frame.OPENED)] == [0]
    await neighbour.say(Between.STOP, "tasks.build", 0)
    assert [one[2] for one in await host.hears(Frame.OPENED)] == [1]


async def test_a_neighbour_that_takes_nothing_in_costs_so_much_and_holds_nobody_up(stage: Stage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bus.broker.outbox.MAX_UNTAKEN", 4)
    monkeypatch.setattr("bus.broker.outbox.MAX_WAITING", 3)
    async with stage.running():
        neighbour, host, near = await _met(stage), await stage.host("DIRECTOR"), await stage.host("TESTER")
        await host.open("tasks.build")
        await neighbour.seats("BUILDER")
        await neighbour.subscribe(1, "BUILDER", "tasks.>")
        near.send(Frame.SUBSCRIBE, 1, "TESTER", "tasks.>", "", "", "new", 1_024, "block")
        await settle()
        for _ in range(12):
            host.publish(host.seal("tasks.build"), topic="tasks.build")
            assert len(await near.delivered()) == 1
            await stage.later(0.02, step=0.01)
        assert len(await host.credited()) == 12
        assert stage.counted["dropped"] == {"neighbour_full": 5}
        assert stage.counted["held"] == 3


async def test_a_request_that_nobody_at_the_neighbour_hears_is_said_to_be_unheard(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("DIRECTOR")
    await host.open("ask.more")
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(1, "BUILDER", "ask.>")
    envelope = host.seal("ask.more", flags=1)
    host.publish(envelope, topic="ask.more")
    [[_, _, _, _, _, came]] = await neighbour.hears(Frame.DELIVER)
    assert came == envelope
    ref = headers.parse(envelopes.split(envelope)[0]).id
    await host.hears()
    neighbour.send(Frame.REFUSE, UNHEARD, ref)
    neighbour.send(Frame.REFUSE, UNHEARD, ref)
    assert [one[1:] for one in await host.hears(Frame.REFUSE)] == [[UNHEARD, ref]]


async def test_of_a_group_at_a_neighbour_the_number_of_the_member_says_for_which_it_was_chosen(stage: Stage):
    neighbour, host = await _met(stage), await stage.host("DIRECTOR")
    await host.open("tasks.build")
    await neighbour.seats("BUILDER")
    await neighbour.subscribe(7, "BUILDER", "tasks.>", group="builders")
    await neighbour.subscribe(8, "BUILDER", "tasks.>")
    host.publish(host.seal("tasks.build"), topic="tasks.build")
    assert [numbers(one[2]) for one in await neighbour.hears(Frame.DELIVER)] == [(7,)]


def _revoked(stage: Stage) -> Revocation:
    return Revocation(stage.world.now, Reason.COMPROMISED)
