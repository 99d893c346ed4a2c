"""What a test has in place of a state folder lasts as long as the world, and is what everybody else believes."""

from __future__ import annotations

import os

import pytest

from bus.errors import TpmUnavailableError
from bus.flow.ledger import Ledger
from bus.identity.envelopes.believe import believe_inbox
from bus.identity.inbox_record import ROTATED_AFTER_MS
from bus.protocol.kem import PublicKey
from bus.testing import ManualClock
from bus.testing.inboxes import MemoryLedgers
from bus.testing.policy_texts import texts_given
from bus.testing.world import World

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: worker}
roles:
  lead: {key: rsa3072/sha3-384, inbox: hybrid}
  worker: {key: ecc256/sha256, subscribe: [work.>]}
topics:
  - {match: work.>, class: durable, retention: 1d}
"""


@pytest.fixture
def world():
    return World(texts_given(POLICY), ManualClock())


@pytest.mark.parametrize("name", ["LEAD", "PAINTER"])
async def test_an_inbox_is_certified_and_opens_what_is_sealed_to_it(world, name):
    holder = world.holder(name)
    inbox = world.inbox(holder)
    verifier = world.broker_materials().verifier
    found = believe_inbox(inbox.certificate, inbox.identity, verifier, now_ms=world.clock.now_ms())
    assert (found.name, found.inbox.body.counter) == (name, 1)
    sealed = PublicKey(found.inbox.body.kem, found.inbox.body.kem_key).seal(b"secret", b"info")
    private = await inbox.private(found.inbox.body.key_id)
    assert private.open(sealed, b"info") == b"secret"
    assert await inbox.private(os.urandom(len(found.inbox.body.key_id))) is None


async def test_an_inbox_is_found_again_and_renewed_after_a_week_and_old_keys_still_open(world):
    holder = world.holder("PAINTER")
    first = world.inbox(holder)
    certificate = first.certificate
    assert world.inbox(holder).certificate == certificate
    body = believe_inbox(certificate, first.identity, world.broker_materials().verifier, now_ms=world.clock.now_ms()).inbox.body
    world.clock.advance(ROTATED_AFTER_MS / 1000 + 1)
    again = world.inbox(holder)
    assert again.counter == 2
    assert again.certificate != certificate
    assert (await again.private(body.key_id)).public == body.kem_key


async def test_to_unseal_is_the_tpms_work(world):
    inbox = world.inbox(world.holder("PAINTER"))
    body = believe_inbox(
        inbox.certificate, inbox.identity, world.broker_materials().verifier, now_ms=world.clock.now_ms()
    ).inbox.body
    world.engine.fail_next(TpmUnavailableError("hung", "it does not answer"))
    with pytest.raises(TpmUnavailableError):
        await inbox.private(body.key_id)
    assert await inbox.private(body.key_id) is not None


async def test_who_gets_the_name_of_somebody_revoked_has_another_inbox(world):
    first = world.inbox(world.holder("PAINTER")).certificate
    world.revoke("PAINTER")
    assert world.inbox(world.holder("PAINTER")).certificate != first


async def test_without_durable_topics_there_is_no_inbox():
    world = World(texts_given(POLICY.replace("class: durable, retention: 1d", "class: live")), ManualClock())
    assert world.inbox(world.holder("PAINTER")) is None


async def test_a_ledger_holds_what_was_written_and_lets_go_of_what_is_forgotten():
    store, epoch, other = MemoryLedgers(), bytes(32), bytes([1]) * 32
    ledger = await store.load("PAINTER", "paint")
    ledger.finish(epoch, 3, [0, 1], records=2, expires_ms=1_000)
    ledger.finish(epoch, 5, [0], records=2, expires_ms=1_000)
    ledger.finish(other, 0, [0], records=1, expires_ms=10_000_000)
    await store.write([("PAINTER", "paint", ledger.changes())])
    ledger.finish(epoch, 4, [0, 1], records=2, expires_ms=1_000)  # runs merge: one row goes, one grows
    await store.write([("PAINTER", "paint", ledger.changes())])
    again = await store.load("PAINTER", "paint")
    assert sorted(again.rows()) == sorted(ledger.rows())
    assert (await store.load("PAINTER", "other")).rows() == (await store.load("LEAD", "paint")).rows() == Ledger().rows()
    ledger.forget(9_000_000)
    await store.write([("PAINTER", "paint", ledger.changes())])
    assert {row.epoch for row in (await store.load("PAINTER", "paint")).rows()} == {other}
