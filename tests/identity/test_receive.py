"""The receiver's eleven lines: what passes, and every attack with the code that refuses it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from small_world import X25519, World

from bus.errors import BusError
from bus.flow.ledger import Ledger
from bus.identity.envelopes import listening as listenings
from bus.identity.envelopes import seal
from bus.identity.envelopes import snapshot as snapshots
from bus.identity.envelopes.granting import Reader
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import MAX_NAMED, Listening, Request, Subscription
from bus.identity.envelopes.receive import Parked, receive
from bus.identity.envelopes.standing import origin_fault
from bus.protocol import envelope as envelopes
from bus.protocol.header import REPLY, REQUEST
from bus.protocol.kem import PublicKey
from bus.protocol.records import Records


def test_what_was_sent_arrives_as_it_was_sent(world: World):
    director, builder = world.agent("DIRECTOR"), world.agent("BUILDER")
    epoch, envelope = world.say(director, "tasks.build", [b"one", b"two"])
    held = world.held(director, builder, epochs=[epoch])
    got = world.receive(envelope, held, world.listening("BUILDER", "tasks.>"))
    assert got.records.payloads == [b"one", b"two"]
    assert (got.header.sender, got.header.topic, got.by_identity) == ("DIRECTOR", "tasks.build", False)
    assert [hearing.subscription.agent for hearing in got.hearings] == ["BUILDER"]


def test_it_waits_for_the_key_and_for_the_papers(world: World):
    director = world.agent("DIRECTOR")
    epoch, envelope = world.say(director, "tasks.build")
    listening = world.listening("BUILDER")
    for held, reason in ((world.held(director), "missing_key"), (world.held(epochs=[epoch]), "missing_papers")):
        got = receive(envelope, held, snapshot=world.snapshot, listening=listening, now_ms=world.now)
        assert isinstance(got, Parked)
        assert got.reason == reason


def test_the_identity_key_signs_what_policy_marks(world: World):
    director = world.agent("DIRECTOR")
    epoch, envelope = world.say(director, "control.stop")
    got = world.receive(envelope, world.held(director, epochs=[epoch]), world.listening("BUILDER"))
    assert got.by_identity
    assert got.proof.suite == 19


def test_an_audit_record_is_heard_by_those_whom_policy_names_and_sent_of_oneself_alone(world: World):
    builder, tester = world.agent("BUILDER"), world.agent("TESTER")
    monitor, guest = Listening((subscribed("MONITOR", "_audit.BUILDER"),)), Listening((subscribed("GUEST", "_audit.BUILDER"),))
    epoch, envelope = world.say(builder, "_audit.BUILDER")
    assert world.snapshot.audience("_audit.BUILDER") == (("MONITOR", 0),)
    assert world.receive(envelope, world.held(builder, epochs=[epoch]), monitor).records is not None
    assert outcome(world, envelope, world.held(builder, epochs=[epoch]), guest) == "not_permitted"
    epoch, envelope = world.say(tester, "_audit.BUILDER")
    assert outcome(world, envelope, world.held(tester, epochs=[epoch]), monitor) == "not_permitted"


def subscribed(agent: str, pattern: str) -> Subscription:
    return Subscription(agent, pattern, 0)


def outcome(world: World, data: bytes, held: Held, listening: Listening, **changes: Any) -> str:
    with pytest.raises(BusError) as caught:
        world.receive(data, held, listening, **changes)
    reason = caught.value.reason
    assert isinstance(reason, str)
    return reason


REF = b"r" * 16

DISAGREE: dict[str, dict[str, Any]] = {
    "a request of two records": {"flags": REQUEST, "payloads": [b"1", b"2"]},
    "a request that answers": {"flags": REQUEST, "ref": REF},
    "a message that answers": {"ref": REF},
    "a request on a topic of the protocol": {"flags": REQUEST, "topic": "_audit.DIRECTOR"},
    "a message where replies go": {"topic": "_reply.BUILDER." + "0" * 32},
    "a message where grants go": {"topic": "_grant.BUILDER"},
    "a message where nothing goes": {"topic": "_x.y"},
}


@pytest.mark.parametrize("changes", DISAGREE.values(), ids=DISAGREE.keys())
def test_flags_and_ref_and_topic_agree_or_the_sender_is_wrong_in_earnest(world: World, changes: dict[str, Any]):
    director = world.agent("DIRECTOR")
    facts = dict(changes)
    topic, payloads = facts.pop("topic", "tasks.build"), facts.pop("payloads", [b"x"])
    epoch, envelope = world.say(director, topic, payloads, **facts)
    listening = Listening((subscribed("MONITOR", topic),))
    found = outcome(world, envelope, world.held(director, epochs=[epoch]), listening)
    assert found == ("not_permitted" if topic.startswith(("_reply", "_grant", "_x")) else "malformed")


def test_a_reply_answers_one_request_with_one_record(world: World):
    builder, director = world.agent("BUILDER"), world.agent("DIRECTOR")
    topic = f"_reply.DIRECTOR.{director.session.hex()}"
    epoch = world.epoch(builder, "ask.when")
    listening = Listening(
        (), {("DIRECTOR", REF): Request("ask.when", world.now)}, {"DIRECTOR": frozenset({director.session.hex()})}
    )
    held = world.held(builder, epochs=[epoch])
    two = world.send(builder, epoch, world.outgoing(builder, topic, [b"1", b"2"], flags=REPLY, ref=REF))[0]
    assert outcome(world, two, held, listening) == "malformed"
    one = world.send(builder, epoch, world.outgoing(builder, topic, [b"1"], flags=REPLY, ref=REF))[0]
    assert world.receive(one, held, listening).answers is not None
    assert outcome(world, one, held, listening) == "replayed"


def test_a_reply_to_a_durable_request_is_live_and_short(world: World):
    rule = world.snapshot.rule("work.build", reply=True)
    assert (rule.class_, rule.ttl_ms) == ("live", 60_000)
    assert world.snapshot.rule("work.build").class_ == "durable"
    assert world.snapshot.audience("_reply.DIRECTOR." + "0" * 32) == (("DIRECTOR", 0),)
    assert world.snapshot.domain == "tpmbus.test"


def test_a_grant_is_no_data(world: World):
    director, builder = world.agent("DIRECTOR"), world.agent("BUILDER")
    epoch = world.epoch(director, "tasks.build")
    grant = world.grant(director, epoch, Reader("BUILDER", PublicKey(X25519, builder.host.kem_key), builder.session))[0]
    assert outcome(world, grant, world.held(director, epochs=[epoch]), world.listening("BUILDER")) == "malformed"


def test_more_records_than_the_header_says_are_refused_even_of_the_sender(world: World):
    director = world.agent("DIRECTOR")
    epoch = world.epoch(director, "tasks.build")
    drafted = seal.draft(epoch, world.outgoing(director, "tasks.build"), suite=seal.HOST_SUITE, random=bytes(seal.RANDOM_BYTES))
    body = Records(b"\x00\x00", [b"1", b"2"], {}).encode()
    content = envelopes.content(drafted.header, body, blind=drafted.blind, hash_name="sha256")
    drafted = drafted._replace(body=body, content=content)
    envelope = seal.seal(drafted, seal.sign_by_host([content], [drafted.blind], director.host)[0])
    assert outcome(world, envelope, world.held(director, epochs=[epoch]), world.listening("BUILDER")) == "malformed"


def test_an_agent_that_is_in_no_policy_is_not_permitted(world: World):
    stranger = world.identity("STRANGER", suite="ecc256/sha256")
    assert origin_fault(stranger.certificate, world.policy, needs_identity=False).reason == "not_permitted"


def test_of_many_who_hear_alike_each_is_still_asked_for_its_beginning_and_by_the_policy_of_now(world: World):
    director = world.agent("DIRECTOR")
    early = [Subscription("BUILDER", pattern, world.now - 1_000) for pattern in (">", "secret.>", "secret.*")]
    listening = Listening(early)

    def hearers() -> list[Subscription]:
        epoch, envelope = world.say(director, "secret.build")
        got = world.receive(envelope, world.held(director, world.agent("BUILDER"), epochs=[epoch]), listening)
        return sorted((one.subscription for one in got.hearings), key=lambda one: one.pattern)

    assert hearers() == hearers() == sorted(early, key=lambda one: one.pattern)
    late = Subscription("BUILDER", "secret.build", world.now + 1)
    listening.add(late)
    assert hearers() == hearers() == sorted(early, key=lambda one: one.pattern), "sent before its agent began"
    world.now += 1
    assert late in hearers()
    listening.add(Subscription("GUEST", "secret.build", world.now - 1_000))
    assert {one.agent for one in hearers()} == {"BUILDER"}, "whom policy bars gets nothing, and the others get it"
    assert {one.agent for one in hearers()} == {"BUILDER"}


def test_what_is_said_of_many_who_hear_alike_is_said_by_one_policy(world: World):
    director, listening = world.agent("DIRECTOR"), world.listening("BUILDER", ">", "secret.>")
    epoch, envelope = world.say(director, "secret.build")
    topic, reached = "secret.build", listening.reached("secret.build")
    assert len(listening.alike(topic, reached, world.snapshot).hearings) == 2
    nobody = replace(world.policy, agents={**world.policy.agents, "BUILDER": "guest"})
    assert not listening.alike(topic, reached, world.trust(policy=nobody)).hearings
    assert outcome(world, envelope, world.held(director, epochs=[epoch]), listening) == "not_permitted"


def test_what_is_kept_of_topics_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(snapshots, "MAX_KEPT", 4)
    monkeypatch.setattr(listenings, "MAX_KEPT", 4)
    snapshot, listening = world.trust(), world.listening("BUILDER", "tasks.>")
    for number in range(11):
        assert snapshot.rule(f"tasks.t{number}").class_ == "live"
        assert listening.reached(f"tasks.t{number}")
    assert len(snapshot._rules) <= 4
    assert len(listening._reached) <= 4


def test_of_a_ledger_that_is_writing_nothing_is_handed_over_and_nothing_acknowledged(world: World):
    director = world.agent("DIRECTOR")
    epoch, envelope = world.say(director, "work.build")
    ledger = Ledger()
    listening = Listening((Subscription("BUILDER", "work.>", 0, ledger),))
    held = world.held(director, epochs=[epoch])
    header = world.receive(envelope, held, listening).header
    ledger.finish(header.epoch, header.seq, [0], records=1, expires_ms=header.expires_ms)
    got = world.receive(envelope, held, listening)
    assert (got.hearings, got.done, got.records) == ([], [], None)


@pytest.mark.parametrize("others", [0, 1, MAX_NAMED + 1], ids=["alone", "with another", "with very many"])
def test_of_those_whom_a_topic_reaches_only_those_who_are_named_get_it_today_and_tomorrow(others):
    named, other, not_named = (Subscription("TESTBED", pattern, 0) for pattern in ("tasks.*", "plans.>", "tasks.>"))
    many = frozenset([named, *(Subscription("TESTBED", f"other.n{number}", 0) for number in range(others))])
    listening = Listening.to([named, other, not_named])
    for _ in range(2):
        assert listening.reached("tasks.build", named=many) == (named,)
        assert listening.reached("plans.build", named=many) == ()
        assert set(listening.reached("tasks.build")) == {named, not_named}
    listening.remove(named)
    assert listening.reached("tasks.build", named=many) == ()
