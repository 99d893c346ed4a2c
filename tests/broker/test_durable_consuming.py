"""Who takes what is kept: as far as it has credit, with all it needs to open it, and each record one member of a group."""

from __future__ import annotations

import hashlib

import pytest
from kept_stage import DAY, Keeper, KeptStage, full, inbox_key, settle
from small_world import World

from bus.backbone.interface import Grant, Papers
from bus.broker import durable_reading, host_link
from bus.broker.durable_inboxes import SHELF
from bus.broker.durable_kept import MOST_PAPERS
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.codec import pack
from bus.protocol.frames import ACK, NAK, NOT_BEGUN, TERM, TOUCH, Frame, sub_ref
from bus.protocol.handshake import Limits

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(world: World) -> KeptStage:
    return KeptStage(world)


async def publish(publisher: Keeper, count: int, topic: str = "work.a") -> list[bytes]:
    sent = [publisher.seal(topic, bytes([number])) for number in range(count)]
    for envelope in sent:
        publisher.publish(envelope, topic=topic)
    await settle()
    return sent


async def kept(host: Keeper) -> list[bytes]:
    return [envelope for *_, envelope in await host.kept()]


# ---- handing out -----------------------------------------------------------------------------------------------------------------


async def test_what_is_stored_comes_with_its_position_and_how_often_it_came(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        assert await reader.subscribe_durably(1, "work.>") == [[Frame.SUBSCRIBED, 1]]
        first, second = await publish(publisher, 2)
        assert await reader.kept() == [(1, 1, 1, first), (1, 1, 2, second)]
        assert stage.counted["delivered"] == 2


async def test_nobody_is_sent_more_than_it_has_credit_for(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>", limit=3)
        sent = await publish(publisher, 10)
        assert await kept(reader) == sent[:3]
        await reader.settles(1, ACK, (1, 3))
        assert await kept(reader) == []
        reader.send(Frame.CREDIT, 1, 2)
        assert await kept(reader) == sent[3:5]
        reader.send(Frame.CREDIT, 1, 1_000)
        assert await kept(reader) == sent[5:8]


async def test_of_what_is_large_nobody_is_sent_more_than_it_can_hold_whatever_its_credit(stage: KeptStage, monkeypatch):
    monkeypatch.setattr(host_link, "MAX_LARGE_BYTES", 64 << 10)
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>", limit=100)
        sent = [publisher.seal("work.a", bytes(20 << 10)) for _ in range(7)]
        for envelope in sent:
            publisher.publish(envelope, topic="work.a")
        await settle()
        assert await kept(reader) == sent[:4]
        await reader.settles(1, ACK, (1, 4))  # settled is not consumed: a handler may still have it
        assert await kept(reader) == []
        reader.send(Frame.CREDIT, 1, 1)
        assert await kept(reader) == sent[4:5]
        reader.send(Frame.CREDIT, 1, 4)
        assert await kept(reader) == sent[5:]


async def test_papers_and_what_is_kept_of_grants_come_before_the_first_that_needs_them_and_once(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        grant = publisher.grant("work.a", "BUILDER", inbox_key())
        publisher.publish_kept([grant], publisher.seal("work.a"), publisher.seal("work.a"), topic="work.a")
        await settle()
        publisher.link.close()
        await settle()
        reader = await stage.keeper("BUILDER")
        frames = await reader.subscribe_durably(1, "work.>", start="all")
        assert [one[0] for one in frames] == [Frame.SUBSCRIBED, Frame.PAPERS, *[Frame.DELIVER] * 3]
        assert frames[1][1] == [publisher.agents["DIRECTOR"].papers]
        assert [one[4] for one in frames[2:]] == [0, 1, 2]
        assert frames[2][5] == grant


async def test_what_stands_among_kept_grants_and_is_none_keeps_nobody_from_the_others(stage: KeptStage):
    """As on servers that anybody else may write to."""
    async with stage.running():
        publisher = await stage.publisher("work.a")
        grant = publisher.grant("work.a", "BUILDER", inbox_key())
        publisher.publish_kept([grant], publisher.seal("work.a"), topic="work.a")
        await settle()
        epoch = headers.parse(envelopes.split(grant)[0]).epoch
        await stage.backbone.keep([Grant(epoch, "BUILDER", "DIRECTOR", bytes(16), stage.world.now + DAY, b"no grant")])
        reader = await stage.keeper("BUILDER")
        frames = await reader.subscribe_durably(1, "work.>", start="all")
        assert [one[5] for one in frames if one[0] == Frame.DELIVER][:1] == [grant]
        assert sum(one[0] == Frame.DELIVER for one in frames) == 2, "the grant and the envelope"
        shelf = hashlib.sha256(b"inbox BUILDER").digest()
        for number, junk in enumerate((b"no inbox", pack([]), pack([b"no inbox"]), pack([b"no", b"inbox"]))):
            await stage.backbone.keep([Grant(shelf, SHELF, "BUILDER", bytes([number] * 16), stage.world.now + DAY, junk)])
    again = KeptStage(stage.world, stage.backbone)
    async with again.running():
        assert len(await (await again.keeper("BUILDER")).subscribe_durably(1, "work.>", start="all")) > 1


async def test_what_was_spoiled_is_said_once_a_minute_however_many_come_for_it(stage: KeptStage, caplog: pytest.LogCaptureFixture):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        await publish(publisher, 1)
        header = headers.parse(envelopes.split(publisher.seal("work.a"))[0])
        until = stage.world.now + 2 * DAY
        shelf = hashlib.sha256(b"inbox BUILDER").digest()
        grant = Grant(header.epoch, "BUILDER", "DIRECTOR", bytes(16), until, b"no grant")
        inbox = Grant(shelf, SHELF, "BUILDER", bytes(16), until, b"no inbox")
        await stage.backbone.keep([grant, inbox], [Papers(header.session, "DIRECTOR", until, b"none")])
        again = KeptStage(stage.world, stage.backbone)
        async with again.running():
            for number in range(20):
                reader = await again.keeper("BUILDER")
                await reader.subscribe_durably(1, "work.>", name=f"mine{number}", start="all")
                again.broker._durable._standing.look_again()
                await settle()
    said = [record.getMessage() for record in caplog.records if record.getMessage().startswith("what is kept")]
    assert sorted(one.partition(" that is none")[0].partition(" that are none")[0] for one in said) == [
        "what is kept: a grant", "what is kept: an inbox", "what is kept: papers",
    ]  # fmt: skip
    assert len(caplog.records) == len(said)


async def test_a_consumer_that_cannot_be_read_is_said_once_a_minute_of_each_owner(stage: KeptStage, caplog, monkeypatch):
    async def fails(*_: object, **__: object) -> None:
        raise full()

    async with stage.running():
        reader = await stage.keeper("BUILDER", "MONITOR")
        monkeypatch.setattr(stage.backbone, "consume", fails)
        for number in range(20):
            await reader.subscribe_durably(1, "work.>", by="BUILDER", name=f"mine{number}")
            await reader.subscribe_durably(2, "work.>", by="MONITOR")
    said = [record.getMessage() for record in caplog.records]
    assert sorted(one.partition(":")[0] for one in said) == ["consumers of BUILDER", "consumers of MONITOR"]


async def test_papers_that_were_kept_are_shown_if_they_are_of_that_session_and_verify(stage: KeptStage):
    """Whoever is shown others leaves its broker, and would come back to the same."""
    async with stage.running():
        publisher = await stage.publisher("work.a")
        await publish(publisher, 1)
        papers, session = publisher.agents["DIRECTOR"].papers, headers.parse(envelopes.split(publisher.seal("work.a"))[0]).session
        others = (await stage.keeper("MONITOR")).agents["MONITOR"].papers
    for until, (kept_papers, shown) in enumerate([(b"none", []), (pack([b"no", b"pa", [b"p"], b"ers"]), []), (others, []),
                                                  (papers[:-1] + bytes([papers[-1] ^ 1]), []), (papers, [[papers]])]):  # fmt: skip
        await stage.backbone.keep(papers=[Papers(session, "DIRECTOR", stage.world.now + (2 + until) * DAY, kept_papers)])
        again = KeptStage(stage.world, stage.backbone)
        async with again.running():
            frames = await (await again.keeper("BUILDER")).subscribe_durably(1, "work.>", name=f"n{until}", start="all")
            assert [one[1] for one in frames if one[0] == Frame.PAPERS] == shown
            assert sum(one[0] == Frame.DELIVER for one in frames) == 1, "it comes all the same"


@pytest.mark.parametrize("spoiled", [1, 15, 16, 4_000])
async def test_papers_that_were_spoiled_beside_the_true_ones_take_nothing_away(stage: KeptStage, spoiled: int):
    """As where others write to the same servers: there may be several of one session."""
    junk = [b"junk %d" % number for number in range(spoiled)]

    class Several(type(stage.backbone)):
        async def papers_for(self, session: bytes) -> list[bytes]:
            return [*await super().papers_for(session), *junk]

    async with stage.running():
        publisher = await stage.publisher("work.a")
        await publish(publisher, 1)
    stage.backbone.__class__ = Several
    again = KeptStage(stage.world, stage.backbone)
    async with again.running():
        frames = await (await again.keeper("BUILDER")).subscribe_durably(1, "work.>", start="all")
        looked_at = again.broker.statistics()["offences"].get("what is kept: papers that are none are passed over")
        assert looked_at == min(spoiled, MOST_PAPERS), "and nobody has thousands looked at"
        shown = [one[1] for one in frames if one[0] == Frame.PAPERS]
        assert shown == ([[publisher.agents["DIRECTOR"].papers]] if spoiled < MOST_PAPERS else [])


# ---- what has expired ------------------------------------------------------------------------------------------------------------


async def test_what_expired_since_the_backbone_was_told_the_time_is_passed_over_and_no_dead_letter(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        for ttl_ms in (2_000, 60_000):
            publisher.publish(publisher.seal("work.a", expires_ms=stage.world.now + ttl_ms), topic="work.a")
        await stage.later(3)
        frames = await reader.subscribe_durably(1, "work.>", start="all")
        assert [one[4] for one in frames if one[0] == Frame.DELIVER] == [2]
        assert (stage.counted["passed_over"], await stage.backbone.dead_letters()) == (1, [])


async def test_what_expired_by_the_date_alone_waits_until_that_much_is_known_to_have_passed(stage: KeptStage):
    """As after a start: what is known is behind by as long as nobody watched."""
    async with stage.running():
        publisher = await stage.publisher("work.a")
        for _ in range(2):
            publisher.publish(publisher.seal("work.a", expires_ms=stage.world.now + 2_000), topic="work.a")
        await settle()
    begun = KeptStage(stage.world, stage.backbone, clock=stage.clock)
    begun.clock.ms += 10_000  # the wall clock alone, as one does that went on while the broker did not
    async with begun.running():
        reader = await begun.keeper("BUILDER")
        assert await reader.subscribe_durably(1, "work.>", start="all") == [[Frame.SUBSCRIBED, 1]]
        assert begun.counted["passed_over"] == 0, "the date may be ahead: nothing is given up by it"
        await begun.later(6)
        assert (await reader.kept(), begun.counted["passed_over"], await begun.backbone.dead_letters()) == ([], 2, [])


async def test_what_expired_by_a_date_that_is_set_right_again_is_handed_out(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        publisher.publish(publisher.seal("work.a", expires_ms=stage.world.now + 30_000), topic="work.a")
        await settle()
        stage.clock.ms += 40_000
        assert await reader.subscribe_durably(1, "work.>", start="all") == [[Frame.SUBSCRIBED, 1]]
        stage.clock.ms -= 40_000
        await stage.later(6)
        assert [(deliveries, position) for _, deliveries, position, _ in await reader.kept()] == [(1, 1)]


# ---- settling --------------------------------------------------------------------------------------------------------------------


async def test_what_is_settled_is_settled(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        sent = await publish(publisher, 5)
        await kept(reader)
        await reader.settles(1, ACK, (1, 2))
        await reader.settles(1, NAK, (3, 3), delay=2_000)
        await reader.settles(1, TERM, (4, 4), reason="bad")
        await stage.later(25, step=1)
        await reader.settles(1, TOUCH, (5, 5))
        assert await reader.kept() == [(1, 2, 3, sent[2])]
        await reader.settles(1, ACK, (3, 3))
        await stage.later(10, step=1)
        assert await reader.kept() == []
        counted = stage.counted["backbone"]
        assert (counted["acks"], counted["naks"], counted["terms"], counted["dead_letters"]) == (3, 1, 1, 1)


@pytest.mark.parametrize(("verb", "span"), [(0, (1, 1)), (ACK, (2, 1))])
async def test_what_is_no_settling_ends_the_link(stage: KeptStage, verb: int, span: tuple[int, int]):
    async with stage.running():
        reader = await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        await reader.settles(1, verb, span)
        assert reader.lost


async def test_spans_as_long_as_numbers_go_settle_what_there_is(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        await publish(publisher, 3)
        await kept(reader)
        await reader.settles(1, ACK, (0, (1 << 64) - 1))
        assert stage.counted["backbone"]["acks"] == 3


async def test_who_asks_is_answered_when_what_it_settled_is_on_disk(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        await publish(publisher, 1)
        await kept(reader)
        await reader.hears()
        assert await reader.say(Frame.PING, 5) == [[Frame.PONG, 5]]
        stage.disk.is_held = True
        await reader.settles(1, ACK, (1, 1))
        reader.send(Frame.PING, 6)
        assert await reader.say(Frame.PING, 7) == []
        assert await reader.say(Frame.PING, 0) == [[Frame.PONG, 0]]
        stage.disk.go_on()
        await stage.later(0.2)
        assert await reader.hears(Frame.PONG) == [[Frame.PONG, 6], [Frame.PONG, 7]]


# ---- who may take ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("agent", "pattern", "group", "code"),
    [
        ("BUILDER", "tasks.>", "", "malformed"),
        ("MONITOR", ">", "", "malformed"),
        ("GUEST", "work.>", "", "not_permitted"),
        ("BUILDER", "work.>", "strangers", "not_permitted"),
        ("BUILDER", "_dead.work.>", "", "not_permitted"),
        ("MONITOR", "_dead.work.>", "builders", "not_permitted"),
    ],
)
async def test_what_cannot_be_is_refused(stage: KeptStage, agent: str, pattern: str, group: str, code: str):
    async with stage.running():
        reader = await stage.keeper(agent)
        assert await reader.subscribe_durably(1, pattern, group=group) == [[Frame.REFUSE, code, sub_ref(1)]]


async def test_a_link_has_no_more_durable_subscriptions_than_it_was_told(world):
    stage = KeptStage(world, limits=Limits(topics=3, subscriptions=2))
    async with stage.running():
        reader = await stage.keeper("BUILDER")
        for number in (1, 2):
            assert await reader.subscribe_durably(number, "work.>", name=f"n{number}") == [[Frame.SUBSCRIBED, number]]
        assert await reader.subscribe_durably(3, "work.>", name="n3") == [[Frame.REFUSE, "busy", sub_ref(3)]]


async def test_one_that_starts_nowhere_is_refused_and_its_link_goes_on(stage: KeptStage):
    async with stage.running():
        reader = await stage.keeper("BUILDER")
        assert await reader.subscribe_durably(1, "work.>", start="yesterday") == [[Frame.REFUSE, "malformed", sub_ref(1)]]
        assert await reader.subscribe_durably(1, "work.>", start="all") == [[Frame.SUBSCRIBED, 1]]


async def test_one_name_of_an_agent_is_open_once_and_as_it_was_made(stage: KeptStage):
    async with stage.running():
        reader = await stage.keeper("BUILDER")
        await reader.subscribe_durably(1, "work.>")
        assert await reader.subscribe_durably(2, "work.>") == [[Frame.REFUSE, "busy", sub_ref(2)]]
        assert await reader.subscribe_durably(3, "work.a") == [[Frame.REFUSE, "malformed", sub_ref(3)]]
        reader.send(Frame.UNSUBSCRIBE, 1)
        await settle()
        assert await reader.subscribe_durably(4, "work.>", start="all") == [[Frame.REFUSE, "malformed", sub_ref(4)]]
        assert await reader.subscribe_durably(5, "work.>") == [[Frame.SUBSCRIBED, 5]]


async def test_a_newer_link_of_the_agent_gets_what_the_older_one_had(stage: KeptStage):
    async with stage.running():
        publisher, older = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await older.subscribe_durably(1, "work.>")
        sent = await publish(publisher, 2)
        await kept(older)
        await older.settles(1, ACK, (1, 1))
        newer = await stage.keeper("BUILDER")
        frames = await newer.subscribe_durably(1, "work.>")
        assert [one[3:] for one in frames if one[0] == Frame.DELIVER] == [[2, 2, sent[1]]]
        assert stage.counted["backbone"]["acks"] == 1


@pytest.mark.parametrize("group", ["builders", "24h"])
async def test_each_record_goes_to_one_member_of_a_group_and_only_that_one_settles_it(stage: KeptStage, group: str):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        members = [await stage.keeper("BUILDER"), await stage.keeper("TESTER")]
        for member in members:
            await member.subscribe_durably(1, "work.>", group=group)
        sent = await publish(publisher, 6)
        one, two = [await member.kept() for member in members]
        assert sorted(envelope for *_, envelope in one + two) == sorted(sent)
        assert len(one) == len(two) == 3
        await members[0].settles(1, ACK, (1, 6))
        assert stage.counted["backbone"]["acks"] == 3
        members[1].link.close()
        await stage.later(1)
        again = [(deliveries, envelope) for _, deliveries, _, envelope in await members[0].kept()]
        assert sorted(again) == sorted((2, envelope) for *_, envelope in two)


async def test_what_one_member_of_a_group_cannot_open_goes_to_another_and_does_not_count(stage: KeptStage):
    async with stage.running():
        publisher, blind = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await blind.subscribe_durably(1, "work.>", group="builders")
        sent = await publish(publisher, 3)
        assert [envelope for *_, envelope in await blind.kept()] == sent
        seeing = await stage.keeper("TESTER")
        await seeing.subscribe_durably(1, "work.>", group="builders", limit=3)
        blind.send(Frame.CREDIT, 1, 3)
        await blind.settles(1, NAK, (1, 3), reason="missing_key")
        await stage.later(2)
        again = [(deliveries, envelope) for _, deliveries, _, envelope in await seeing.kept()]
        assert sorted(again) == sorted((1, envelope) for envelope in sent)
        counts = stage.counted["backbone"]
        assert (await blind.kept(), counts["put_off"], counts["naks"]) == ([], 3, 0)


async def test_what_was_not_begun_comes_again_when_who_says_so_has_left_and_not_to_who_stays(stage: KeptStage, monkeypatch):
    monkeypatch.setattr(durable_reading, "MAX_NOT_BEGUN", 2)
    async with stage.running():
        publisher, first = await stage.publisher("work.a"), await stage.keeper("BUILDER")
        await first.subscribe_durably(1, "work.>", limit=100)
        sent = await publish(publisher, 3)
        assert await kept(first) == sent
        await first.settles(1, NAK, (1, 2), reason=NOT_BEGUN)
        await first.settles(1, NAK, (3, 3), (2, 2), (1, 1), reason=NOT_BEGUN)  # more than anybody has to say is not heard
        await stage.later(2)
        assert await first.kept() == []
        first.send(Frame.UNSUBSCRIBE, 1)
        await settle()
        heard = await first.subscribe_durably(2, "work.>", limit=100)
        assert [(one[3], one[5]) for one in heard if one[0] == Frame.DELIVER] == [*zip((1, 1, 2), sent, strict=True)]


async def test_a_link_that_ends_over_a_durable_subscription_whose_number_is_in_use_leaves_nothing_behind(stage: KeptStage):
    async with stage.running():
        host = await stage.keeper("BUILDER")
        await host.subscribe(1, "tasks.>")
        await host.subscribe_durably(2, "work.>")
        await host.subscribe_durably(2, "work.a", name="another")
        assert host.lost
        counted = stage.counted
        assert (counted["subscriptions"], counted["agents"], counted["links_open"]) == (0, 0, 0)
