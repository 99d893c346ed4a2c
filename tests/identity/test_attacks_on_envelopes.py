"""Whoever carries envelopes, and whoever may read them, tries what they can; each attempt is refused with its own code.

A *carrier* (broker, network) has the bytes. An *insider* is a reader: it has the epoch's key too, so what it seals opens.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from small_world import DAY, HOUR, MINUTE, Insider, World

from bus.errors import BusError, RemoteProtocolError, VerificationError
from bus.flow.ledger import Ledger
from bus.identity.envelopes import seal
from bus.identity.envelopes.listening import Listening, Request, Subscription
from bus.identity.envelopes.receive import Parked, receive
from bus.policy import load
from bus.protocol.epochs import OpenedEpoch
from bus.protocol.header import REPLY, REQUEST
from bus.protocol.replay import WINDOW
from bus.protocol.signatures import CRYPTOGRAPHY_HASHES

TOPIC = "tasks.build"
HEADER_FIELDS = ["version", "kind", "flags", "topic", "sender", "session", "epoch", "seq", "sent", "expires", "priority"]
HEADER_FIELDS += ["records", "id", "ref", "before"]


class Scene:
    """DIRECTOR sends to BUILDER. The carrier is in between; TESTER, another reader, is the insider."""

    def __init__(self, world: World, topic: str = TOPIC, **changes: Any) -> None:
        self.world, self.topic = world, topic
        self.director = world.agent("DIRECTOR")
        self.epoch = world.epoch(self.director, topic, **changes)
        self.insider = Insider(self.epoch)
        self.held = world.held(self.director, epochs=[self.epoch])
        self.listening = world.listening("BUILDER", ">")

    def send(self, *payloads: bytes, **changes: Any) -> bytes:
        outgoing = self.world.outgoing(self.director, self.topic, payloads or (b"hello",), **changes)
        return self.world.send(self.director, self.epoch, outgoing)[0]

    def arrives(self, data: bytes, **changes: Any) -> list[bytes]:
        return list(self.world.receive(data, self.held, self.listening, **changes).records.payloads)

    def refused(self, data: bytes, **changes: Any) -> str:
        """The code."""
        with pytest.raises(BusError) as caught:
            self.arrives(data, **changes)
        reason = caught.value.reason
        assert isinstance(reason, str)
        return reason


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def change(fields: list[Any], **changes: Any) -> list[Any]:
    found = dict(zip(HEADER_FIELDS, fields, strict=True))
    return list((found | changes).values())


# ---- the carrier: bits, times, order -------------------------------------------------------------------------------------------


def test_every_single_bit_flip_is_refused(scene: Scene):
    envelope = scene.send(b"x")
    passed = []
    for bit in range(len(envelope) * 8):
        flipped = bytearray(envelope)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            got = receive(
                bytes(flipped), scene.held, snapshot=scene.world.snapshot, listening=scene.listening, now_ms=scene.world.now
            )
        except (VerificationError, RemoteProtocolError):
            continue
        if not isinstance(got, Parked):  # it names an epoch or a session that nobody knows: it waits, and is never handed over
            passed.append(bit)
    assert not passed
    assert scene.arrives(envelope) == [b"x"], "no flip may have moved any state"


def test_every_truncation_and_every_tail_is_refused(scene: Scene):
    envelope = scene.send(b"x")
    for size in range(len(envelope)):
        assert scene.refused(envelope[:size]) == "malformed"
    assert scene.refused(envelope + b"\x00") == "malformed"
    assert scene.refused(envelope + envelope) == "malformed"


def test_a_replay_is_refused_in_the_session_and_after_a_reconnect(scene: Scene):
    envelope = scene.send()
    assert scene.arrives(envelope) == [b"hello"]
    assert scene.refused(envelope) == "replayed"
    scene.listening = scene.world.listening("BUILDER", "tasks.*")  # subscribed anew, over another link; the host is the same
    assert scene.refused(envelope) == "replayed"


def test_a_replay_to_a_restarted_receiver_is_refused(scene: Scene):
    envelope = scene.send()
    scene.world.now += 10
    scene.held = scene.world.held(scene.director, epochs=[scene.epoch])
    scene.listening = scene.world.listening("BUILDER", ">", began_ms=scene.world.now)
    assert scene.refused(envelope) == "before_session"


def test_reordering_is_borne_within_the_window_and_refused_beyond_it(scene: Scene):
    first = scene.send(b"first")
    for _ in range(WINDOW - 2):
        scene.epoch.burn(scene.epoch.take())
    assert scene.arrives(scene.send(b"late")) == [b"late"]
    assert scene.arrives(first) == [b"first"]

    second = Scene(scene.world)
    first = second.send(b"first")
    for _ in range(WINDOW - 1):
        second.epoch.burn(second.epoch.take())
    assert second.arrives(second.send(b"late")) == [b"late"]
    assert second.refused(first) == "too_old"


@pytest.mark.parametrize(
    ("sent", "expires", "reason"),
    [
        (60_001, 90_000, "from_future"),
        (-60_000, -1, "expired"),
        (0, 60_001, "ttl_too_long"),
        (60_000, 60_000, None),
        (-60_000, 0, None),
    ],
)
def test_times_are_judged_to_the_millisecond(world: World, sent: int, expires: int, reason: str | None):
    scene = Scene(world, made_ms=world.now - HOUR, ends_ms=world.now + HOUR)
    scene.director = world.agent("DIRECTOR", not_before_ms=world.now - MINUTE, not_after_ms=world.now + 2 * MINUTE)
    scene.held.sessions[scene.director.session] = scene.director.believed
    envelope = scene.send(sent_ms=world.now + sent, expires_ms=world.now + expires)
    assert (scene.refused(envelope) if reason else scene.arrives(envelope)) == (reason or [b"hello"])


def test_past_the_end_of_its_statement_a_host_judges_nothing(world: World):
    world.now = world.snapshot.trust.statement.next_update_ms
    scene = Scene(world)
    envelope = scene.send()
    world.now += 1
    assert scene.refused(envelope) == "trust_stale"
    world.now -= 1
    assert scene.arrives(envelope) == [b"hello"]


# ---- the carrier: whose handler, whose host --------------------------------------------------------------------------------------


def test_an_envelope_reaches_the_handler_of_its_topic_and_no_other(scene: Scene):
    scene.listening = scene.world.listening("BUILDER", "work.>", "tasks.deploy.*")
    assert scene.refused(scene.send()) == "unsolicited"


def test_an_agent_that_may_not_hear_a_topic_is_not_handed_it_even_where_another_of_its_host_is(world: World):
    scene = Scene(world, "secret.plans", aead=1)
    listening = (*world.listening("BUILDER", ">").subscriptions, *world.listening("GUEST", ">").subscriptions)
    got = world.receive(scene.send(), scene.held, Listening(listening))
    assert [hearing.subscription.agent for hearing in got.hearings] == ["BUILDER"]
    assert [(one.agent, error.reason) for one, error in got.refused] == [("GUEST", "not_permitted")]
    scene.listening = world.listening("GUEST", ">")
    assert scene.refused(scene.send()) == "not_permitted"


def test_a_reply_reaches_nobody_but_who_asked_whatever_is_subscribed(world: World):
    builder, director = world.agent("BUILDER"), world.agent("DIRECTOR")
    topic = f"_reply.DIRECTOR.{director.session.hex()}"
    reply_rule = world.snapshot.rule("ask.when", reply=True)
    assert reply_rule.class_ == "live"
    epoch = world.epoch(builder, "ask.when")
    ref = os.urandom(16)
    outgoing = world.outgoing(builder, topic, [b"now"], flags=REPLY, ref=ref)
    envelope = world.send(builder, epoch, outgoing)[0]
    held = world.held(builder, epochs=[epoch])

    def listening(**changes: Any) -> Listening:
        facts = {
            "subscriptions": (Subscription("MONITOR", ">", 0),),
            "requests": {("DIRECTOR", ref): Request("ask.when", world.now + MINUTE)},
            "sessions": {"DIRECTOR": frozenset({director.session.hex()})},
        }
        return Listening(**(facts | changes))

    for others in (
        {"requests": {}},  # nobody asked, and `>` does not reach it
        {"requests": {("DIRECTOR", os.urandom(16)): Request("ask.when", world.now + MINUTE)}},
        {"requests": {("MONITOR", ref): Request("ask.when", world.now + MINUTE)}},
        {"requests": {("DIRECTOR", ref): Request("ask.when", world.now - 1)}},
        {"sessions": {"DIRECTOR": frozenset({os.urandom(16).hex()})}},
        {"sessions": {}},
    ):
        with pytest.raises(VerificationError) as caught:
            world.receive(envelope, held, listening(**others))
        assert caught.value.reason == "unsolicited"
    with pytest.raises(VerificationError) as caught:
        world.receive(envelope, held, listening(), dead=True)  # dead letters may be expired, replies not
    assert caught.value.reason == "unsolicited"
    got = world.receive(envelope, held, listening())
    assert got.answers == ("DIRECTOR", Request("ask.when", world.now + MINUTE))
    assert not got.hearings


def test_who_may_not_hear_a_request_may_not_answer_it(world: World):
    guest, director = world.agent("GUEST"), world.agent("DIRECTOR")
    topic, ref = f"_reply.DIRECTOR.{director.session.hex()}", os.urandom(16)
    epoch = world.epoch(guest, "ask.when")
    envelope = world.send(guest, epoch, world.outgoing(guest, topic, [b"me"], flags=REPLY, ref=ref))[0]
    listening = Listening(
        (), {("DIRECTOR", ref): Request("ask.when", world.now + MINUTE)}, {"DIRECTOR": frozenset({director.session.hex()})}
    )
    with pytest.raises(VerificationError) as caught:
        world.receive(envelope, world.held(guest, epochs=[epoch]), listening)
    assert caught.value.reason == "not_permitted"


# ---- the insider ---------------------------------------------------------------------------------------------------------------

READDRESSED: dict[str, tuple[dict[str, Any], str]] = {
    "another topic": ({"topic": "tasks.deploy"}, "bad_proof"),
    "another sender": ({"sender": "DEPUTY"}, "wrong_epoch"),
    "a later number": ({"seq": 9}, "bad_proof"),
    "another time": ({"sent": None}, "bad_proof"),
    "a later end": ({"expires": None}, "bad_proof"),
    "another lane": ({"priority": 4}, "wrong_epoch"),
    "another id": ({"id": b"i" * 16}, "bad_proof"),
    "no gap": ({"before": 7}, "bad_proof"),
    "one record more": ({"records": 2}, "bad_proof"),
    "a request": ({"flags": REQUEST}, "bad_proof"),
    "a reply": ({"flags": REPLY, "ref": b"r" * 16}, "unsolicited"),
    "an answer to something": ({"ref": b"r" * 16}, "bad_proof"),
}


@pytest.mark.parametrize(("changes", "reason"), READDRESSED.values(), ids=READDRESSED.keys())
def test_a_reader_that_seals_it_again_under_another_header_is_refused(scene: Scene, changes: dict[str, Any], reason: str):
    header, proof, body = scene.insider.open(scene.send())
    if changes.get("sent", 0) is None:
        changes = {"sent": header[8] + 1}
    if changes.get("expires", 0) is None:
        changes = {"expires": header[9] - 1}
    assert scene.refused(scene.insider.seal(change(header, **changes), proof, body)) == reason


def test_a_reader_cannot_pass_it_on_as_sent_to_another_audience(scene: Scene):
    """Surreptitious forwarding: what was said to some is shown to others as if it had been said to them."""
    header, proof, body = scene.insider.open(scene.send(b"you are fired"))
    tester = scene.world.agent("TESTER")
    other = scene.world.epoch(scene.director, TOPIC, audience=b"a" * 32, sender="DIRECTOR")
    held = scene.world.held(scene.director, tester, epochs=[other])
    moved = Insider(other).seal(change(header, epoch=other.id), proof, body)
    with pytest.raises(VerificationError) as caught:
        scene.world.receive(moved, held, scene.listening)
    assert caught.value.reason == "bad_proof"


def test_a_reader_cannot_send_it_as_its_own(scene: Scene):
    tester = scene.world.agent("TESTER")
    own = scene.world.epoch(tester, "results.x")
    header, proof, body = scene.insider.open(scene.send())
    stolen = Insider(own).seal(
        change(header, epoch=own.id, sender="TESTER", session=tester.session, topic="results.x"), proof, body
    )
    with pytest.raises(VerificationError) as caught:
        scene.world.receive(stolen, scene.world.held(tester, epochs=[own]), scene.world.listening("DIRECTOR"))
    assert caught.value.reason == "untrusted"


def test_a_reader_cannot_change_what_was_said(scene: Scene):
    header, proof, body = scene.insider.open(scene.send(b"approve"))
    assert scene.refused(scene.insider.seal(header, proof, body.replace(b"approve", b"decline"))) == "bad_proof"


def test_proofs_cannot_be_swapped(scene: Scene):
    world = scene.world
    outgoing = [world.outgoing(scene.director, TOPIC, [payload]) for payload in (b"one", b"two", b"three")]
    opened = [scene.insider.open(one) for one in world.send(scene.director, scene.epoch, *outgoing)]
    for place, other in ((0, 1), (1, 0), (2, 1), (0, 2)):
        swapped = scene.insider.seal(opened[place][0], opened[other][1], opened[place][2])
        assert scene.refused(swapped) == "bad_proof"


def test_another_signers_batch_proves_nothing(scene: Scene):
    """The deputy, in earnest, signs the director's very content."""
    deputy = scene.world.agent("DEPUTY")
    scene.held.sessions[deputy.session] = deputy.believed
    header, proof, body = scene.insider.open(scene.send())
    packed = msgpack.packb(header)
    content = hashlib.sha256(
        b"tpmbus/1 envelope" + proof[7] + len(packed).to_bytes(4, "big") + packed + hashlib.sha256(body).digest()
    )
    theirs = seal.sign_by_host([content.digest()], [proof[7]], deputy.host)[0]
    assert scene.refused(scene.insider.seal(header, list(theirs), body)) == "untrusted"


