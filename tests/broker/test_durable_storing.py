"""What is published on a durable topic is on disk before anybody is told so, and what is not is refused to whoever waits."""

from __future__ import annotations

import pytest
from kept_stage import DAY, Keeper, KeptStage, full, inbox_key, settle
from small_world import World

from bus.broker import durable_storing
from bus.errors import BackboneError
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.frames import Frame

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage(world: World) -> KeptStage:
    return KeptStage(world)


def id_of(envelope: bytes) -> bytes:
    return headers.parse(envelopes.split(envelope)[0]).id


async def refused(host: Keeper) -> list[tuple[str, bytes]]:
    return [(code, ref) for _, code, ref in await host.hears(Frame.REFUSE)]


async def test_it_is_stored_when_it_is_on_disk_and_only_then_is_its_turn_credited(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        stage.disk.is_held = True
        envelope = publisher.seal("work.a")
        turn = publisher.publish(envelope, topic="work.a")
        await stage.later(1)
        assert (await publisher.stored(), await publisher.credited()) == ({}, set())
        stage.disk.go_on()
        frames = [one[0] for one in await publisher.hears(Frame.STORED, Frame.CREDIT)]
        assert frames == [Frame.STORED, Frame.CREDIT]
        assert stage.counted["stored"] == 1
        assert turn == 1


async def test_what_comes_while_the_disk_works_goes_together(stage: KeptStage):
    async with stage.running():
        publisher, other = await stage.publisher("work.a"), await stage.publisher("work.b", name="DEPUTY")
        publisher.publish(publisher.seal("work.a"), topic="work.a")
        other.publish(other.seal("work.b"), topic="work.b")
        await settle()
        stage.disk.commits.clear()
        stage.disk.is_held = True
        for _ in range(5):
            publisher.publish(publisher.seal("work.a"), publisher.seal("work.a"), topic="work.a")
            other.publish(other.seal("work.b"), topic="work.b")
            await settle()
        stage.disk.go_on()
        await settle()
        assert stage.disk.blocks in ([2, 13], [3, 12])
        assert sum(map(len, (await publisher.stored()).values())) == 11
        assert len(await publisher.credited()) == 6


async def test_positions_grow_and_the_same_again_has_its_first_one(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        first, second = publisher.seal("work.a"), publisher.seal("work.a")
        turns = [publisher.publish(first, topic="work.a"), publisher.publish(second, first, topic="work.a")]
        stored = await publisher.stored()
        assert stored == {turns[0]: [(id_of(first), 1)], turns[1]: [(id_of(second), 2), (id_of(first), 1)]}
        assert len(await publisher.credited()) == 2


async def test_after_a_lost_link_it_may_be_sent_again_for_ten_minutes(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        late, too_late = (publisher.seal("work.a", expires_ms=stage.world.now + DAY) for _ in range(2))
        await stage.later(590, step=5)
        publisher.publish(late, topic="work.a")
        assert len(await publisher.stored()) == 1
        await stage.later(30, step=5)
        publisher.publish(too_late, topic="work.a")
        assert await refused(publisher) == [("unverified", id_of(too_late))]


async def test_where_there_is_no_room_each_is_refused_and_later_they_are_stored_again(
    stage: KeptStage, caplog: pytest.LogCaptureFixture
):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        publisher.publish(publisher.seal("work.a"), topic="work.a")
        await settle()
        stage.disk.error = full()
        envelopes_ = [publisher.seal("work.a") for _ in range(3)]
        publisher.publish(*envelopes_, topic="work.a")
        assert await refused(publisher) == [("busy", id_of(one)) for one in envelopes_]
        assert len(await publisher.credited()) == 2
        assert stage.counted["not_stored"] == {"disk_full": 3}
        for _ in range(20):
            publisher.publish(envelopes_[0], topic="work.a")
            await settle()
        stage.disk.error = None
        await publisher.hears()
        publisher.publish(*envelopes_, topic="work.a")
        assert [position for _, position in (await publisher.stored())[23]] == [2 + 23, 3 + 23, 4 + 23]
        assert stage.counted["stored"] == 4
        assert len(caplog.records) == 1


async def test_grants_and_papers_are_on_disk_before_what_needs_them_is_stored(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        stage.disk.commits.clear()
        key = inbox_key()
        grant = publisher.grant("work.a", "BUILDER", key)
        publisher.publish_kept([grant], publisher.seal("work.a"), topic="work.a")
        assert len(await publisher.stored()) == 1
        with_keys, with_envelopes = stage.disk.commits
        assert [(one.reader, one.sender, one.envelope) for one in with_keys.grants] == [("BUILDER", "DIRECTOR", grant)]
        assert [one.session for one in with_keys.papers] == [publisher.agents["DIRECTOR"].session]
        assert with_envelopes.blocks
        publisher.publish(publisher.seal("work.a"), topic="work.a")
        await settle()
        assert stage.disk.commits[-1].is_blocks_alone
        assert len(stage.disk.commits) == 3


async def test_a_grant_that_is_not_on_disk_keeps_its_turn_until_it_is(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        stage.disk.error = full()
        envelope = publisher.seal("work.a")
        publisher.publish_kept([publisher.grant("work.a", "BUILDER", inbox_key())], envelope, topic="work.a")
        assert await refused(publisher) == [("busy", id_of(envelope))]
        await stage.later(3)
        assert await publisher.credited() == set()
        stage.disk.error = None
        await stage.later(3)
        assert await publisher.credited() == {1}
        assert len(stage.disk.commits[-1].grants) == 1


async def test_what_is_sealed_in_an_epoch_whose_grants_are_too_many_is_not_stored(
    stage: KeptStage, caplog: pytest.LogCaptureFixture
):
    class TooMany(type(stage.backbone)):
        async def keep(self, grants=(), papers=()):
            if grants:
                raise BackboneError("too_many", "of this sender")
            await super().keep(papers=papers)

    stage.backbone.__class__ = TooMany
    async with stage.running():
        publisher, other = await stage.publisher("work.a"), await stage.publisher("work.b", name="DEPUTY")
        publisher.publish_kept([publisher.grant("work.a", "BUILDER", inbox_key())], publisher.seal("work.a"), topic="work.a")
        await settle()
        await publisher.hears()
        late = publisher.seal("work.a")
        publisher.publish(late, topic="work.a")
        other.publish(other.seal("work.b"), topic="work.b")
        assert await refused(publisher) == [("busy", id_of(late))]
        assert len(await other.stored()) == 1
        for _ in range(20):
            publisher.publish_kept([publisher.grant("work.a", "BUILDER", inbox_key())], topic="work.a")
            await settle()
        said = [record.getMessage() for record in caplog.records]
        assert len([one for one in said if one.startswith("DIRECTOR: a grant is not kept")]) == 1
        assert len(said) == 3, "what came of it is said once, too"


async def test_nobody_has_thousands_of_grants_kept_for_one_reader(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        key = inbox_key()
        kept = [publisher.grant("work.a", "BUILDER", key) for _ in range(durable_storing.MAX_GRANTS + 2)]
        for grant in kept:
            publisher.publish_kept([grant], topic="work.a")
        assert await refused(publisher) == [("busy", id_of(grant)) for grant in kept[-2:]]
        assert len(await publisher.credited()) == len(kept)


async def test_who_listens_gets_it_when_it_is_stored_and_once(stage: KeptStage):
    async with stage.running():
        publisher, reader = await stage.publisher("work.a"), await stage.host("MONITOR")
        await reader.subscribe(1, "work.>")
        stage.disk.is_held = True
        envelope = publisher.seal("work.a")
        publisher.publish(envelope, topic="work.a")
        assert await reader.delivered() == []
        stage.disk.go_on()
        assert await reader.delivered() == [((1,), envelope)]
        publisher.publish(envelope, topic="work.a")
        assert await reader.delivered() == []
        assert len(await publisher.credited()) == 2


async def test_who_brings_more_than_the_disk_takes_is_stopped_and_then_refused(stage: KeptStage, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(durable_storing, "STOP_BYTES", 20_000)
    monkeypatch.setattr(durable_storing, "MAX_LINK_BYTES", 30_000)
    async with stage.running():
        publisher, other = await stage.publisher("work.a", "tasks.a"), await stage.publisher("work.a", name="DEPUTY")
        stage.disk.is_held = True
        big = [publisher.seal("work.a", bytes(5_000)) for _ in range(8)]
        for envelope in big:
            publisher.publish(envelope, topic="work.a")
        opened = await publisher.hears(Frame.OPENED)
        assert [(one[1], one[2]) for one in opened] == [(publisher.aliases["work.a"], 0)]
        assert await refused(publisher) == [("busy", id_of(one)) for one in big[5:]]
        other.publish(other.seal("work.a"), topic="work.a")
        assert await refused(other) == []
        stage.disk.go_on()
        assert [one[2] for one in await publisher.hears(Frame.OPENED)] == [1]
        assert sum(map(len, (await publisher.stored()).values())) == 5
        assert stage.counted["refused"] == {"busy": 3}


async def test_what_a_link_brought_is_stored_though_the_link_is_gone(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        stage.disk.is_held = True
        publisher.publish(publisher.seal("work.a"), topic="work.a")
        await settle()
        publisher.link.close()
        await settle()
        stage.disk.go_on()
        await settle()
        assert stage.counted["stored"] == 1


async def test_junk_that_policy_does_not_admit_is_not_stored(stage: KeptStage):
    async with stage.running():
        publisher = await stage.publisher("work.a")
        expired = publisher.seal("work.a", sent_ms=stage.world.now - 700_000)
        publisher.publish(expired, topic="work.a")
        assert await refused(publisher) == [("unverified", id_of(expired))]
        assert stage.counted["kept"] == 0
