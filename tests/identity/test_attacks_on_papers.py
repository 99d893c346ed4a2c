"""Who is believed: papers that hold together, and sessions that are judged by what is trusted now."""

from __future__ import annotations

import os
from typing import Any

import pytest
from small_world import DAY, HOUR, MINUTE, Insider, World

from bus.errors import BusError, VerificationError
from bus.identity.envelopes.believe import believe
from bus.identity.envelopes.receive import receive
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.host.host_keys import HostKeys
from bus.protocol import kem
from bus.protocol.contexts import Purpose
from bus.protocol.papers import Papers, SessionCertificate
from bus.trust.certificates import Profile
from bus.trust.revocations import Reason, Revocation

TOPIC = "tasks.build"


def host() -> HostKeys:
    return HostKeys.make(kem.X25519, os.urandom)


def refused(world: World, papers: bytes) -> str:
    with pytest.raises(BusError) as caught:
        believe(papers, world.verifier, now_ms=world.now)
    reason = caught.value.reason
    assert isinstance(reason, str)
    return reason


def test_papers_that_hold_together_are_believed(world: World):
    identity, keys = world.identity("DIRECTOR"), host()
    believed = believe(world.papers(identity, keys), world.verifier, now_ms=world.now)
    assert (believed.name, believed.host_key, believed.host_signer) == ("DIRECTOR", keys.public, keys.signer)
    assert believed.identity.suite.name == "rsa3072/sha3-384"


SESSIONS: dict[str, tuple[dict[str, Any], str]] = {
    "of another agent": ({"name": "DEPUTY"}, "untrusted"),
    "of another domain": ({"domain": "elsewhere.test"}, "untrusted"),
    "of another identity": ({"identity": bytes(32)}, "untrusted"),
    "under another statement": ({"trust_digest": bytes(32)}, "untrusted"),
    "under another statement's number": ({"trust_number": 99}, "untrusted"),
    "longer than a quarter of an hour": ({"minutes": 16}, "malformed"),
    "of no length": ({"minutes": 0}, "malformed"),
    "from before its statement": ({"later": -2 * MINUTE}, "untrusted"),
    "from after its statement": ({"later": 2 * HOUR}, "untrusted"),
    "from before its identity": ({"later": -3 * DAY}, "untrusted"),
    "that outlives its identity": ({"later": 301 * DAY - 10 * MINUTE}, "untrusted"),
    "with a host key of small order": ({"host_key": bytes(32)}, "malformed"),
    "with a host key that is no point": ({"host_key": b"\x02" + bytes(31)}, "malformed"),
    "with a KEM key of small order": ({"kem_key": bytes(32)}, "malformed"),
    "with an unknown KEM": ({"kem": 3}, "malformed"),
    "with a KEM key of another length": ({"kem_key": b"k" * 31}, "malformed"),
    "signed for another purpose": ({"proof": {"purpose": Purpose.INBOX}}, "bad_proof"),
}


@pytest.mark.parametrize(("changes", "reason"), SESSIONS.values(), ids=SESSIONS.keys())
def test_a_session_is_not_believed(world: World, changes: dict[str, Any], reason: str):
    facts = dict(changes)
    later, minutes = facts.pop("later", 0), facts.pop("minutes", 15)
    facts |= {"not_before_ms": world.now + later, "not_after_ms": world.now + later + minutes * MINUTE}
    identity = world.identity("DIRECTOR")
    purpose = facts.pop("proof", {}).get("purpose")
    papers = world.papers(identity, host(), **facts)
    if purpose is not None:
        papers = signed_for(identity, papers, purpose)
    assert refused(world, papers) == reason


def signed_for(identity: Any, data: bytes, purpose: Purpose) -> bytes:
    """The same session, with a proof that the same key made for something else."""
    papers = Papers.parse(data)
    body = SessionCertificate.parse(papers.session).body_bytes
    blind = os.urandom(16)
    content = identity.suite.digest(b"tpmbus/1 session" + blind + body)
    proof = identity.prove(purpose, [content], [blind])[0]
    return papers._replace(session=SessionCertificate(body, proof).encode()).encode()