def test_the_papers_of_another_session_do_not_help(scene: Scene):
    deputy = scene.world.agent("DEPUTY")
    scene.held.sessions[deputy.session] = deputy.believed
    outgoing = scene.world.outgoing(deputy, TOPIC)
    drafted = seal.draft(scene.epoch, outgoing, suite=seal.HOST_SUITE, random=os.urandom(seal.RANDOM_BYTES))
    forged = seal.seal(drafted, seal.sign_by_host([drafted.content], [drafted.blind], deputy.host)[0])
    assert scene.refused(forged) == "untrusted"


def test_a_forged_high_number_does_not_shut_the_sender_out(scene: Scene):
    header, proof, body = scene.insider.open(scene.send(b"real"))
    forged = scene.insider.seal(change(header, seq=2**32 - 1), proof, body)
    assert scene.refused(forged) == "bad_proof"
    assert scene.arrives(scene.insider.seal(header, proof, body)) == [b"real"], "the seal is nobody's proof: what was signed counts"
    assert scene.arrives(scene.send(b"next")) == [b"next"]


PROOFS: dict[str, tuple[dict[int, Any], str]] = {
    "no such suite": ({0: 2}, "bad_proof"),
    "the identity's suite over the host's signature": ({0: 19}, "untrusted"),
    "a weaker hash": ({0: 16}, "untrusted"),
    "the host suite by another signer": ({1: b"s" * 32}, "untrusted"),
    "another count": ({2: 2}, "bad_proof"),
    "a count of none": ({2: 0}, "bad_proof"),
    "an index beyond": ({3: 1}, "bad_proof"),
    "a path": ({4: b"p" * 32}, "bad_proof"),
    "half a path": ({4: b"p" * 16}, "bad_proof"),
    "garbage as signature": ({5: b"g" * 64}, "bad_proof"),
    "a signature of another length": ({5: b"g" * 63}, "malformed"),
    "another blind": ({7: b"b" * 16}, "bad_proof"),
    "no blind": ({7: b""}, "malformed"),
    "half a cosignature": ({6: b"c"}, "malformed"),
}


