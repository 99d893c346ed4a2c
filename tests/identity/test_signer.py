"""Who signs what: the host key at once, the identity key in its TPM, ML-DSA where policy wants it, and samples of the rest."""

from __future__ import annotations

import os
import threading
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from open_agents import at_point, place

from bus.errors import LocalProtocolError, PolicyError, SessionEndedError, TpmRefusedError, TpmUnavailableError
from bus.identity import ml_dsa
from bus.identity import signer as signers
from bus.identity.envelopes import seal
from bus.identity.envelopes.seal import Outgoing
from bus.identity.signer import Signer
from bus.policy import load
from bus.protocol import cosign, signatures
from bus.protocol import envelope as envelopes
from bus.protocol.contexts import Purpose
from bus.protocol.epochs import Params, SealingEpoch
from bus.protocol.proof import MAX_BATCH
from bus.protocol.records import Records
from bus.protocol.sampling import AuditRecord, sampled
from bus.protocol.suites import HOST_SUITE, IDENTITY_SUITES
from bus.tpm.interface import Priority

pytestmark = pytest.mark.anyio

SHA3 = IDENTITY_SUITES["ecc384/sha3-256"]


def policy(rate=0.01):
    return load({"p.yaml": f"version: 1\nrollout: {{sample_rate: {rate}}}\n"})


@asynccontextmanager
async def signing(*names, rate=0.01, environ=None, cosigners=None, suite=SHA3, running=True, **options):
    async with place(**options) as here:
        await here.open(*(names or ("ALPHA",)), suite=suite)
        here.audited = []
        here.signer = Signer(
            here.engine,
            here.sessions,
            here.clock,
            policy(rate),
            on_audit=lambda agent, record: here.audited.append((agent, record)),
            environ=environ or {},
            cosigners=cosigners,
        )
        if running:
            here.tasks.start_soon(here.signer.run)
        here.engine.asked.clear()
        yield here


def drafts(here, sender="ALPHA", count=1, *, by_identity=False, priority=3, epoch=None):
    params = Params("tpmbus.test", sender, bytes(32), 0, priority, int(by_identity), 1, 1, here.clock.ms, here.clock.ms + 900_000)
    epoch = epoch or SealingEpoch.make(os.urandom(32), params)
    suite = here.signer.suite_of(sender, by_identity=by_identity)
    session = here.sessions.current(sender)
    now = session.sent_ms(here.sessions.now_ms())
    outgoing = Outgoing("tasks.build", Records(b"\0", (b"hello",), {}), session.id, now, now + 60_000, 0)
    return [seal.draft(epoch, outgoing, suite=suite, random=os.urandom(seal.RANDOM_BYTES)) for _ in range(count)]


# ---- by session ----------------------------------------------------------------------------------------------------------------


async def test_one_signature_of_the_host_covers_a_turn_of_all_agents_and_asks_no_tpm():
    async with signing("ALPHA", "BETA", rate=0) as here:
        turn = drafts(here, "ALPHA", 3) + drafts(here, "BETA", 2)
        proofs = here.signer.sign_by_session(turn)
        assert len({proof.signature for proof in proofs}) == 1
        for draft, proof in zip(turn, proofs, strict=True):
            assert proof.signer == here.sessions.keys.signer
            content = envelopes.content(draft.header, draft.body, blind=proof.blind, hash_name="sha256")
            signatures.verify_host(here.sessions.keys.public, proof.tbs(Purpose.ENVELOPE, content), proof.signature)
            seal.seal(draft, proof)
        await here.settle()
        assert here.engine.asked == []
        assert here.signer.statistics().signatures == {"ed25519/sha256": {"host": 1}}
        assert here.signer.statistics().contents == {"ed25519/sha256": {"host": 5}}


async def test_a_host_key_signs_for_no_epoch_that_demands_the_identity():
    async with signing() as here:
        turn = drafts(here, count=2) + drafts(here, by_identity=True)
        with pytest.raises(LocalProtocolError):
            here.signer.sign_by_session(turn)
        assert here.signer.statistics().contents == {}


