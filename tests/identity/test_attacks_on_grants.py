"""Who gets the key of an epoch, and what a grant can and cannot do: each attempt with its code."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import msgpack
import pytest
from keyrings import session_of
from small_world import DAY, HOUR, MINUTE, Agent, World

from bus.errors import BusError, LocalProtocolError, VerificationError
from bus.identity.envelopes.believe import BelievedInbox, believe_inbox
from bus.identity.envelopes.granting import Granted, OwnKey, Reader, inbox_key, open_grant, session_key
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import Listening
from bus.identity.envelopes.receive import Parked
from bus.identity.epochs.admitting import Admitting, Arrived, Moment
from bus.identity.epochs.own_keys import OwnKeys
from bus.identity.host.host_keys import HostKeys
from bus.protocol import grants
from bus.protocol import papers as paper
from bus.protocol.audience import Members, digest
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import SealingEpoch
from bus.protocol.kem import HYBRID, X25519, PrivateKey, PublicKey
from bus.protocol.papers import InboxBody, InboxCertificate
from bus.trust.revocations import Reason, Revocation

TOPIC = "tasks.build"


class Scene:
    """DIRECTOR grants to BUILDER."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.director, self.builder = world.agent("DIRECTOR"), world.agent("BUILDER")
        self.epoch = world.epoch(self.director, TOPIC)
        self.held = world.held(self.director)

    def reader(self, agent: Agent | None = None, **changes: Any) -> Reader:
        agent = agent or self.builder
        return Reader(agent.name, PublicKey(agent.host.kem, agent.host.kem_key), agent.session)._replace(**changes)

    def grant(self, *readers: Reader, epoch: SealingEpoch | None = None, by: Agent | None = None, **changes: Any) -> bytes:
        return self.world.grant(by or self.director, epoch or self.epoch, *(readers or (self.reader(),)), **changes)[0]

    def opens(self, data: bytes, agent: Agent | None = None, keys: Any = None) -> Granted | Parked:
        keys = (agent or self.builder).own_key if keys is None else keys
        return open_grant(data, self.held, keys=keys, snapshot=self.world.snapshot, now_ms=self.world.now)

    def refused(self, data: bytes, agent: Agent | None = None, keys: Any = None) -> str:
        with pytest.raises(BusError) as caught:
            self.opens(data, agent, keys)
        assert not self.held.epochs, "what is refused brings nothing"
        reason = caught.value.reason
        assert isinstance(reason, str)
        return reason


@pytest.fixture
def scene(world: World) -> Scene:
    return Scene(world)


def seal_grant(scene: Scene, header: list[Any], body: list[Any], *, by: Agent, key: PublicKey) -> bytes:
    """A grant of any fields, signed in earnest by this agent's host."""
    from bus.identity.envelopes.seal import sign_by_host
    from bus.protocol import envelope as envelopes

    packed, inner, blind = msgpack.packb(header), msgpack.packb(body), os.urandom(16)
    proof = sign_by_host([envelopes.content(packed, inner, blind=blind, hash_name="sha256")], [blind], by.host)[0]
    return msgpack.packb([packed, key.seal(msgpack.packb([list(proof), inner]), grants.info(packed))])


def fields(scene: Scene, **changes: Any) -> list[Any]:
    """Of a grant's header, as it should be but for the changes."""
    found = {
        "version": 1,
        "kind": 2,
        "flags": 0,
        "topic": "_grant.BUILDER",
        "sender": "DIRECTOR",
        "session": scene.director.session,
        "epoch": scene.epoch.id,
        "seq": 0,
        "sent": scene.world.now,
        "expires": scene.epoch.params.ends_ms,
        "priority": 0,
        "records": 1,
        "id": os.urandom(16),
        "ref": scene.builder.host.kem_key_id,
        "before": 0,
    }
    return list((found | changes).values())


def body_of(scene: Scene, **changes: Any) -> list[Any]:
    found = {
        "secret": scene.epoch.secret,
        "params": scene.epoch.params_bytes,
        "reader": "BUILDER",
        "session": scene.builder.session,
        "names": b"",
    }
    return list((found | changes).values())