@pytest.mark.parametrize(("changes", "reason"), PROOFS.values(), ids=PROOFS.keys())
def test_algorithms_cannot_be_confused(scene: Scene, changes: dict[int, Any], reason: str):
    header, proof, body = scene.insider.open(scene.send())
    for place, value in changes.items():
        proof[place] = value
    assert scene.refused(scene.insider.seal(header, proof, body)) == reason


def test_a_cached_root_does_not_vouch_for_another_count_or_signature(scene: Scene):
    first = scene.send(b"first")
    header, proof, body = scene.insider.open(first)
    assert scene.arrives(first) == [b"first"]
    scene.held.windows = type(scene.held.windows)()  # so that only the proof stands in the way
    for place, value in ((5, bytes(64)), (2, 2), (5, proof[5][:-1] + bytes([proof[5][-1] ^ 1]))):
        forged = [*proof]
        forged[place] = value
        assert scene.refused(scene.insider.seal(header, forged, body)) == "bad_proof"
    assert scene.held.verifier.signatures.hits == 0
    assert scene.arrives(scene.insider.seal(header, proof, body)) == [b"first"]
    assert scene.held.verifier.signatures.hits == 1


def test_an_rsa_identity_signs_with_pss_alone(world: World):
    scene = Scene(world, "control.stop")
    identity = scene.director.identity
    outgoing = world.outgoing(scene.director, "control.stop")
    for scheme in (
        padding.PKCS1v15(),
        padding.PSS(padding.MGF1(CRYPTOGRAPHY_HASHES["sha3-384"]), 32),
        padding.PSS(padding.MGF1(CRYPTOGRAPHY_HASHES["sha256"]), 48),
    ):
        drafted = seal.draft(scene.epoch, outgoing, suite=identity.suite, random=os.urandom(seal.RANDOM_BYTES))
        honest = identity.prove(1, [drafted.content], [drafted.blind])[0]
        tbs = honest.tbs(1, drafted.content)
        signature = identity.key.sign(identity.suite.digest(tbs), scheme, Prehashed(CRYPTOGRAPHY_HASHES["sha3-384"]))
        assert scene.refused(seal.seal(drafted, honest._replace(signature=signature))) == "bad_proof"
    assert scene.arrives(scene.send()) == [b"hello"]