def test_a_session_that_ends_with_its_identity_is_believed(world: World):
    identity = world.identity("DIRECTOR", not_after_ms=world.now + 10 * MINUTE)
    assert believe(world.papers(identity, host(), not_after_ms=world.now + 10 * MINUTE), world.verifier, now_ms=world.now)
    assert refused(world, world.papers(identity, host(), not_after_ms=world.now + 10 * MINUTE + 1)) == "untrusted"


@pytest.mark.parametrize("profile", [Profile.TLS, Profile.BROKER, Profile.TRUST], ids=lambda profile: profile.path)
def test_a_certificate_of_another_profile_is_no_identity(world: World, profile: Profile):
    """A TLS key lies in software: if it could pass for an identity, the TPM would be bypassed."""
    suite = "ecc384/sha3-384" if profile is Profile.TRUST else "ecc256/sha256"
    dates = {"not_before_ms": world.now - HOUR, "not_after_ms": world.now + 23 * HOUR}
    origin = "software-tpm" if profile is Profile.BROKER else "software"
    poser = world.identity("MONITOR", suite=suite, profile=profile, origin=origin, **dates)
    assert poser.certificate.profile is profile
    assert refused(world, world.papers(poser, host())) == "untrusted"


def test_papers_of_a_broker_and_of_an_agent_of_one_name_do_not_pass_for_each_other(world: World):
    agent = world.papers(world.identity("MONITOR"), host())
    broker = world.papers(world.identity("MONITOR", profile=Profile.BROKER), host())
    found = believe(broker, world.verifier, now_ms=world.now, profile=Profile.BROKER)
    assert (found.name, found.identity.profile) == ("MONITOR", Profile.BROKER)
    assert refused(world, broker) == "untrusted"
    with pytest.raises(VerificationError) as caught:
        believe(agent, world.verifier, now_ms=world.now, profile=Profile.BROKER)
    assert caught.value.reason == "untrusted"


def test_an_identity_of_another_authority_is_none(world: World):
    from small_authority import SmallAuthority

    other = World(SmallAuthority())
    assert refused(world, other.papers(other.identity("DIRECTOR"), host())) == "untrusted"


def test_a_proof_by_another_key_is_refused_and_so_is_one_that_names_another_signer_or_suite(world: World):
    director, deputy = world.identity("DIRECTOR"), world.identity("DEPUTY")
    papers = Papers.parse(world.papers(director, host()))
    for changes in ({"identity": deputy.certificate.der},):
        assert refused(world, papers._replace(**changes).encode()) == "untrusted"
    session = SessionCertificate.parse(papers.session)
    for proof in (
        session.proof._replace(signature=bytes(384)),
        session.proof._replace(signer=bytes(32)),
        session.proof._replace(suite=16),
        session.proof._replace(suite=1),
        session.proof._replace(blind=bytes(16)),
        session.proof._replace(n=2),
    ):
        forged = papers._replace(session=SessionCertificate(session.body_bytes, proof).encode())
        assert refused(world, forged.encode()) == "bad_proof"
    cosigned = papers._replace(
        session=SessionCertificate(session.body_bytes, session.proof._replace(cosignature=bytes(3309))).encode()
    )
    assert refused(world, cosigned.encode()) == "malformed"


# ---- what is trusted now ---------------------------------------------------------------------------------------------------------


class Scene:
    def __init__(self, world: World) -> None:
        self.world = world
        self.director = world.agent("DIRECTOR")
        self.epoch = world.epoch(self.director, TOPIC)
        self.held = world.held(self.director, epochs=[self.epoch])

    def send(self, *payloads: bytes) -> list[bytes]:
        outgoing = [self.world.outgoing(self.director, TOPIC, [payload]) for payload in payloads]
        return self.world.send(self.director, self.epoch, *outgoing)

    def outcome(self, data: bytes, snapshot: Snapshot | None = None) -> str:
        listening = self.world.listening("BUILDER")
        try:
            receive(data, self.held, snapshot=snapshot or self.world.snapshot, listening=listening, now_ms=self.world.now)
        except VerificationError as error:
            return error.reason
        return "passed"

    def revoke(self, reason: Reason, *, date_ms: int) -> None:
        serial = self.director.identity.certificate.serial
        self.world.trust(revoked={serial: Revocation(date_ms, reason)}, agents={"DIRECTOR": (1, 0)})