# ---- its size ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sender", "size", "code"),
    [
        ("DIRECTOR", grants.MAX_GRANT_BYTES, "bad_seal"),
        ("DIRECTOR", grants.MAX_GRANT_BYTES + 1, "malformed"),
        ("DIRECTOR", 1 << 20, "malformed"),
        ("BUILDER", 1 << 20, "bad_seal"),  # one to oneself carries names
    ],
)
def test_a_large_grant_that_needs_no_names_is_refused_before_it_is_opened(scene: Scene, sender: str, size: int, code: str):
    header = msgpack.packb(fields(scene, sender=sender))
    small = len(msgpack.packb([header, bytes(1 << 16)])) - (1 << 16)
    data = msgpack.packb([header, bytes(size - small + (2 if size <= 1 << 16 else 0))])
    assert len(data) == size
    assert scene.refused(data) == code


def test_a_large_grant_is_not_kept_either(scene: Scene):
    """Behind another that waits for the same papers."""
    moment = Moment(scene.world.snapshot, Listening(()), scene.world.now, 0)
    keys = OwnKeys()
    keys.renewed({"BUILDER": session_of(scene.builder, scene.world)})
    admitting = Admitting(Held(scene.held.verifier), keys, lambda _: None)
    assert admitting.arrive(Arrived(scene.grant(), 1, is_grant=True), moment) == []
    large = msgpack.packb([msgpack.packb(fields(scene)), bytes(1 << 19)])
    (outcome,) = admitting.arrive(Arrived(large, 2, is_grant=True), moment)
    assert (outcome.ticket, getattr(outcome.result, "reason", None)) == (2, "malformed")
    assert admitting.parking.parked == 1


# ---- what a grant brings -------------------------------------------------------------------------------------------------------


def test_a_grant_brings_the_epoch_and_a_second_one_changes_nothing(scene: Scene):
    granted = scene.opens(scene.grant())
    assert isinstance(granted, Granted)
    assert (granted.reader, granted.epoch.id) == ("BUILDER", scene.epoch.id)
    assert granted.epoch.params == scene.epoch.params
    again = scene.opens(scene.grant())
    assert isinstance(again, Granted)
    assert again.epoch is granted.epoch
    envelope = scene.world.send(scene.director, scene.epoch, scene.world.outgoing(scene.director, TOPIC))[0]
    assert scene.world.receive(envelope, scene.held, scene.world.listening("BUILDER")).records.payloads == [b"hello"]


def test_what_was_granted_opens_and_cannot_seal(scene: Scene):
    granted = scene.opens(scene.grant())
    assert isinstance(granted, Granted)
    assert not hasattr(granted.epoch, "seal")
    assert scene.epoch.secret.hex() not in repr(granted)


def test_a_grant_waits_for_the_granters_papers(scene: Scene):
    scene.held.sessions.clear()
    got = scene.opens(scene.grant())
    assert isinstance(got, Parked)
    assert got.reason == "missing_papers"
    assert not scene.held.epochs


def test_a_hybrid_key_opens_too(world: World):
    scene = Scene(world)
    monitor = world.agent("MONITOR")
    assert monitor.host.kem == HYBRID
    assert isinstance(scene.opens(scene.grant(scene.reader(monitor)), monitor), Granted)


def test_a_grant_to_somebody_else_is_refused(scene: Scene):
    tester = scene.world.agent("TESTER")
    assert scene.refused(scene.grant(scene.reader(tester))) == "unsolicited"
    other_key = {("BUILDER", scene.builder.host.kem_key_id): OwnKey("BUILDER", tester.host, frozenset({scene.builder.session}))}
    assert scene.refused(scene.grant(), keys=other_key) == "bad_seal"


def test_every_flip_of_a_grant_is_refused(scene: Scene):
    data = scene.grant()
    passed = []
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        try:
            got = scene.opens(bytes(flipped))
        except BusError:
            continue
        passed.append((place, got))
    assert not passed
    assert not scene.held.epochs


WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "another secret under the id": ({}, {"secret": b"s" * 32}, "wrong_epoch"),
    "another id for the secret": ({"epoch": b"e" * 32}, {}, "wrong_epoch"),
    "a secret of 31 bytes": ({}, {"secret": b"s" * 31}, "malformed"),
    "parameters that are none": ({}, {"params": b"\x90"}, "malformed"),
    "another reader than the topic's": ({}, {"reader": "TESTER"}, "malformed"),
    "no reader": ({}, {"reader": ""}, "malformed"),
    "a session of somebody else": ({}, {"session": b"s" * 16}, "wrong_epoch"),
    "no session, to a session's key": ({}, {"session": b""}, "malformed"),
    "names out of order": ({}, {"names": msgpack.packb([["B", 0], ["A", 0]])}, "malformed"),
    "a name twice": ({}, {"names": msgpack.packb([["A", 0], ["A", 1]])}, "malformed"),
    "a small name": ({}, {"names": msgpack.packb([["a", 0]])}, "malformed"),
    "a name without a generation": ({}, {"names": msgpack.packb([["A"]])}, "malformed"),
    "a generation below zero": ({}, {"names": msgpack.packb([["A", -1]])}, "malformed"),
    "names that are empty, spelled out": ({}, {"names": b"\x90"}, "malformed"),
    "names and something behind": ({}, {"names": msgpack.packb([["A", 0]]) + b"\x00"}, "malformed"),
    "names cut short": ({}, {"names": msgpack.packb([["A", 0], ["B", 0]])[:-1]}, "malformed"),
    "names as a list": ({}, {"names": [["A", 0]]}, "malformed"),
    "a thousand lists in each other": ({}, {"names": b"\xdc\x40\x00" * 1_000}, "malformed"),
    "a number": ({"seq": 1}, {}, "malformed"),
    "a priority": ({"priority": 1}, {}, "malformed"),
    "two records": ({"records": 2}, {}, "malformed"),
    "a flag": ({"flags": 1}, {}, "malformed"),
    "no key": ({"ref": b""}, {}, "malformed"),
    "a gap": ({"before": 1}, {}, "malformed"),
    "a topic of policy": ({"topic": "tasks.build"}, {}, "malformed"),
    "kind data": ({"kind": 1}, {}, "malformed"),
    "the future": ({"sent": 2**60, "expires": 2**60}, {}, "from_future"),
    "the past": ({"expires": 1}, {}, "expired"),
}


@pytest.mark.parametrize(("header", "body", "reason"), WRONG.values(), ids=WRONG.keys())
def test_a_grant_is_whole_or_nothing(scene: Scene, header: dict[str, Any], body: dict[str, Any], reason: str):
    key = PublicKey(scene.builder.host.kem, scene.builder.host.kem_key)
    data = seal_grant(scene, fields(scene, **header), body_of(scene, **body), by=scene.director, key=key)
    assert scene.refused(data) == reason


def test_the_fields_of_the_table_above_pass_where_they_are_right(scene: Scene):
    key = PublicKey(scene.builder.host.kem, scene.builder.host.kem_key)
    assert isinstance(scene.opens(seal_grant(scene, fields(scene), body_of(scene), by=scene.director, key=key)), Granted)


def test_nobody_grants_an_epoch_of_another_sender(world: World):
    """A reader has the secret; what it passes on in its own name is not believed, and it cannot sign in the sender's."""
    scene = Scene(world)
    tester = world.agent("TESTER")
    scene.held.sessions[tester.session] = tester.believed
    key = PublicKey(scene.builder.host.kem, scene.builder.host.kem_key)
    own_name = seal_grant(scene, fields(scene, sender="TESTER", session=tester.session), body_of(scene), by=tester, key=key)
    assert scene.refused(own_name) == "wrong_epoch"
    sender_name = seal_grant(scene, fields(scene), body_of(scene), by=tester, key=key)
    assert scene.refused(sender_name) == "untrusted"
    own_session = seal_grant(scene, fields(scene, session=tester.session), body_of(scene), by=tester, key=key)
    assert scene.refused(own_session) == "untrusted"


