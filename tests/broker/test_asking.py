"""Keys and papers find their way: grants to who they are for, asks to who can answer, papers before what needs them."""

from __future__ import annotations

import os
from typing import Any

import pytest
from played import Played, Stage, settle
from small_world import MINUTE, NOW

from bus.broker import asking, host_link, outbox
from bus.identity.envelopes.granting import Reader
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.epochs import SealingEpoch
from bus.protocol.frames import BY_ITS_TOPIC, KEPT_GRANT, Frame
from bus.protocol.kem import PublicKey
from bus.trust.revocations import Reason, Revocation

pytestmark = pytest.mark.anyio


@pytest.fixture
async def director(stage: Stage) -> Played:
    host = await stage.host("DIRECTOR")
    await host.open("tasks.build")
    return host


def grant(stage: Stage, director: Played, epoch: SealingEpoch, reader: str, session: bytes = bytes(16), **changes: int) -> bytes:
    key = PublicKey(director.keys.kem, director.keys.kem_key)
    return stage.world.grant(director.agents["DIRECTOR"], epoch, Reader(reader, key, session), **changes)[0]


def epoch_of(stage: Stage, director: Played) -> SealingEpoch:
    return stage.world.epoch(director.agents["DIRECTOR"], "tasks.build")


async def test_a_grant_goes_to_its_reader_before_all_that_waits(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    await reader.hears()
    epoch = epoch_of(stage, director)
    reader.link.pause()
    large, small = director.seal("tasks.build", os.urandom(300_000)), director.seal("tasks.build", epoch=epoch)
    director.publish(large, small, topic="tasks.build")
    given = grant(stage, director, epoch, "BUILDER")
    turn = director.publish(given, alias=BY_ITS_TOPIC)
    await settle()
    reader.link.resume()
    frames = await reader.hears(Frame.DELIVER)
    assert [(one[1], one[2], one[5]) for one in frames] == [(1, b"\0\0\0\1", large), (2, b"", given), (3, b"\0\0\0\1", small)]
    assert await director.credited() == set()
    reader.send(Frame.CREDIT, 0, 3)
    assert await director.credited() == {1, turn}


async def test_a_grant_to_nobody_here_is_counted(stage: Stage, director: Played):
    director.publish(grant(stage, director, epoch_of(stage, director), "BUILDER"), alias=BY_ITS_TOPIC)
    assert await director.credited() == {1}
    assert stage.counted["unheard"] == 1


async def test_a_grant_may_be_given_again_long_after_it_was_made(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    given = grant(stage, director, epoch_of(stage, director), "BUILDER")
    stage.clock.advance(600)
    director.publish(given, alias=BY_ITS_TOPIC)
    assert len(await reader.delivered()) == 1


@pytest.mark.parametrize("case", ["expired", "too large", "of another agent", "to be kept"])
async def test_a_grant_that_is_not_right_is_refused(stage: Stage, director: Played, case: str):
    reader = await stage.host("BUILDER")
    epoch = epoch_of(stage, director)
    if case == "expired":
        given, reason = grant(stage, director, epoch, "BUILDER", expires_ms=stage.world.now - 1), "expired"
    elif case == "too large":
        names = tuple((f"AGENT{number}", 0) for number in range(5_000))
        reader_of_many = Reader("BUILDER", PublicKey(director.keys.kem, director.keys.kem_key), bytes(16), names)
        given, reason = stage.world.grant(director.agents["DIRECTOR"], epoch, reader_of_many)[0], "malformed"
    elif case == "of another agent":
        other = stage.world.agent("DEPUTY")
        given, reason = grant(stage, director, epoch, "BUILDER", session=other.session), "untrusted"
        director.agents["DIRECTOR"], mine = other, director.agents["DIRECTOR"]
        given = grant(stage, director, epoch, "BUILDER")
        director.agents["DIRECTOR"] = mine
    else:
        given, reason = grant(stage, director, epoch, "BUILDER"), "busy"
    director.publish(given, alias=KEPT_GRANT if case == "to be kept" else BY_ITS_TOPIC)
    assert len(await director.hears(Frame.REFUSE)) == 1
    assert stage.counted["refused"] == {reason: 1}
    assert await reader.delivered() == []


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"sender": "DEPUTY"}, "untrusted"), ({"sent_ms": NOW - 3_600_000}, "untrusted"), ({"sent_ms": NOW + 2 * MINUTE}, "revoked")],
    ids=["in the name of another", "from before its session", "by a key that was replaced"],
)
async def test_a_grant_that_its_session_could_not_make_is_refused(
    stage: Stage, director: Played, changes: dict[str, Any], reason: str
):
    """Else an epoch would stand under a name that never had it, and who asks for its key would be sent there."""
    epoch = epoch_of(stage, director)
    serial = director.agents["DIRECTOR"].identity.certificate.serial
    await stage.follow(revoked={serial: Revocation(NOW + 2 * MINUTE, Reason.ROTATED)})
    header, sealed = envelopes.split(grant(stage, director, epoch, "BUILDER"))
    stage.clock.advance(30)
    given = envelopes.join(headers.parse(header)._replace(**changes).encode(), sealed)
    director.publish(given, alias=BY_ITS_TOPIC)
    await settle()
    assert stage.counted["refused"] == {reason: 1}
    assert stage.counted["epochs"] == 0