def test_a_revoked_signer_whose_root_is_in_the_cache_is_refused_at_the_next_envelope(world: World):
    scene = Scene(world)
    first, second, third = scene.send(b"1", b"2", b"3")
    assert [scene.outcome(first), scene.outcome(second)] == ["passed", "passed"]
    assert scene.held.verifier.signatures.hits == 1
    scene.revoke(Reason.COMPROMISED, date_ms=world.now + HOUR)  # whatever the date: who is compromised was so before
    assert scene.outcome(third) == "revoked"
    assert scene.held.verifier.signatures.hits == 2, "the signature was right, and it did not help"


def test_a_key_that_was_rotated_is_good_for_what_it_signed_before(world: World):
    scene = Scene(world)
    before, after = scene.send(b"before")[0], None
    scene.revoke(Reason.ROTATED, date_ms=world.now + 1_000)  # a list counts in whole seconds
    world.now += 1_000
    after = scene.send(b"after")[0]
    assert (scene.outcome(before), scene.outcome(after)) == ("passed", "revoked")


def test_sessions_can_be_ended_without_the_identity(world: World):
    scene = Scene(world)
    data = scene.send(b"x")[0]
    world.trust(agents={"DIRECTOR": (0, world.now + 1)})
    assert scene.outcome(data) == "revoked"


def test_sessions_that_were_dated_ahead_end_with_all_others(world: World):
    """A session says when it begins; its statement says when it was made at the latest. The earlier of both counts."""
    begins_ms = world.now + 50 * MINUTE
    director = world.agent("DIRECTOR", not_before_ms=begins_ms, not_after_ms=begins_ms + 10 * MINUTE)
    world.now += MINUTE
    world.trust(agents={"DIRECTOR": (0, world.now)})
    world.now = begins_ms
    epoch, envelope = world.say(director, TOPIC)
    with pytest.raises(VerificationError) as caught:
        world.receive(envelope, world.held(director, epochs=[epoch]), world.listening("BUILDER"))
    assert caught.value.reason == "revoked"
    again = world.agent("DIRECTOR")
    epoch, envelope = world.say(again, TOPIC)
    assert world.receive(envelope, world.held(again, epochs=[epoch]), world.listening("BUILDER")).records is not None


def test_a_trust_signer_that_was_revoked_takes_the_sessions_of_its_statements_along(world: World):
    scene = Scene(world)
    data = scene.send(b"x")[0]
    serial = scene.director.believed.statement.signer.serial
    fault = world.snapshot.trust.revocations
    assert serial not in fault.revoked
    with pytest.raises(VerificationError) as caught:
        world.trust(revoked={serial: Revocation(world.now, Reason.COMPROMISED)})
    assert caught.value.reason == "revoked", "its own next statement is not believed either"
    assert scene.outcome(data) == "passed"


def test_a_revocation_during_a_verification_does_not_let_its_result_into_the_cache(world: World):
    verifier = Scene(world).held.verifier
    generation = verifier.signatures.generation
    verifier.forget()  # it comes while somebody verifies
    verifier.signatures.put(b"tbs", b"signature", now_ms=world.now, generation=generation)
    assert len(verifier.signatures) == 0
    verifier.signatures.put(b"tbs", b"signature", now_ms=world.now, generation=verifier.signatures.generation)
    assert len(verifier.signatures) == 1


def test_an_envelope_is_judged_by_one_snapshot_from_its_first_line_to_its_last(world: World):
    scene = Scene(world)
    data, before = scene.send(b"x")[0], world.snapshot
    scene.revoke(Reason.COMPROMISED, date_ms=world.now)
    assert scene.outcome(data, before) == "passed"
    scene.held.windows = type(scene.held.windows)()
    assert scene.outcome(data) == "revoked"


# ---- the caches ------------------------------------------------------------------------------------------------------------------