def test_an_epoch_of_another_domain_is_refused(world: World):
    scene = Scene(world)
    scene.epoch = world.epoch(scene.director, TOPIC, domain="elsewhere.test")
    assert scene.refused(scene.grant()) == "wrong_epoch"


def test_a_grant_signed_by_the_identity_is_none(scene: Scene):
    from bus.protocol import envelope as envelopes

    header, inner, blind = msgpack.packb(fields(scene)), msgpack.packb(body_of(scene)), os.urandom(16)
    identity = scene.director.identity
    content = envelopes.content(header, inner, blind=blind, hash_name=identity.suite.hash)
    proof = identity.prove(Purpose.ENVELOPE, [content], [blind])[0]
    key = PublicKey(scene.builder.host.kem, scene.builder.host.kem_key)
    data = msgpack.packb([header, key.seal(msgpack.packb([list(proof), inner]), grants.info(header))])
    assert scene.refused(data) == "wrong_signer"


def test_a_grant_cannot_be_moved_under_another_header(scene: Scene):
    header, sealed = msgpack.unpackb(scene.grant())
    changed = msgpack.unpackb(header)
    changed[12] = b"i" * 16
    assert scene.refused(msgpack.packb([msgpack.packb(changed), sealed])) == "bad_seal"


def test_a_live_epoch_never_comes_to_a_key_on_disk(world: World):
    scene = Scene(world)
    inbox = PrivateKey.from_bytes(X25519, os.urandom(32))
    keys = {("BUILDER", inbox.id): OwnKey("BUILDER", inbox, frozenset())}
    data = scene.grant(Reader("BUILDER", PublicKey(X25519, inbox.public), b""))
    assert scene.refused(data, keys=keys) == "wrong_epoch"
    durable = world.epoch(scene.director, "work.build")
    granted = scene.opens(scene.grant(Reader("BUILDER", PublicKey(X25519, inbox.public), b""), epoch=durable), keys=keys)
    assert isinstance(granted, Granted)


def test_a_grant_to_oneself_tells_a_later_session_who_was_meant(world: World):
    scene = Scene(world)
    durable, members = world.epoch(scene.director, "work.build"), world.snapshot.audience("work.build")
    inbox = PrivateKey.from_bytes(X25519, os.urandom(32))
    data = scene.grant(Reader("DIRECTOR", PublicKey(X25519, inbox.public), b"", members), epoch=durable)
    granted = scene.opens(data, keys={("DIRECTOR", inbox.id): OwnKey("DIRECTOR", inbox, frozenset())})
    assert isinstance(granted, Granted)
    assert granted.names == members
    assert digest(granted.names) == durable.params.audience
    assert granted.secret == durable.secret


# ---- whom the sealer seals to ----------------------------------------------------------------------------------------------------


def members(world: World, topic: str = TOPIC) -> Members:
    return world.snapshot.audience(topic)


def left_out(world: World, agent: Agent, topic: str = TOPIC, **changes: Any) -> str:
    """The code with which a sealer leaves a reader out."""
    params = world.epoch(world.agent("DIRECTOR"), topic).params
    facts = {"snapshot": world.snapshot, "now_ms": world.now}
    with pytest.raises(VerificationError) as caught:
        session_key(agent.believed, params, changes.pop("members", members(world, topic)), **(facts | changes))
    assert caught.value.agent == agent.name
    return caught.value.reason


def test_an_entitled_reader_gets_it(world: World):
    builder = world.agent("BUILDER")
    params = world.epoch(world.agent("DIRECTOR"), TOPIC).params
    key = session_key(builder.believed, params, members(world), snapshot=world.snapshot, now_ms=world.now)
    assert key.id == builder.host.kem_key_id


def test_the_broker_cannot_add_a_reader(world: World):
    outsider = world.agent("GUEST", identity=world.identity("GUEST", origin="software"))
    assert left_out(world, outsider, "secret.plans") == "not_permitted"


def test_a_reader_whose_key_is_too_weak_is_left_out_and_gets_nothing_weaker(world: World):
    assert left_out(world, world.agent("BUILDER"), "secret.plans") == "kem_too_weak"
    assert world.agent("MONITOR").host.kem == HYBRID