def test_a_session_key_does_not_do_where_policy_demands_the_identity(world: World):
    scene = Scene(world, "control.stop")
    outgoing = world.outgoing(scene.director, "control.stop")
    data = seal.seal_turn([scene.epoch], [outgoing], scene.director.host, random=os.urandom(seal.RANDOM_BYTES))[0]
    assert scene.refused(data) == "wrong_signer"
    session_epoch = world.epoch(scene.director, "control.stop", signed_by=0)
    scene.held.keep(session_epoch.opened)
    data = world.send(scene.director, session_epoch, outgoing)[0]
    assert scene.refused(data) == "wrong_epoch"


def test_siblings_in_a_batch_tell_a_reader_nothing_that_it_could_test(world: World):
    """A reader of one topic gets a leaf of another, and the broker knows its header: without a blind, words could be tried."""
    scene = Scene(world)
    secret_epoch = world.epoch(scene.director, "secret.vote")
    random_bytes = os.urandom(2 * seal.RANDOM_BYTES)
    outgoing = [world.outgoing(scene.director, TOPIC), world.outgoing(scene.director, "secret.vote", [b"yes"])]
    mine, theirs = seal.seal_turn([scene.epoch, secret_epoch], outgoing, scene.director.host, random=random_bytes)
    _, proof, _ = scene.insider.open(mine)
    sibling, header = proof[4], msgpack.unpackb(theirs)[0]
    body = msgpack.packb([b"\x00", [b"yes"], []])

    def leaf(blind: bytes) -> bytes:
        inner = hashlib.sha256(
            b"tpmbus/1 envelope" + blind + len(header).to_bytes(4, "big") + header + hashlib.sha256(body).digest()
        )
        return hashlib.sha256(b"\x00tpmbus/1 leaf\x01" + inner.digest()).digest()

    assert leaf(b"") != sibling
    assert leaf(bytes(16)) != sibling
    blind = random_bytes[seal.RANDOM_BYTES + 16 : seal.RANDOM_BYTES + 32]
    assert leaf(blind) == sibling, "the test guesses right but for the blind"