def test_one_verification_serves_a_whole_batch(world: World):
    scene = Scene(world)
    assert {scene.outcome(data) for data in scene.send(*[b"x"] * 64)} == {"passed"}
    statistics = scene.held.statistics()
    assert (statistics["opened"], statistics["handed_over"]) == (64, 64)
    assert statistics["verifications"] == 1
    assert statistics["hit_rate"] == pytest.approx(1 - 1 / 64)
    assert statistics["verifications_an_envelope"] == pytest.approx(1 / 64)


def test_what_is_in_the_cache_ends_after_half_a_minute_and_a_chain_after_an_hour(world: World):
    scene = Scene(world)
    one, two, three = scene.send(b"1", b"2", b"3")
    assert scene.outcome(one) == "passed"
    world.now += 30_000
    assert scene.outcome(two) == "passed"
    assert scene.held.verifier.verifications == 1
    world.now += 1
    assert scene.outcome(three) == "passed"
    assert scene.held.verifier.verifications == 2

    papers = scene.director.papers
    verifier = world.held().verifier
    for later, chains in ((0, 1), (3_600_000, 1), (3_600_001, 2)):
        believe(papers, verifier, now_ms=world.now + later)
        assert verifier.chains.misses == chains


def test_the_caches_are_bounded_and_the_oldest_goes_first(world: World):
    verifier = world.held().verifier
    for number in range(10_005):
        verifier.signatures.put(number.to_bytes(4, "big"), b"s", now_ms=world.now, generation=0)
    assert len(verifier.signatures) == 10_000
    assert not verifier.signatures.holds((4).to_bytes(4, "big"), b"s", now_ms=world.now)
    assert verifier.signatures.holds((5).to_bytes(4, "big"), b"s", now_ms=world.now)
    assert verifier.chains.entries == 1_000


def test_a_cosignature_that_policy_demands_must_be_there_and_be_right(world: World):
    from bus.identity import ml_dsa
    from bus.protocol import cosign

    identity = world.identity("DIRECTOR")
    identity.ml_dsa = ml_dsa.generate()
    world.trust(ml_dsa={"DIRECTOR": cosign.key_hash(identity.ml_dsa.public)})
    director = world.agent("DIRECTOR", identity=identity)
    epoch = world.epoch(director, "control.sealed.x")
    outgoing = world.outgoing(director, "control.sealed.x")
    listening = world.listening("BUILDER")

    def outcome(data: bytes) -> str:
        held = world.held(director, epochs=[epoch])
        try:
            world.receive(data, held, listening)
        except VerificationError as error:
            return error.reason
        return "passed"

    with_it = world.send_by_identity(director, epoch, outgoing, cosign=True)[0]
    without = world.send_by_identity(director, epoch, outgoing)[0]
    insider = Insider(epoch)
    header, proof, body = insider.open(with_it)
    proof[6] = bytes(3309)
    assert [outcome(with_it), outcome(without), outcome(insider.seal(header, proof, body))] == [
        "passed",
        "wrong_signer",
        "bad_proof",
    ]
    world.trust(ml_dsa={"DIRECTOR": bytes(32)})
    assert outcome(with_it) == "wrong_signer"


def test_papers_with_another_ml_dsa_key_do_no_harm_to_the_right_ones(world: World):
    """No signature covers that key: whoever hands papers on can exchange it."""
    from bus.identity import ml_dsa
    from bus.protocol import cosign

    identity = world.identity("DIRECTOR")
    identity.ml_dsa = ml_dsa.generate()
    world.trust(ml_dsa={"DIRECTOR": cosign.key_hash(identity.ml_dsa.public)})
    director = world.agent("DIRECTOR", identity=identity)
    epoch = world.epoch(director, "control.sealed.x")
    envelope = world.send_by_identity(director, epoch, world.outgoing(director, "control.sealed.x"), cosign=True)[0]
    held, listening = world.held(director, epochs=[epoch]), world.listening("BUILDER")
    exchanged = Papers.parse(director.papers)._replace(ml_dsa=b"").encode()
    held.sessions[director.session] = believe(exchanged, held.verifier, now_ms=world.now)
    with pytest.raises(VerificationError) as caught:
        world.receive(envelope, held, listening)
    assert caught.value.reason == "wrong_signer"
    held.sessions[director.session] = director.believed
    assert world.receive(envelope, held, listening).records is not None