def test_a_revoked_reader_is_left_out(world: World):
    builder = world.agent("BUILDER")
    before = members(world)
    serial = builder.identity.certificate.serial
    world.trust(revoked={serial: Revocation(world.now, Reason.COMPROMISED)}, agents={"BUILDER": (1, 0)})
    assert left_out(world, builder, members=before) == "not_permitted", "its generation rose: it is another member"
    assert left_out(world, builder) == "revoked"


def test_a_name_that_was_enrolled_again_makes_another_epoch_and_the_thief_of_the_old_key_gets_nothing(world: World):
    thief = world.agent("BUILDER")
    old_epoch = world.epoch(world.agent("DIRECTOR"), TOPIC)
    serial = thief.identity.certificate.serial
    world.trust(revoked={serial: Revocation(world.now, Reason.COMPROMISED)}, agents={"BUILDER": (1, 0)})
    again = world.agent("BUILDER", identity=world.identity("BUILDER", number=1))
    new_epoch = world.epoch(world.agent("DIRECTOR"), TOPIC)
    assert new_epoch.params.audience != old_epoch.params.audience
    assert left_out(world, thief) == "revoked"
    session_key(again.believed, new_epoch.params, members(world), snapshot=world.snapshot, now_ms=world.now)


def test_sessions_can_be_ended_without_the_identity(world: World):
    builder = world.agent("BUILDER")
    world.trust(agents={"BUILDER": (0, world.now + 1)})
    assert left_out(world, builder) == "revoked"


@pytest.mark.parametrize("begins", [-15 * MINUTE - 1, MINUTE + 1])
def test_a_session_that_is_not_valid_now_is_left_out(world: World, begins: int):
    begins_ms = world.now
    builder = world.agent("BUILDER", not_before_ms=begins_ms, not_after_ms=begins_ms + 15 * MINUTE)
    if begins < 0:
        assert left_out(world, builder, now_ms=begins_ms - begins) == "untrusted"
    else:
        later = world.agent("BUILDER", not_before_ms=begins_ms + begins, not_after_ms=begins_ms + begins + MINUTE)
        assert left_out(world, later) == "untrusted"


def test_a_clock_that_is_slow_does_not_seal_to_a_key_that_was_replaced_since(world: World):
    """My own clock may be slow; the trust statement says that it is later than that."""
    builder, date = world.agent("BUILDER"), world.now + 10_000
    world.now += 20_000
    world.trust(revoked={builder.identity.certificate.serial: Revocation(date, Reason.ROTATED)})
    assert left_out(world, builder, now_ms=date - 15_000) == "revoked"


def test_sessions_that_were_dated_ahead_end_with_all_others(world: World):
    """Somebody used the identity key for a moment, and took sessions along that begin later."""
    ahead = world.agent("BUILDER", not_before_ms=world.now + 50 * MINUTE, not_after_ms=world.now + 60 * MINUTE)
    world.now += MINUTE
    world.trust(agents={"BUILDER": (0, world.now)})
    world.now += 50 * MINUTE
    assert left_out(world, ahead) == "revoked"
    fresh = world.agent("BUILDER")
    params = world.epoch(world.agent("DIRECTOR"), TOPIC).params
    session_key(fresh.believed, params, members(world), snapshot=world.snapshot, now_ms=world.now)


def test_past_the_end_of_its_trust_a_sealer_seals_to_nobody(world: World):
    builder = world.agent("BUILDER")
    params, facts = world.epoch(world.agent("DIRECTOR"), TOPIC).params, {"snapshot": world.snapshot, "now_ms": world.now + HOUR + 1}
    with pytest.raises(VerificationError) as caught:
        session_key(builder.believed, params, members(world), **facts)
    assert caught.value.reason == "trust_stale"


# ---- inbox keys ------------------------------------------------------------------------------------------------------------------


