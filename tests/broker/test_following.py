"""Policy and trust change while links are open: who lost a right is cut off in the step in which the broker hears of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from played import Played, Stage, settle, with_words
from small_world import MINUTE

from bus.broker import subscribing
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol.frames import BUNDLE, GONE, Frame, column, sub_ref
from bus.transport.link import Peer
from bus.trust.revocations import Reason, Revocation

pytestmark = pytest.mark.anyio


def revoked(host: Played, name: str, date_ms: int = 0, reason: Reason = Reason.COMPROMISED) -> dict[int, Revocation]:
    return {host.agents[name].identity.certificate.serial: Revocation(date_ms or host.stage.world.now, reason)}


async def test_a_revoked_agent_is_off_its_link_at_once_and_so_is_the_last_one_s_link(stage: Stage):
    director, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER", "TESTER")
    await reader.subscribe(1, "tasks.>", by="BUILDER")
    await reader.subscribe(2, "tasks.>", by="TESTER")
    await director.open("tasks.build")
    await director.hears()
    await stage.follow(revoked=revoked(reader, "BUILDER"))
    assert await reader.hears(Frame.DRAIN) == [[Frame.DRAIN, "revoked BUILDER"]]
    assert await director.hears(Frame.INTEREST) == [[Frame.INTEREST, 2, [["BUILDER", "tasks.>", GONE]]]]
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert [subs for subs, _ in await reader.delivered()] == [(2,)]
    reader.publish(reader.seal("results.x", by="BUILDER"), alias=0)
    await settle()
    assert stage.counted["refused"] == {"untrusted": 1}
    await stage.follow(revoked=revoked(reader, "TESTER"))
    assert reader.lost
    assert not director.lost
    assert stage.counted["agents"] == 1


async def test_a_revoked_agent_s_envelopes_pass_no_more_not_even_those_of_the_same_read(stage: Stage):
    director, reader = await stage.host("DIRECTOR", "DEPUTY"), await stage.host("BUILDER")
    await reader.subscribe(1, "tasks.>")
    await director.open("tasks.build")
    sealed = director.seal("tasks.build")
    stage.world.trust(revoked=revoked(director, "DIRECTOR"))
    director.publish(sealed, topic="tasks.build")
    stage.broker.follow(stage.world.snapshot, stage.documents)
    assert await reader.delivered() == []


async def test_a_key_that_was_replaced_counts_until_its_date(stage: Stage):
    async with stage.running():
        host = await stage.host("DIRECTOR", "DEPUTY")
        await stage.follow(revoked=revoked(host, "DIRECTOR", stage.world.now + MINUTE, Reason.ROTATED))
        assert await host.hears(Frame.DRAIN) == []
        await stage.later(61, step=5)
        await stage.follow()
        assert await host.hears(Frame.DRAIN) == [[Frame.DRAIN, "revoked DIRECTOR"]]


async def test_sessions_from_before_a_date_are_dropped(stage: Stage):
    host = await stage.host("DIRECTOR", "DEPUTY")
    old = host.agents["DIRECTOR"]
    stage.clock.advance(60)
    stage.world.now = stage.clock.now_ms()
    await stage.follow()
    new = stage.world.agent("DIRECTOR", identity=old.identity, host=host.keys)
    assert await host.say(Frame.PAPERS, [new.papers], b"") != []
    await stage.follow(agents={"DIRECTOR": (0, stage.world.now)})
    assert await host.hears(Frame.DRAIN, Frame.REFUSE) == []
    await host.open("tasks.build")
    host.agents["DIRECTOR"] = new
    host.publish(host.seal("tasks.build"), topic="tasks.build")
    host.agents["DIRECTOR"] = old
    host.publish(host.seal("tasks.build"), topic="tasks.build")
    await settle()
    assert stage.counted["refused"] == {"untrusted": 1}
    await stage.follow(agents={"DIRECTOR": (0, stage.world.now + MINUTE)})
    assert await host.hears(Frame.DRAIN) == [[Frame.DRAIN, "revoked DIRECTOR"]]


@pytest.mark.parametrize("case", ["its identity was revoked", "its sessions count from later on"])
async def test_who_is_revoked_while_the_trust_signer_is_replaced_is_off_its_link_all_the_same(stage: Stage, case: str):
    """Of papers whose trust signer alone is revoked nobody doubts the agent, which renews them. This one is doubted."""
    host = await stage.host("DIRECTOR", "DEPUTY")
    signer = host.agents["DIRECTOR"].believed.statement.signer.serial
    replaced = {signer: Revocation(stage.world.now + MINUTE, Reason.ROTATED)}
    if case == "its identity was revoked":
        await stage.follow(revoked=replaced | revoked(host, "DIRECTOR"))
    else:
        await stage.follow(revoked=replaced, agents={"DIRECTOR": (0, stage.world.now + 1)})
    assert await host.hears(Frame.DRAIN) == [[Frame.DRAIN, "revoked DIRECTOR"]]


async def test_an_agent_that_policy_does_not_know_any_more_is_off_its_link(stage: Stage):
    host = await stage.host("DIRECTOR", "GUEST")
    await stage.follow(policy=with_words(", GUEST: guest}", "}"))
    assert await host.hears(Frame.DRAIN) == [[Frame.DRAIN, "not_permitted GUEST"]]
    assert stage.counted["agents"] == 1


async def test_a_subscription_that_is_not_allowed_any_more_ends(stage: Stage):
    director, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER", "MONITOR")
    await director.open("tasks.build")
    await reader.subscribe(1, "tasks.>", by="BUILDER")
    await reader.subscribe(2, "records.>", by="BUILDER", group="builders")
    await reader.subscribe(3, ">", by="MONITOR")
    await director.hears()
    await stage.follow(policy=with_words('subscribe: ["tasks.>", "work.>", "ask.>"', 'subscribe: ["work.>", "ask.>"'))
    assert await reader.hears(Frame.REFUSE) == [[Frame.REFUSE, "not_permitted", sub_ref(1)]]
    assert (await director.hears(Frame.INTEREST))[0][2] == [["BUILDER", "tasks.>", GONE]]
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert [subs for subs, _ in await reader.delivered()] == [(3,)]
    await stage.follow(policy=with_words("groups: [builders,", "groups: ["))
    assert await reader.hears(Frame.REFUSE) == [[Frame.REFUSE, "not_permitted", sub_ref(2)]]


async def test_by_another_trust_nothing_is_believed_that_was_verified_under_the_one_before(stage: Stage):
    """Whoever shows papers anew has their chain looked at again; by another policy alone nobody need."""
    host = await stage.host("DIRECTOR")
    known = stage.counted["chain_entries"]
    assert known > 0
    before = stage.world.snapshot
    stage.broker.follow(Snapshot(with_words("tasks.hidden", "tasks.other"), before.trust), stage.documents)
    assert stage.counted["chain_entries"] == known
    await stage.follow(agents={})
    assert (stage.counted["chain_entries"], stage.counted["signature_entries"]) == (0, 0)
    assert not host.lost


async def test_many_subscriptions_are_judged_a_few_at_a_time_and_none_gets_what_it_may_not_hear(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(subscribing, "AT_ONCE", 2)
    director, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER", "MONITOR")
    await director.open("tasks.build")
    for number in range(1, 8):
        await reader.subscribe(number, "tasks.>", by="BUILDER")
    await reader.subscribe(8, ">", by="MONITOR")
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    stage.world.trust(policy=with_words('subscribe: ["tasks.>", "work.>", "ask.>"', 'subscribe: ["work.>", "ask.>"'))
    await reader.delivered()
    stage.broker.follow(stage.world.snapshot, stage.documents)
    assert 1 < stage.counted["subscriptions"] < 8
    stage.broker._publishing.turn(
        next(host for host in stage.broker._hosts if "DIRECTOR" in host.agents),
        [Frame.PUBLISH, 77, column([2]), [director.seal("tasks.build")]],
        stage.broker._moment(),
    )
    assert [subs for subs, _ in await reader.delivered()] == [(8,)]
    assert len(await reader.hears(Frame.REFUSE)) == 7
    assert stage.counted["subscriptions"] == 1


async def test_a_subscription_stands_where_one_of_its_topics_is_taken_away(stage: Stage):
    director, reader = await stage.host("DIRECTOR"), await stage.host("MONITOR")
    for topic in ("tasks.build", "tasks.hidden", "tasks.secret"):
        await director.open(topic)
    await reader.subscribe(1, "tasks.>")
    await stage.follow(policy=with_words('["tasks.hidden"]', '["tasks.hidden", "tasks.secret"]'))
    sent = [director.seal(topic) for topic in ("tasks.build", "tasks.hidden", "tasks.secret")]
    for topic, envelope in zip(director.aliases, sent, strict=True):
        director.publish(envelope, topic=topic)
    assert await reader.hears(Frame.REFUSE) == []
    assert [one for _, one in await reader.delivered()] == sent[:1]
    assert stage.counted["unheard"] == 2


async def test_who_may_not_publish_any_more_is_refused_and_told_of_nobody(stage: Stage):
    director, reader = await stage.host("DIRECTOR"), await stage.host("BUILDER")
    await director.open("tasks.build")
    await reader.subscribe(1, "tasks.>")
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    await settle()
    other = with_words('publish: ["tasks.>", ', "publish: [")
    await stage.follow(policy=other)
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert [one[1] for one in await director.hears(Frame.REFUSE)] == ["not_permitted"]
    await director.hears()
    await reader.subscribe(2, "tasks.*")
    assert await director.hears() == []
    await stage.follow(policy=with_words("domain", "domain"))
    assert [one[2][0][:2] for one in await director.hears(Frame.INTEREST)] == [["BUILDER", "tasks.*"]], "and is again"


async def test_lanes_hear_of_another_unit(stage: Stage):
    director = await stage.host("DIRECTOR")
    await director.open("tasks.build")
    await stage.follow(policy=with_words("{match: tasks.>,", "{match: tasks.>, unit: record,"))
    assert await director.hears(Frame.OPENED) == [[Frame.OPENED, 2, 1, 1, 0]]


async def test_everybody_hears_what_has_changed_the_statement_last(stage: Stage):
    hosts = [await stage.host("DIRECTOR"), await stage.host("BUILDER")]
    stage.world.trust()
    documents = replace(stage.documents, statement=stage.world.statement_bytes)
    stage.broker.follow(stage.world.snapshot, documents)
    for host in hosts:
        assert [(one[1], one[4]) for one in await host.hears(Frame.TRUST)] == [(0, documents.statement)]
    bundle = bytes(3 << 20)
    stage.broker.follow(stage.world.snapshot, replace(documents, bundle=bundle))
    for host in hosts:
        parts = await host.hears(Frame.TRUST)
        assert [(one[1], one[2], one[3], len(one[4])) for one in parts] == [(BUNDLE, 3 << 20, n << 20, 1 << 20) for n in range(3)]
        assert b"".join(one[4] for one in parts) == bundle


# ---- takeover --------------------------------------------------------------------------------------------------------------------


async def test_who_proves_itself_later_takes_over(stage: Stage):
    director, older = await stage.host("DIRECTOR"), await stage.host("BUILDER", "TESTER")
    await director.open("tasks.build")
    await older.subscribe(1, "tasks.>", by="BUILDER")
    await older.subscribe(2, "tasks.>", by="TESTER")
    newer = await stage.host("BUILDER")
    assert await older.hears(Frame.DRAIN) == [[Frame.DRAIN, "session_replaced BUILDER"]]
    await newer.subscribe(1, "tasks.>")
    papers = [one[1][0] for one in await director.hears(Frame.PAPERS)]
    assert newer.agents["BUILDER"].papers in papers
    director.publish(director.seal("tasks.build"), topic="tasks.build")
    assert [subs for subs, _ in await older.delivered()] == [(2,)]
    assert [subs for subs, _ in await newer.delivered()] == [(1,)]
    older.publish(older.seal("results.x", by="BUILDER"), alias=99)
    assert [one[1] for one in await older.hears(Frame.REFUSE)] == ["unverified"]
    older.link.close()
    await settle()
    assert stage.counted["agents"] == 2, "what the older link leaves behind is not the newer one's"


async def test_the_same_session_on_another_link_takes_over_too(stage: Stage):
    first = await stage.host("DIRECTOR")
    again = stage.connect(keys=first.keys)
    again.agents = first.agents
    await again.shake_hands()
    assert await first.hears(Frame.DRAIN) == [[Frame.DRAIN, "session_replaced DIRECTOR"]]
    await again.open("tasks.build")
    again.publish(again.seal("tasks.build"), topic="tasks.build")
    await settle()
    assert stage.counted["admitted"] == 1


async def test_a_newer_session_on_the_same_link_replaces_nobody(stage: Stage):
    host = await stage.host("DIRECTOR")
    renewed = stage.world.agent("DIRECTOR", identity=host.agents["DIRECTOR"].identity, host=host.keys)
    assert await host.say(Frame.PAPERS, [renewed.papers], b"") == []
    assert stage.counted["agents"] == 1


async def test_a_link_over_tls_ends_when_its_own_certificate_is_revoked(stage: Stage):
    certificates = [stage.world.identity(name).certificate for name in ("MONITOR", "PACKER")]
    hosts = [stage.connect(name) for name in ("DIRECTOR", "BUILDER")]
    for host, certificate in zip(hosts, certificates, strict=True):
        host.link.other.peer = Peer("tls", "127.0.0.1:1", server_leaf=b"server", client_leaf=certificate.der)
        host.server_leaf, host.client_leaf = b"server", certificate.der
        await host.shake_hands()
    await stage.follow(revoked={certificates[0].serial: Revocation(stage.world.now, Reason.COMPROMISED)})
    assert hosts[0].lost
    assert not hosts[1].lost
    assert stage.counted["agents"] == 1
