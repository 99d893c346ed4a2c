"""What a test's broker and hosts are made of: two hosts of a world believe each other, and nobody else believes either."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from bus.errors import NotPermittedError, PolicyError, VerificationError
from bus.identity import trust_documents
from bus.identity.envelopes import seal
from bus.identity.envelopes.listening import Listening, Subscription
from bus.identity.envelopes.receive import Received
from bus.identity.envelopes.seal import Outgoing
from bus.identity.envelopes.verifier import Verifier
from bus.identity.epochs.sealing import Use
from bus.protocol.records import Records
from bus.testing import ManualClock, ready_made
from bus.testing.authority import MadeUpAuthority
from bus.testing.policy_texts import texts_given, texts_of
from bus.testing.world import BROKER, World
from bus.trust import certificates, root, testing_domain
from bus.trust.certificates import Pinned, Profile
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