async def test_the_session_of_an_agent_follows_its_switch():
    async with signing(random=at_point(0.0), rate=0) as here:
        old = here.sessions.current("ALPHA")
        await here.advance(460)
        new = here.sessions.current("ALPHA")
        assert new.id != old.id
        assert here.signer.sign_by_session(drafts(here))[0].signer == new.keys.signer != old.keys.signer


async def test_without_an_open_agent_nobody_signs():
    async with signing() as here:
        by_session, by_identity = drafts(here), drafts(here, by_identity=True)
        here.sessions.retire()
        with pytest.raises(LocalProtocolError):
            here.signer.sign_by_session(by_session)
        with pytest.raises(LocalProtocolError):
            await here.signer.sign_by_identity("ALPHA", by_identity)
        with pytest.raises(LocalProtocolError):
            here.signer.suite_of("ALPHA", by_identity=True)


async def test_an_agent_whose_session_has_ended_cannot_begin_a_draft():
    async with signing() as here:
        here.engine.away = True
        await here.advance(901)
        with pytest.raises(SessionEndedError):
            drafts(here)


# ---- by identity ---------------------------------------------------------------------------------------------------------------


async def test_the_identity_key_signs_in_its_suite_and_its_certificates_name():
    async with signing() as here:
        turn = drafts(here, count=3, by_identity=True)
        proofs = await here.signer.sign_by_identity("ALPHA", turn)
        identity = here.sessions.holder("ALPHA").identity
        for draft, proof in zip(turn, proofs, strict=True):
            assert (proof.suite, proof.signer, proof.blind, proof.cosignature) == (SHA3.number, identity.signer, draft.blind, b"")
            content = envelopes.content(draft.header, draft.body, blind=proof.blind, hash_name=SHA3.hash)
            signatures.verify(SHA3, identity.public_key, proof.tbs(Purpose.ENVELOPE, content), proof.signature)
        assert here.engine.asked == [("ALPHA.1", Purpose.ENVELOPE, 3, Priority.NORMAL)]
        assert here.signer.statistics().signatures == {"ecc384/sha3-256": {"ALPHA": 1}}
        assert here.signer.statistics().contents == {"ecc384/sha3-256": {"ALPHA": 3}}


@pytest.mark.parametrize(
    ("priority", "expected"),
    [(0, Priority.CRITICAL), (1, Priority.CRITICAL), (2, Priority.NORMAL), (3, Priority.NORMAL), (4, Priority.NORMAL)],
)
async def test_control_and_critical_lanes_go_first(priority, expected):
    async with signing() as here:
        await here.signer.sign_by_identity("ALPHA", drafts(here, by_identity=True, priority=priority))
        assert here.engine.asked[-1][3] is expected


async def test_what_waits_together_is_one_signature_of_the_tpm():
    async with signing() as here:
        before = (await here.engine.statistics()).signatures
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(here.signer.sign_by_identity, "ALPHA", drafts(here, by_identity=True))
        assert (await here.engine.statistics()).signatures - before < 20


async def test_nobody_signs_what_another_agent_sends():
    async with signing("ALPHA", "BETA") as here:
        with pytest.raises(LocalProtocolError):
            await here.signer.sign_by_identity("BETA", drafts(here, "ALPHA", by_identity=True))


async def test_what_the_tpm_says_is_said():
    async with signing() as here:
        here.engine.away = True
        with pytest.raises(TpmUnavailableError):
            await here.signer.sign_by_identity("ALPHA", drafts(here, by_identity=True))
        here.engine.away = False
        turn = drafts(here)  # in the host's hash, of 32 bytes, where this suite wants the same; another one does not
        assert len(turn[0].content) == SHA3.digest_bytes
    async with signing(suite=IDENTITY_SUITES["ecc384/sha3-384"]) as here:
        with pytest.raises(TpmRefusedError) as caught:
            await here.signer.sign_by_identity("ALPHA", drafts(here))
        assert caught.value.code == "wrong_suite"