async def test_a_grant_for_a_link_that_does_not_read_is_dropped(stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outbox, "MAX_GRANT_BUFFER", 1_000)
    reader = await stage.host("BUILDER")
    reader.link.pause()
    epoch = epoch_of(stage, director)
    director.publish(*[grant(stage, director, epoch, "BUILDER") for _ in range(5)], alias=BY_ITS_TOPIC)
    await settle()
    assert stage.counted["dropped"]["link_full"] >= 1
    reader.link.resume()
    assert len(await reader.delivered()) == stage.counted["delivered"] >= 1


# ---- asking for epochs -----------------------------------------------------------------------------------------------------------


async def test_who_lacks_a_key_is_passed_on_to_its_maker(stage: Stage, director: Played):
    reader, other = await stage.host("BUILDER"), await stage.host("TESTER")
    await reader.subscribe(1, "tasks.>")
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    await settle()
    await director.hears()
    epoch = director.epochs["DIRECTOR", "tasks.build"].id
    papers = reader.agents["BUILDER"].papers
    assert await reader.say(Frame.ASK, epoch, papers) != []
    assert await director.hears() == [[Frame.ASK, epoch, papers]]
    await other.say(Frame.REFUSE, "not_permitted", epoch)
    assert await reader.hears(Frame.REFUSE) == [], "only its maker says so"
    await director.say(Frame.REFUSE, "busy", epoch)
    assert await reader.hears(Frame.REFUSE) == [[Frame.REFUSE, "busy", epoch]]
    await director.say(Frame.REFUSE, "busy", epoch)
    assert await reader.hears(Frame.REFUSE) == [], "an answer is passed on once"