def inbox(world: World, **changes: Any) -> BelievedInbox:
    identity = world.identity("BUILDER")
    facts = {
        "domain": world.authority.domain,
        "name": "BUILDER",
        "identity": identity.certificate.signer,
        "counter": 3,
        "kem": X25519,
        "kem_key": HostKeys.make(X25519, os.urandom).kem_key,
        "not_before_ms": world.now,
        "not_after_ms": world.now + 30 * DAY,
    }
    purpose = changes.pop("purpose", Purpose.INBOX)
    body, blind = InboxBody(**(facts | changes)).encode(), os.urandom(16)
    content = paper.content(purpose, body, blind=blind, suite=identity.suite)
    proof = identity.prove(purpose, [content], [blind])[0]
    data = InboxCertificate(body, proof).encode()
    return believe_inbox(data, identity.certificate.der, world.verifier, now_ms=world.now)


def inbox_left_out(world: World, believed: BelievedInbox, topic: str = "work.build", *, highest: int = 0, later: int = 0) -> str:
    params = world.epoch(world.agent("DIRECTOR"), topic).params
    with pytest.raises(VerificationError) as caught:
        inbox_key(believed, params, members(world, topic), highest=highest, snapshot=world.snapshot, now_ms=world.now + later)
    return caught.value.reason


def test_a_durable_reader_gets_it_by_its_inbox_key(world: World):
    params = world.epoch(world.agent("DIRECTOR"), "work.build").params
    found = inbox(world)
    key = inbox_key(found, params, members(world, "work.build"), highest=3, snapshot=world.snapshot, now_ms=world.now)
    assert key.id == found.inbox.body.key_id


def test_the_broker_cannot_bring_an_old_inbox_key(world: World):
    assert inbox_left_out(world, inbox(world), highest=4) == "inbox_rollback"


def test_a_live_epoch_is_not_sealed_to_an_inbox_key(world: World):
    assert inbox_left_out(world, inbox(world), TOPIC) == "not_permitted"


def test_an_inbox_key_that_is_over_or_not_begun_is_left_out(world: World):
    found = inbox(world, not_before_ms=world.now + 2 * MINUTE)
    assert inbox_left_out(world, found) == "untrusted"
    assert inbox_left_out(world, inbox(world, not_after_ms=world.now + MINUTE), later=MINUTE + 1) == "untrusted"


def test_an_inbox_certificate_of_another_agent_or_domain_or_purpose_is_not_believed(world: World):
    wrong = [({"name": "TESTER"}, "untrusted"), ({"domain": "elsewhere.test"}, "untrusted"), ({"identity": bytes(32)}, "untrusted")]
    for changes, reason in [*wrong, ({"purpose": Purpose.SESSION}, "bad_proof")]:
        with pytest.raises(VerificationError) as caught:
            inbox(world, **changes)
        assert caught.value.reason == reason


# ---- epochs that can seal --------------------------------------------------------------------------------------------------------


def test_an_epoch_that_can_seal_is_neither_copied_nor_pickled(scene: Scene):
    import copy
    import pickle

    for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            attempt(scene.epoch)


def test_a_forked_child_can_seal_nothing(tmp_path: Any):
    """Both would count on from the same number under the same key."""
    program = tmp_path / "forks.py"
    program.write_text(
        """
import os, sys
from bus.errors import LocalProtocolError
from bus.identity.host.forks import retired_in_a_child
from bus.protocol.epochs import Params, SealingEpoch

epoch = SealingEpoch.make(os.urandom(32), Params("d.test", "A", bytes(32), 0, 3, 0, 1, 1, 0, 1))
retired_in_a_child(epoch)
child = os.fork()
if child == 0:
    try:
        epoch.take()
    except LocalProtocolError:
        os._exit(0)
    os._exit(1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
seq = epoch.take()
epoch.seal(b"x", seq=seq, header=b"h", guard=bytes(4))
"""
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr


def test_a_number_seals_once(scene: Scene):
    seq = scene.epoch.take()
    scene.epoch.seal(b"one", seq=seq, header=b"h", guard=bytes(4))
    burned = scene.epoch.take()
    scene.epoch.burn(burned)
    for number in (seq, burned, scene.epoch.next_seq):
        with pytest.raises(LocalProtocolError):
            scene.epoch.seal(b"two", seq=number, header=b"h", guard=bytes(4))