async def test_ml_dsa_signs_the_same_root_once():
    key = ml_dsa.generate()
    async with signing(cosigners={"ALPHA": key}) as here:
        turn = drafts(here, count=4, by_identity=True)
        proofs = await here.signer.sign_by_identity("ALPHA", turn, cosign=True)
        assert len({proof.cosignature for proof in proofs}) == 1
        for draft, proof in zip(turn, proofs, strict=True):
            cosign.verify(key.public, proof.tbs(Purpose.ENVELOPE, draft.content), proof.cosignature)
        assert here.signer.statistics().cosignatures == 1


async def test_without_an_ml_dsa_key_nothing_is_sent_where_policy_wants_one():
    async with signing() as here:
        with pytest.raises(LocalProtocolError):
            await here.signer.sign_by_identity("ALPHA", drafts(here, by_identity=True), cosign=True)
        assert here.engine.asked == []


# ---- samples -------------------------------------------------------------------------------------------------------------------


async def test_what_is_sampled_is_what_everybody_predicts_and_its_proof_verifies():
    async with signing("ALPHA", "BETA", rate=0.3) as here:
        turn = drafts(here, "ALPHA", 60) + drafts(here, "BETA", 60)
        here.signer.sign_by_session(turn)
        assert here.audited == []  # the messages did not wait
        await here.settle()
        expected = {
            (one.epoch.params.sender, one.epoch.id, one.seq, one.content) for one in turn if sampled(one.epoch.id, one.seq, 0.3)
        }
        assert 10 < len(expected) < 110
        assert {(agent, record.epoch, record.seq, record.content) for agent, record in here.audited} == expected
        for agent, record in here.audited:
            identity = here.sessions.holder(agent).identity
            parsed = AuditRecord.parse(record.encode())
            assert parsed.proof.signer == identity.signer
            signatures.verify(SHA3, identity.public_key, parsed.tbs(), parsed.proof.signature)
        assert {asked[1:2] + asked[3:] for asked in here.engine.asked} == {(Purpose.AUDIT, Priority.BACKGROUND)}
        assert len(here.engine.asked) == 2  # one request an agent, whatever it is for
        statistics = here.signer.statistics()
        assert (statistics.sampled, statistics.vouched, statistics.dropped, statistics.waiting) == (len(expected),) * 2 + (0, 0)
        assert len({record.proof.blind for _, record in here.audited}) == len(expected)
        assert set(statistics.contents) == {"ed25519/sha256", "ecc384/sha3-256"}


async def test_samples_ride_along_with_what_the_identity_signs_anyway():
    async with signing(rate=1) as here:
        began, opened = threading.Event(), threading.Event()

        def gate():
            began.set()
            assert opened.wait(20)

        here.chip.faults.append(gate)
        operations = here.chip.operations
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(here.signer.sign_by_identity, "ALPHA", drafts(here, by_identity=True))
            await anyio.to_thread.run_sync(began.wait, 20)
            tasks.start_soon(here.signer.sign_by_identity, "ALPHA", drafts(here, by_identity=True))
            here.signer.sign_by_session(drafts(here, count=7))
            while here.engine.pending < 3:
                await anyio.lowlevel.checkpoint()
            opened.set()
        await here.settle()
        assert len(here.audited) == 7
        assert here.chip.operations - operations == 2  # the one that was begun, and one for all that came meanwhile


async def test_a_rate_of_nothing_samples_nothing_and_of_one_everything():
    async with signing(rate=0) as here:
        here.signer.sign_by_session(drafts(here, count=50))
        assert here.signer.statistics().sampled == 0
        here.signer.follow(policy(1))
        here.signer.sign_by_session(drafts(here, count=50))
        assert here.signer.statistics().sampled == 50


@pytest.mark.parametrize(("wish", "rate"), [("0.5", 0.5), ("0.001", 0.01), ("0", 0.01), (None, 0.01), ("1", 1.0)])
async def test_the_environment_may_only_raise_the_rate(wish, rate):
    async with signing(environ={} if wish is None else {"TPM_SAMPLE_RATE": wish}) as here:
        assert here.signer.rate == rate