# ---- durable -------------------------------------------------------------------------------------------------------------------


def durable(world: World, ledger: Ledger) -> tuple[Scene, Subscription]:
    scene = Scene(world, "work.build", ends_ms=world.now + 24 * HOUR)
    subscription = Subscription("BUILDER", "work.>", world.now, ledger)
    scene.listening = Listening((subscription,))
    return scene, subscription


def test_redelivery_of_what_is_unfinished_is_no_attack(world: World):
    ledger = Ledger()
    scene, _ = durable(world, ledger)
    envelope = scene.send(b"one", b"two", b"three")
    for _ in range(3):
        got = world.receive(envelope, scene.held, scene.listening)
        assert got.hearings[0].indexes is None
    header = got.header
    ledger.finish(header.epoch, header.seq, [1], records=3, expires_ms=header.expires_ms)
    got = world.receive(envelope, scene.held, scene.listening)
    assert (got.hearings[0].indexes, got.hearings[0].redelivered) == ((0, 2), True)


def test_what_is_finished_is_acknowledged_again_and_never_handed_over_not_even_after_a_restart(world: World):
    ledger = Ledger()
    scene, subscription = durable(world, ledger)
    envelope = scene.send()
    header = world.receive(envelope, scene.held, scene.listening).header
    ledger.finish(header.epoch, header.seq, [0], records=1, expires_ms=header.expires_ms)
    ledger.written(ledger.changes())
    got = world.receive(envelope, scene.held, scene.listening)
    assert (got.hearings, got.done, got.records) == ([], [subscription], None)

    again = Subscription("BUILDER", "work.>", world.now + 1, Ledger.load(ledger.rows()))
    got = world.receive(envelope, world.held(scene.director, epochs=[scene.epoch]), Listening((again,)))
    assert (got.hearings, got.done) == ([], [again])


