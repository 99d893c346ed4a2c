"""What a broker passes on, and what it refuses: with the code that the peer hears, and the reason that is counted."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from played import Played, Stage, settle
from small_world import MINUTE, NOW

from bus.broker import publishing
from bus.protocol.frames import BY_ITS_TOPIC, KEPT_GRANT, Frame, column
from bus.protocol.header import REPLY, REQUEST, Header
from bus.trust.revocations import Reason, Revocation

pytestmark = pytest.mark.anyio


@pytest.fixture
async def director(stage: Stage) -> Played:
    """On a link with DEPUTY, who may do the same; the topics are open, and somebody listens to everything."""
    host = await stage.host("DIRECTOR", "DEPUTY")
    for topic in ("tasks.build", "results.done", "short.one", "work.pack"):
        await host.open(topic)
    return host


@pytest.fixture
async def monitor(stage: Stage) -> Played:
    host = await stage.host("MONITOR")
    await host.subscribe(1, ">")
    return host


def changed(envelope: bytes, **changes: Any) -> bytes:
    """The same with another header: a broker cannot tell."""
    header, sealed = msgpack.unpackb(envelope)
    fields = Header._make(msgpack.unpackb(header))._replace(**changes)
    return msgpack.packb([fields.encode(), sealed])


HEADERS: dict[str, tuple[dict[str, Any], str, str]] = {
    "a sender that is not here": ({"sender": "BUILDER"}, "untrusted", "unverified"),
    "another agent of the same link": ({"sender": "DEPUTY"}, "untrusted", "unverified"),
    "a session that nobody knows": ({"session": bytes(16)}, "untrusted", "unverified"),
    "another topic than the alias": ({"topic": "tasks.pack"}, "malformed", "malformed"),
    "a grant on a topic": ({"kind": 2}, "malformed", "malformed"),
    "a reply on a topic": ({"flags": REPLY, "ref": bytes(16)}, "malformed", "malformed"),
    "a request of two records": ({"flags": 1, "records": 2}, "malformed", "malformed"),
    "from the future": ({"sent_ms": NOW + 3 * MINUTE, "expires_ms": NOW + 4 * MINUTE}, "from_future", "unverified"),
    "sent before its session began": (
        {"sent_ms": NOW + MINUTE - 30_000, "expires_ms": NOW + MINUTE + 10_000},
        "untrusted",
        "unverified",
    ),
    "expired": ({"expires_ms": NOW + MINUTE - 1}, "expired", "unverified"),
    "sent long ago": ({"sent_ms": NOW - 1, "expires_ms": NOW + MINUTE + 1}, "ttl_too_long", "unverified"),
    "lives too long": ({"expires_ms": NOW + 3 * MINUTE}, "ttl_too_long", "unverified"),
    "a priority that the rule does not have": ({"priority": 0}, "not_permitted", "not_permitted"),
}


@pytest.mark.parametrize("case", HEADERS)
async def test_a_header_that_is_not_right_is_refused(stage: Stage, director: Played, monitor: Played, case: str):
    changes, reason, code = HEADERS[case]
    envelope = changed(director.seal("tasks.build"), **changes)
    turn = director.publish(envelope, topic="tasks.build")
    id_ = msgpack.unpackb(msgpack.unpackb(envelope)[0])[12]
    assert await director.hears(Frame.REFUSE) == [[Frame.REFUSE, code, id_]]
    assert await director.credited() == {turn}, "nobody has to take it in"
    assert await monitor.delivered() == []
    assert stage.counted["refused"] == {reason: 1}


NO_ENVELOPES: dict[str, bytes] = {
    "nothing": b"",
    "no array": b"\x01",
    "no header": msgpack.packb([b"", b"x"]),
    "a tail": msgpack.packb([b"\x90", b""]) + b"\x00",
    "a header of maps": msgpack.packb([msgpack.packb({}), b""]),
}


@pytest.mark.parametrize("case", NO_ENVELOPES)
async def test_what_is_no_envelope_is_refused_and_the_link_goes_on(stage: Stage, director: Played, case: str):
    turn = director.publish(NO_ENVELOPES[case], director.seal("tasks.build"), topic="tasks.build")
    assert await director.hears(Frame.REFUSE) == [[Frame.REFUSE, "malformed", b""]]
    assert await director.credited() == {turn}
    assert (stage.counted["admitted"], stage.counted["unheard"]) == (1, 1)


async def test_what_policy_does_not_allow_is_refused(stage: Stage, director: Played):
    await director.hears()
    director.publish(director.seal("results.done"), topic="results.done")
    (refused,) = await director.hears(Frame.REFUSE)
    assert refused[1] == "not_permitted"
    assert stage.counted["refused"] == {"not_permitted": 1}


@pytest.mark.parametrize(("size", "refused"), [(1_024, {}), (20_000, {"not_permitted": 1})])
async def test_messages_are_no_larger_than_the_rule_allows(stage: Stage, director: Played, size: int, refused: dict[str, int]):
    now = stage.world.now
    director.publish(director.seal("short.one", os.urandom(size), expires_ms=now + 1_000), topic="short.one")
    await settle()
    assert stage.counted["refused"] == refused


async def test_however_long_messages_may_live_they_come_within_a_minute(stage: Stage, director: Played):
    await director.open("long.one")
    sent = [director.seal("long.one", expires_ms=stage.world.now + 30 * MINUTE) for _ in range(2)]
    stage.clock.advance(60)
    director.publish(sent[0], topic="long.one")
    await settle()
    assert stage.counted["refused"] == {}
    stage.clock.advance(0.001)
    director.publish(sent[1], topic="long.one")
    await settle()
    assert stage.counted["refused"] == {"expired": 1}


async def test_what_an_ended_session_sent_is_refused(stage: Stage, director: Played):
    envelope = director.seal("tasks.build", sent_ms=NOW + 16 * MINUTE + 1, expires_ms=NOW + 17 * MINUTE)
    stage.clock.advance(15 * 60)
    director.publish(envelope, topic="tasks.build")
    await settle()
    assert stage.counted["refused"] == {"untrusted": 1}


async def test_each_session_of_an_agent_is_judged_by_its_own_time(stage: Stage, director: Played):
    def said(*, ms_ago: int = 0) -> bytes:
        sent = stage.clock.now_ms() - ms_ago
        return director.seal("tasks.build", sent_ms=sent, expires_ms=sent + MINUTE)

    director.publish(said(), topic="tasks.build")
    await settle()
    stage.clock.advance(10 * 60)
    stage.world.now = stage.clock.now_ms()
    renewed = director.agents["DIRECTOR"] = stage.world.agent("DIRECTOR", host=director.keys)
    await director.say(Frame.PAPERS, [renewed.papers], b"")
    director.epochs.clear()
    director.publish(said(ms_ago=30_000), topic="tasks.build")
    await settle()
    assert stage.counted["refused"] == {"untrusted": 1}, "its session had not begun then, whatever its first one had"
    stage.clock.advance(10 * 60)
    director.publish(said(), topic="tasks.build")
    await settle()
    assert stage.counted["refused"] == {"untrusted": 1}, "the first one has ended by now, and this has not"


async def test_what_a_key_sent_after_it_was_replaced_is_refused(stage: Stage, director: Played):
    serial = director.agents["DIRECTOR"].identity.certificate.serial
    date = stage.world.now + 10_000
    await stage.follow(revoked={serial: Revocation(date, Reason.ROTATED)})
    director.publish(
        director.seal("tasks.build"), director.seal("tasks.build", sent_ms=date, expires_ms=date + 1_000), topic="tasks.build"
    )
    await settle()
    assert stage.counted["refused"] == {"revoked": 1}


async def test_a_broker_without_news_of_revocations_passes_nothing_on(stage: Stage, director: Played):
    stage.clock.advance(3_601)
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    await settle()
    assert stage.counted["refused"] == {"trust_stale": 1}


async def test_what_would_have_to_be_kept_is_refused_where_nothing_is(stage: Stage, director: Played):
    director.publish(director.seal("work.pack"), topic="work.pack")
    assert [one[1] for one in await director.hears(Frame.REFUSE)] == ["busy"]
    assert stage.counted["refused"] == {"busy": 1}


STRAYS: dict[str, tuple[int, Callable[[Played], bytes]]] = {
    "an alias that is not open": (99, lambda host: host.seal("tasks.build")),
    "a topic of policy by its own topic": (BY_ITS_TOPIC, lambda host: host.seal("tasks.build")),
    "data that is to be kept like a grant": (KEPT_GRANT, lambda host: host.seal("tasks.build")),
    "an audit record that is a request": (BY_ITS_TOPIC, lambda host: changed(host.seal("_audit.DIRECTOR"), flags=REQUEST)),
}


@pytest.mark.parametrize("case", STRAYS)
async def test_an_envelope_under_the_wrong_alias_is_refused(stage: Stage, director: Played, case: str):
    alias, make = STRAYS[case]
    director.publish(make(director), alias=alias)
    await settle()
    assert stage.counted["refused"] == {"malformed": 1}


async def test_an_audit_record_goes_to_those_who_may_read_it_and_is_of_its_sender_alone(stage: Stage, director: Played):
    monitor = await stage.host("MONITOR", "GUEST")
    await monitor.subscribe(1, ">")
    assert await monitor.subscribe(2, "_audit.*") == [[Frame.SUBSCRIBED, 2]]
    assert await monitor.subscribe(3, "_audit.DEPUTY") == [[Frame.SUBSCRIBED, 3]]
    assert (await monitor.subscribe(4, "_audit.*", by="GUEST"))[0][:2] == [Frame.REFUSE, "not_permitted"]
    in_group = await monitor.subscribe(5, "_audit.*", group="builders")
    assert in_group[0][:2] == [Frame.REFUSE, "not_permitted"], "each who may read them gets all"
    record = director.seal("_audit.DIRECTOR")
    director.publish(record, changed(record, topic="_audit.DEPUTY"), alias=BY_ITS_TOPIC)
    assert await monitor.delivered() == [((2,), record)]
    assert stage.counted["refused"] == {"not_permitted": 1}


@pytest.mark.parametrize("frame", ["a turn that is out", "more than 256 turns", "no credit to take"])
async def test_what_no_honest_host_does_ends_the_link(stage: Stage, director: Played, monitor: Played, frame: str):
    envelope = director.seal("tasks.build")
    turns = {"a turn that is out": [1, 1], "more than 256 turns": [*range(257)], "no credit to take": [1]}[frame]
    for turn in turns:
        director.send(Frame.PUBLISH, turn, column([2]), [envelope])
    if frame == "no credit to take":
        director.send(Frame.CREDIT, 0, 1)
    await settle()
    assert director.lost
    assert not monitor.lost
    assert stage.counted["cut"] == {"malformed": 1}


async def test_who_brings_nothing_but_junk_is_cut(stage: Stage, director: Played, monkeypatch: pytest.MonkeyPatch, caplog: Any):
    monkeypatch.setattr(publishing, "MAX_JUNK", 20)
    junk = changed(director.seal("tasks.build"), session=bytes(16))
    director.publish(*[director.seal("tasks.build")] * 5, *[junk] * 20, topic="tasks.build")
    await settle()
    assert not director.lost
    director.publish(junk, topic="tasks.build")
    await settle()
    assert director.lost
    assert stage.counted["refused"] == {"untrusted": 21}
    lines = [record for record in caplog.records if "untrusted" in record.getMessage()]
    assert len(lines) == 1, "an offender is named once, not each time"