async def test_a_rate_that_is_none_is_an_error_at_once():
    with pytest.raises(BaseExceptionGroup) as caught:
        async with signing(environ={"TPM_SAMPLE_RATE": "often"}):
            pass
    assert caught.group_contains(PolicyError)


async def test_samples_wait_for_a_tpm_that_is_away_and_the_messages_do_not():
    async with signing(rate=1) as here:
        here.engine.away = True
        for _ in range(3):
            here.signer.sign_by_session(drafts(here, count=5))
            await here.advance(2)
        assert here.audited == []
        assert here.signer.statistics().waiting == 15
        here.engine.away = False
        await here.advance(20)
        assert len(here.audited) == here.signer.statistics().vouched == 15
        seqs = [(record.epoch, record.seq) for _, record in here.audited]
        assert len(set(seqs)) == 15
        assert [seq for _, seq in seqs] == [0, 1, 2, 3, 4] * 3  # in order


async def test_too_many_samples_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(signers, "MAX_WAITING", 20)
    async with signing(rate=1) as here:
        here.engine.away = True
        here.signer.sign_by_session(drafts(here, count=15))
        await here.settle()
        here.signer.sign_by_session(drafts(here, count=15))
        statistics = here.signer.statistics()
        assert (statistics.sampled, statistics.dropped, statistics.waiting) == (30, 10, 20)
        await here.advance(3)
        assert here.signer.statistics().waiting == 20
        here.engine.away = False
        await here.advance(20)
        statistics = here.signer.statistics()
        assert (statistics.vouched, statistics.dropped, statistics.waiting) == (20, 10, 0)


async def test_samples_that_come_while_others_are_put_back_push_nobody_over_the_limit(monkeypatch):
    monkeypatch.setattr(signers, "MAX_WAITING", 10)
    async with signing(rate=1) as here:
        here.engine.hangs = True
        here.signer.sign_by_session(drafts(here, count=8))
        await here.settle()  # they are with the TPM now
        here.signer.sign_by_session(drafts(here, count=7))
        await here.advance(31, step=1)  # the TPM did not answer
        statistics = here.signer.statistics()
        assert (statistics.waiting, statistics.dropped) == (10, 5)
        here.engine.hangs = False
        await here.advance(60)
        assert [record.seq for _, record in here.audited] == [*range(8), 0, 1]


async def test_a_key_that_is_refused_costs_its_own_samples_alone():
    async with signing("ALPHA", "BETA", rate=1) as here:
        here.engine.refuses["ALPHA.1"] = TpmRefusedError("key_ended", "it has ended")
        here.signer.sign_by_session(drafts(here, "ALPHA", 3) + drafts(here, "BETA", 2))
        await here.settle()
        assert [agent for agent, _ in here.audited] == ["BETA"] * 2
        assert here.signer.statistics().dropped == 3


async def test_samples_of_an_agent_that_closed_are_dropped():
    async with signing("ALPHA", "BETA", rate=1) as here:
        here.engine.away = True
        here.signer.sign_by_session(drafts(here, "ALPHA", 3))
        await here.settle()
        here.sessions.close("ALPHA")
        here.engine.away = False
        await here.advance(3)
        assert (here.signer.statistics().dropped, here.signer.statistics().waiting) == (3, 0)


async def test_a_great_many_samples_go_in_requests_of_bounded_size():
    async with signing(rate=1) as here:
        epoch = drafts(here)[0].epoch
        for _ in range(5):
            here.signer.sign_by_session(drafts(here, count=500, epoch=epoch))
        await here.advance(3)
        assert [count for _, _, count, _ in here.engine.asked] == [1024, 1024, 452]
        assert MAX_BATCH > 1024
        assert [record.seq for _, record in here.audited] == list(range(1, 2501))


async def test_a_draft_is_in_the_hash_of_who_will_sign():
    async with signing() as here:
        assert here.signer.suite_of("ALPHA", by_identity=False) is HOST_SUITE
        assert here.signer.suite_of("ALPHA", by_identity=True) is SHA3