def test_a_dead_letter_is_judged_as_the_original_but_for_its_end(world: World):
    scene, _ = durable(world, Ledger())
    envelope = scene.send(sent_ms=world.now, expires_ms=world.now + 1_000)
    world.now += HOUR - 5 * MINUTE
    dead = Subscription("MONITOR", "work.>", 0, Ledger(), dead=True)
    scene.listening = Listening((dead, Subscription("BUILDER", "work.>", 0, Ledger())))
    assert scene.refused(envelope) == "expired"
    got = world.receive(envelope, scene.held, scene.listening, dead=True)
    assert [hearing.subscription for hearing in got.hearings] == [dead]
    assert got.until_ms == got.header.sent_ms + 24 * HOUR, "so long must a ledger remember what is finished"
    scene.listening = Listening((replace(dead, agent="TESTER"),))
    assert scene.refused(envelope, dead=True) == "not_permitted"
    header, proof, body = scene.insider.open(envelope)
    scene.listening = Listening((replace(dead, ledger=Ledger()),))
    assert scene.refused(scene.insider.seal(header, proof, body + b"\x00"), dead=True) == "bad_proof"


# ---- epochs --------------------------------------------------------------------------------------------------------------------

EPOCHS: dict[str, dict[str, Any]] = {
    "another domain": {"domain": "elsewhere.test"},
    "another sender": {"sender": "DEPUTY"},
    "a durable one on a live topic": {"class_": 1},
    "a lane that the rule does not allow": {"priority": 1},
    "not made yet": {"made_ms": 2**50},
    "ended": {"ends_ms": 1},
}


@pytest.mark.parametrize("changes", EPOCHS.values(), ids=EPOCHS.keys())
def test_an_epoch_serves_what_it_was_made_for(world: World, changes: dict[str, Any]):
    scene = Scene(world, **changes)
    data = scene.send()
    if "sender" in changes:
        header, proof, body = scene.insider.open(data)
        data = scene.insider.seal(change(header, sender="DIRECTOR"), proof, body)
    assert scene.refused(data) == "wrong_epoch"


def test_a_live_epoch_is_at_least_as_strong_as_the_rule(world: World):
    scene = Scene(world, "secret.plans", kem=1, aead=1)
    assert scene.refused(scene.send()) == "wrong_epoch"
    hybrid = Scene(world, "secret.plans", aead=2)
    assert hybrid.arrives(hybrid.send()) == [b"hello"]


def test_one_ciphertext_cannot_mean_two_things(world: World):
    """GCM does not commit to its key. The id of an epoch does, and who opens looks."""
    scene = Scene(world)
    with pytest.raises(VerificationError) as caught:
        OpenedEpoch.from_grant(os.urandom(32), scene.epoch.params_bytes, id=scene.epoch.id)
    assert caught.value.reason == "wrong_epoch"


