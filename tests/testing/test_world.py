"""What a test's broker and hosts are made of: two hosts of a world believe each other, and nobody else believes either."""

from __future__ import annotations

import os

import anyio
import pytest

from bus.errors import NotPermittedError, PolicyError, VerificationError
from bus.identity import trust_documents
from bus.identity.envelopes import seal
from bus.identity.envelopes.listening import Listening, Subscription
from bus.identity.envelopes.receive import Received
from bus.identity.envelopes.seal import Outgoing
from bus.identity.epochs.sealing import Use
from bus.policy.files import SHIPPED
from bus.protocol.records import Records
from bus.testing import ManualClock, authority, ready_made
from bus.testing.policy_texts import texts_given, texts_of
from bus.testing.world import BROKER, World
from bus.trust.certificates import Profile
from bus.trust.profiles import DAY_MS
from bus.trust.root_signature import HASH, PSS
from bus.trust.testing_domain import DOMAIN

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
domain: somewhere.example
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: rsa3072/sha3-384, publish: [tasks.>, control.>], inbox: hybrid}
  worker: {key: ecc256/sha256, subscribe: [tasks.>, control.>], key_origin: hardware}
topics:
  - {match: control.>, signed_by: identity, cosign: ml-dsa-65}
"""


def world(policy: str = POLICY, **changes) -> World:
    return World(texts_given(policy), ManualClock(), **changes)


async def host(world: World, *names: str, listens: str = ">"):
    made = world.materials(*names)
    await made.sessions.open(*made.holders.values())
    made.keyring.listening = Listening.to(Subscription(name, listens, 0) for name in names)
    return made


async def say(sender, topic: str, *readers: str, payload: bytes = b"hello") -> tuple[bytes, list[bytes]]:
    """An envelope, and the grants for it."""
    (name,) = sender.holders
    epoch = sender.keyring.epoch(Use(name, topic))
    made = sender.keyring.grants(epoch, listening=readers)
    session, now = sender.sessions.current(name), sender.clock.now_ms()
    outgoing = Outgoing(topic, Records(b"\0", (payload,), {}), sent_ms=now, expires_ms=now + 1000, session=session.id, before=0)
    suite = sender.signer.suite_of(name, by_identity=epoch.epoch.params.by_identity)
    draft = seal.draft(epoch.epoch, outgoing, suite=suite, random=os.urandom(seal.RANDOM_BYTES))
    if epoch.epoch.params.by_identity:
        proofs = await sender.signer.sign_by_identity(name, [draft], cosign=True)
    else:
        proofs = sender.signer.sign_by_session([draft])
    return seal.seal(draft, proofs[0]), list(made.grants)


@pytest.mark.parametrize("topic", ["tasks.paint", "control.stop"])
async def test_what_one_host_seals_another_opens(topic):
    here = world()
    lead, painter = await host(here, "LEAD"), await host(here, "PAINTER")
    lead.keyring.papers(painter.sessions.current("PAINTER").papers)
    painter.keyring.papers(lead.sessions.current("LEAD").papers)
    envelope, grants = await say(lead, topic, "PAINTER")
    for grant in grants:
        painter.keyring.arrive(grant, is_grant=True)
    (outcome,) = painter.keyring.arrive(envelope)
    assert isinstance(outcome.result, Received)
    assert outcome.result.records.payloads == [b"hello"]


async def test_a_broker_has_papers_that_hosts_believe():
    here = world()
    made = here.broker_materials()
    await made.sessions.open(made.holder)
    certificate = made.sessions.current(BROKER).holder.identity
    assert (certificate.profile, certificate.name) == (Profile.BROKER, BROKER)
    assert BROKER in (await host(here, "LEAD")).brokers


async def test_keys_live_where_policy_wants_them():
    made = world().materials("LEAD", "PAINTER")
    assert (made.holders["LEAD"].identity.origin, made.holders["PAINTER"].identity.origin) == ("software-tpm", "hardware")
    with pytest.raises(NotPermittedError):
        world().materials("NOBODY")


async def test_hosts_follow_what_the_authority_says_next():
    here = world()
    painter = await host(here, "PAINTER")
    here.revoke("LEAD")
    snapshot = await trust_documents.accept(here.documents, painter.memory, painter.verifier)
    assert snapshot.trust.generation("LEAD") == 1
    changed = here.change(texts_given(POLICY.replace("LEAD: lead", "LEAD: worker")))
    assert changed.policy.role_of("LEAD").name == "worker"
    assert changed.trust.generation("LEAD") == 1
    snapshot = await trust_documents.accept(here.documents, painter.memory, painter.verifier)
    assert snapshot.policy.role_of("LEAD").name == "worker"


async def test_a_policy_that_is_wrong_changes_nothing():
    here = world()
    before = here.documents
    with pytest.raises(PolicyError):
        here.change({"policy.yaml": b"version: 2\n"})
    assert here.documents == before


async def test_who_is_revoked_and_let_in_again_has_another_certificate():
    here = world()
    first = here.holder("LEAD").identity
    here.revoke("LEAD")
    again = here.holder("LEAD").identity
    assert first.serial != again.serial
    verdict = here.snapshot().trust.revocations.verdict
    verdict(again.serial, here.clock.now_ms())
    with pytest.raises(VerificationError):
        verdict(first.serial, here.clock.now_ms())


async def test_a_statement_is_as_good_as_policy_says_and_then_another_is_due():
    clock = ManualClock()
    here = World(texts_given(POLICY + "trust: {max_age: 10m}\n"), clock)
    clock.advance(601)
    with pytest.raises(VerificationError) as caught:
        here.snapshot().judged_at(clock.now_ms())
    assert caught.value.reason == "trust_stale"
    here.restate().judged_at(clock.now_ms())


async def test_its_time_may_be_any_time():
    for year in (0, 20, 60):
        clock = ManualClock(1_600_000_000_000 + year * 365 * DAY_MS)
        made = await host(World(texts_given(POLICY), clock), "LEAD")
        assert made.sessions.state("LEAD") == "valid"


# ---- policies --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["domain: a.example", "domain:   'a.example'  # mine", 'domain: "a.example"', "audit_readers: []"])
async def test_any_policy_becomes_one_of_the_domain_of_tests(said):
    policy = World(texts_given(f"{said}\nversion: 1\nagents: {{}}\n"), ManualClock()).policy
    assert policy.domain == DOMAIN


async def test_a_domain_is_found_in_whichever_file_says_it_and_in_a_line_with_more():
    line = '{version: 1, "é": 1, domain: ab.example, trust: {max_age: 2h}}\n'
    texts = texts_given({"a.yaml": "version: 1\n", "b.yaml": line})
    assert texts == {"a.yaml": b"version: 1\n", "b.yaml": line.replace("ab.example", DOMAIN).encode()}


@pytest.mark.parametrize("name", [None, "default", "tutorial", "minimal"])
async def test_the_shipped_policies_are_there_by_name(name):
    assert World(await texts_of(name), ManualClock()).policy.domain == DOMAIN


async def test_a_policy_is_read_from_a_folder_and_agents_join_it(tmp_path):
    (tmp_path / "rosters").mkdir()
    (tmp_path / "policy").mkdir()
    (tmp_path / "rosters" / "all.yaml").write_text("version: 1\nagents: {LEAD: lead}\n")
    (tmp_path / "policy" / "p.yaml").write_text(
        POLICY.replace("{LEAD: lead, PAINTER: worker, CARPENTER: worker}", "../rosters/all.yaml")
    )
    policy = World(await texts_of(tmp_path / "policy", {"BILLING": "worker", "LEAD": "lead"}), ManualClock()).policy
    assert dict(policy.agents) == {"LEAD": "lead", "BILLING": "worker"}
    with pytest.raises(PolicyError):
        await texts_of(POLICY, {"BILLING": "no such role"})


async def test_a_mistake_is_shown_where_its_author_made_it():
    with pytest.raises(PolicyError) as caught:
        World(texts_given({"mine.yaml": "version: 1\ndomain: a.example\nagents: {LEAD: nothing}\n"}), ManualClock())
    assert (caught.value.file, caught.value.line) == ("mine.yaml", 3)


def test_what_tests_need_is_signed_already_and_by_the_root(monkeypatch):
    signed, verified, missing = ready_made._signed, set(), set()

    def found(tbs: bytes) -> bytes:
        tag = ready_made.tag(tbs)
        if tag not in signed:  # a policy was changed: it works as well, some milliseconds later
            missing.add(tag)
            return ready_made._rsa(0).sign(tbs, PSS, HASH)
        ready_made._rsa(0).public_key().verify(signed[tag], tbs, PSS, HASH)
        verified.add(tag)
        return signed[tag]

    monkeypatch.setattr(ready_made, "root_signs", found)
    for cache in (authority._root, authority._certificate):
        cache.cache_clear()
    for name in SHIPPED:
        made = World(anyio.run(texts_of, name), ManualClock())
        made.materials(*(made.policy.agents or ("ALICE", "BOB", "CAROL")))
        made.broker_materials()
    assert len(verified) > 10 * len(missing), "run scripts/ready_made_signatures.py"