async def test_who_asks_for_what_nobody_has_hears_so(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    papers = reader.agents["BUILDER"].papers
    assert await reader.say(Frame.ASK, bytes(32), papers) == [[Frame.REFUSE, "not_permitted", bytes(32)]]
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    await reader.hears()
    director.link.close()
    await settle()
    epoch = director.epochs["DIRECTOR", "tasks.build"].id
    assert await reader.say(Frame.ASK, epoch, papers) == [[Frame.REFUSE, "busy", epoch]]


async def test_asks_that_nobody_answers_have_a_bound_and_an_end(stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asking, "MAX_ASKS", 3)
    async with stage.running():
        reader = await stage.host("BUILDER")
        papers = reader.agents["BUILDER"].papers
        epochs = [epoch_of(stage, director) for _ in range(5)]
        director.publish(*[director.seal("tasks.build", epoch=epoch) for epoch in epochs], topic="tasks.build")
        await settle()
        for epoch in epochs:
            reader.send(Frame.ASK, epoch.id, papers)
        refused = await reader.hears(Frame.REFUSE)
        assert [one[1:] for one in refused] == [["busy", epoch.id] for epoch in epochs[3:]]
        await stage.later(5.2)
        assert await reader.say(Frame.ASK, epochs[4].id, papers) == []


async def test_who_makes_up_epochs_pushes_out_its_own(stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(asking, "MAX_EPOCHS", 4)
    other = await stage.host("DEPUTY")
    await other.open("tasks.build")
    other.publish(other.seal("tasks.build"), topic="tasks.build")
    director.publish(*[director.seal("tasks.build", epoch=epoch_of(stage, director)) for _ in range(50)], topic="tasks.build")
    await settle()
    assert stage.counted["epochs"] == 5
    reader = await stage.host("BUILDER")
    epoch = other.epochs["DEPUTY", "tasks.build"].id
    assert await reader.say(Frame.ASK, epoch, reader.agents["BUILDER"].papers) == []


async def test_who_names_an_epoch_first_does_not_keep_its_maker_from_being_asked(stage: Stage, director: Played):
    """A broker that has just started knows nobody's epochs."""
    reader, insider = await stage.host("BUILDER"), await stage.host("DEPUTY")
    await insider.open("tasks.build")
    epoch = epoch_of(stage, director)
    outgoing = stage.world.outgoing(insider.agents["DEPUTY"], "tasks.build")
    header, sealed = envelopes.split(stage.world.send(director.agents["DIRECTOR"], epoch, outgoing)[0])
    for one, name in ((insider, "DEPUTY"), (director, "DIRECTOR")):
        named = headers.parse(header)._replace(sender=name, session=one.agents[name].session)
        one.publish(envelopes.join(named.encode(), sealed), topic="tasks.build")
        await settle()
    papers = reader.agents["BUILDER"].papers
    await reader.say(Frame.ASK, epoch.id, papers)
    assert [Frame.ASK, epoch.id, papers] in await director.hears()
    await insider.say(Frame.REFUSE, "not_permitted", epoch.id)
    assert await reader.hears(Frame.REFUSE) == [], "one of those who were asked may have it still"
    await director.say(Frame.REFUSE, "busy", epoch.id)
    assert await reader.hears(Frame.REFUSE) == [[Frame.REFUSE, "busy", epoch.id]]


async def test_a_question_is_passed_on_once_in_a_while(stage: Stage, director: Played):
    async with stage.running():
        reader = await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>")
        director.publish(director.seal("tasks.build"), topic="tasks.build")
        await settle()
        epoch, papers = director.epochs["DIRECTOR", "tasks.build"].id, reader.agents["BUILDER"].papers
        await director.hears()
        for _ in range(100):
            reader.send(Frame.ASK, epoch, papers)
        assert await director.hears(Frame.ASK) == [[Frame.ASK, epoch, papers]]
        await stage.later(1)
        await reader.say(Frame.ASK, epoch, papers)
        assert await director.hears(Frame.ASK) == [[Frame.ASK, epoch, papers]]


class NotWalked(dict):
    """What may be very long."""

    def __iter__(self):
        raise AssertionError("nobody looks at all of this to find a few")

    items = values = keys = __iter__


async def test_a_refusal_is_looked_up_by_who_refuses_what_and_nothing_of_it_is_left(stage: Stage, director: Played):
    async with stage.running():
        readers = [await stage.host(name) for name in ("BUILDER", "TESTER", "DEPUTY")]
        director.publish(director.seal("tasks.build"), topic="tasks.build")
        await settle()
        epoch = director.epochs["DIRECTOR", "tasks.build"].id
        table, all_asked = stage.broker._asking, stage.broker._asking._open
        for asked_once in (True, False):
            for reader, name in zip(readers, ("BUILDER", "TESTER", "DEPUTY"), strict=True):
                await reader.say(Frame.ASK, epoch, reader.agents[name].papers)
            assert len(table._asked) == 1
            if asked_once:
                table._open = NotWalked(all_asked)
                await director.say(Frame.REFUSE, "busy", epoch)
                assert [[one[1] for one in await reader.hears(Frame.REFUSE)] for reader in readers] == [["busy"]] * 3
                all_asked.clear()
                table._open = all_asked
            else:
                readers[0].link.close()
                await stage.later(asking.ANSWER_SECONDS + 0.2)
            assert table._asked == {}
            assert not table._open


async def test_nobody_asks_with_papers_of_a_session_that_is_not_on_its_link(stage: Stage, director: Played):
    reader, other = await stage.host("BUILDER"), await stage.host("TESTER")
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    await settle()
    await director.hears()
    epoch = director.epochs["DIRECTOR", "tasks.build"].id
    assert await reader.say(Frame.ASK, epoch, other.agents["TESTER"].papers) == [[Frame.REFUSE, "unverified", epoch]]
    assert await director.hears(Frame.ASK) == []


# ---- papers ----------------------------------------------------------------------------------------------------------------------


async def test_papers_of_a_session_come_once_before_the_first_envelope_that_needs_them(stage: Stage, director: Played):
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    first = director.agents["DIRECTOR"]
    renewed = stage.world.agent("DIRECTOR", identity=first.identity, host=director.keys)
    await director.say(Frame.PAPERS, [renewed.papers], b"")
    director.publish(director.seal("tasks.build"), director.seal("tasks.build"), topic="tasks.build")
    director.agents["DIRECTOR"] = renewed
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    came = await reader.hears()
    assert [one[0] for one in came] == [Frame.PAPERS, Frame.DELIVER, Frame.DELIVER, Frame.PAPERS, Frame.DELIVER]
    assert [one[1] for one in came if one[0] == Frame.PAPERS] == [[first.papers], [renewed.papers]]


async def test_who_wants_papers_again_gets_them(stage: Stage, director: Played):
    reader, agent = await stage.host("BUILDER"), director.agents["DIRECTOR"]
    for _ in range(2):
        assert await reader.say(Frame.ASK, agent.session, b"papers") == [[Frame.PAPERS, [agent.papers], b""]]
    assert await reader.say(Frame.ASK, bytes(16), b"papers") == [[Frame.REFUSE, "not_permitted", bytes(16)]]
    director.link.close()
    await settle()
    assert await reader.say(Frame.ASK, agent.session, b"papers") == [[Frame.PAPERS, [agent.papers], b""]]


async def test_what_a_link_was_told_has_a_bound(stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_link, "MAX_TOLD", 2)
    reader = await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    agent = director.agents["DIRECTOR"]
    for _ in range(4):
        director.agents["DIRECTOR"] = stage.world.agent("DIRECTOR", identity=agent.identity, host=director.keys)
        await director.say(Frame.PAPERS, [director.agents["DIRECTOR"].papers], b"")
        director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert [one[0] for one in await reader.hears()] == [Frame.PAPERS, Frame.DELIVER] * 4
    director.agents["DIRECTOR"] = agent
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert [one[0] for one in await reader.hears()] == [Frame.PAPERS, Frame.DELIVER], "told again rather than never"


async def test_what_was_sent_under_a_session_that_was_renewed_still_passes(stage: Stage, director: Played):
    async with stage.running():
        reader = await stage.host("BUILDER")
        await reader.subscribe(1, "tasks.>")
        first = director.agents["DIRECTOR"]
        await stage.later(14 * 60, step=5)
        late = director.seal("tasks.build")
        await stage.follow()
        renewed = stage.world.agent("DIRECTOR", identity=first.identity, host=director.keys)
        await director.say(Frame.PAPERS, [renewed.papers], b"")
        await stage.later(50, step=5)
        director.publish(late, topic="tasks.build")
        assert len(await reader.delivered()) == 1
        await stage.later(15 * 60, step=5)
        assert len(next(iter(stage.broker._hosts)).sessions) == 1, "and later is forgotten"