def test_a_dead_letter_is_not_accepted_for_ever(world: World):
    """Its own end is waived, and a ledger cannot remember for ever what it finished: its rule has an end."""
    scene, _ = durable(world, Ledger())
    envelope = scene.send(sent_ms=world.now, expires_ms=world.now + 1_000)
    sent, scene.listening = world.now, Listening((Subscription("MONITOR", "work.>", 0, Ledger(), dead=True),))
    world.now = sent + 24 * HOUR
    world.trust()
    assert scene.arrives(envelope, dead=True) == [b"hello"]
    world.now += 1
    assert scene.refused(envelope, dead=True) == "expired"


def test_durable_epochs_have_room_of_their_own(world: World):
    """They are kept for weeks, and each restart of a sender makes others: that must not shut it out."""
    director = world.agent("DIRECTOR")
    held = world.held(director)
    for _ in range(1_024):
        held.keep(world.epoch(director, "work.build").opened)
    with pytest.raises(VerificationError) as caught:
        held.keep(world.epoch(director, "work.build").opened)
    assert caught.value.reason == "too_many_epochs"
    held.keep(world.epoch(director, TOPIC).opened)
    held.forget(passed_ms=world.now + HOUR, longest_ms=0)
    assert not held.epochs
    held.keep(world.epoch(director, "work.build").opened)


def test_a_sender_that_opens_epochs_without_end_is_bounded(world: World):
    director = world.agent("DIRECTOR")
    held = world.held(director)
    for _ in range(64):
        held.keep(world.epoch(director, TOPIC).opened)
    with pytest.raises(VerificationError) as caught:
        held.keep(world.epoch(director, TOPIC).opened)
    assert caught.value.reason == "too_many_epochs"
    assert len(held.epochs) == 64
    held.keep(world.epoch(world.agent("DEPUTY"), TOPIC).opened)
    held.forget(passed_ms=world.now + HOUR, longest_ms=MINUTE)
    assert not held.epochs


def test_live_epochs_go_when_they_have_ended_whatever_is_kept_of_durable_ones(world: World):
    """One every ten minutes, beside a topic that is kept for a month: never more than a few, and their keys are gone."""
    director = world.agent("DIRECTOR")
    lasting = world.epoch(director, "work.build").opened
    held = world.held(director)
    held.keep(lasting)
    for _ in range(100):
        world.now += 10 * MINUTE
        held.keep(world.epoch(director, TOPIC).opened)
        held.forget(passed_ms=world.now, longest_ms=30 * DAY, live_ms=MINUTE)
        assert len(held.epochs) <= 3
    assert held.epochs[lasting.id] is lasting
    held.forget(passed_ms=world.now + 31 * DAY, longest_ms=30 * DAY, live_ms=MINUTE)
    assert not held.epochs


# ---- who is believed -----------------------------------------------------------------------------------------------------------


def test_a_sender_that_policy_does_not_let_publish_is_refused(world: World):
    tester = world.agent("TESTER")
    epoch, envelope = world.say(tester, TOPIC)
    with pytest.raises(VerificationError) as caught:
        world.receive(envelope, world.held(tester, epochs=[epoch]), world.listening("BUILDER"))
    assert caught.value.reason == "not_permitted"


def test_policy_is_mine_and_the_newest(scene: Scene):
    scene.world.trust(policy=load({"p.yaml": b"version: 1\ndomain: tpmbus.test\n"}))
    assert scene.refused(scene.send()) == "not_permitted"


def test_a_key_of_lesser_origin_than_the_role_demands_is_refused(world: World):
    scene = Scene(world)
    soft = world.agent("DIRECTOR", identity=world.identity("DIRECTOR", origin="software"))
    scene.held.sessions[soft.session] = soft.believed
    scene.director = soft
    assert scene.refused(scene.send()) == "wrong_signer"


def test_a_critical_topic_takes_no_weaker_suite_than_sha3(world: World):
    weak = world.agent("DIRECTOR", identity=world.identity("DIRECTOR", suite="rsa3072/sha256"))
    epoch = world.epoch(weak, "control.stop")
    envelope = world.send(weak, epoch, world.outgoing(weak, "control.stop"))[0]
    with pytest.raises(VerificationError) as caught:
        world.receive(envelope, world.held(weak, epochs=[epoch]), world.listening("BUILDER"))
    assert caught.value.reason == "wrong_signer"
