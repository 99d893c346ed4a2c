"""What agents with `may:` ask of the authority over the bus, and everything that must not work."""

from __future__ import annotations

import hashlib
import os
from contextlib import aclosing

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

import bus
from bus.clock import SystemClock
from bus.hub import admin
from bus.hub.petitioning import Petitioning
from bus.identity.public_trust import read_public
from bus.protocol.codec import pack, unpack
from bus.protocol.frames import Frame, encode
from bus.protocol.proof import Proof
from bus.trust import certificates
from bus.trust.certificates import Profile
from bus.trust.enrolment_list import EnrolmentList
from bus.trust.petition import Answer, Petition, Signed, Verb, petition_id

pytestmark = pytest.mark.anyio
WARDEN = ("  lead: {", "  lead: {may: [revoke, enroll, policy], ")
CHIP = bytes(range(32))


@pytest.fixture
def ruled(home):
    """LEAD may ask for everything, PAINTER for nothing."""
    home.change(*WARDEN)
    return home


async def listed(home) -> EnrolmentList:
    said = await admin.ask(home.state.admin_socket, "let_in")
    return EnrolmentList.parse(said["listed"].encode())


def public(home):
    return read_public(home.state.trust / "public")


async def signed_by(
    hub,
    name: str,
    *,
    agent: str | None = None,
    domain: str = "tpmbus.test",
    ago_ms: int = 0,
    verb: Verb = Verb.REVOKE,
    arguments: tuple = ("PAINTER", "compromised"),
) -> bytes:
    """A request as the host of this hub makes it, or one that only looks like that."""
    host = hub._open_agent.__self__.host
    made_ms = SystemClock().now_ms() - ago_ms
    body = Petition(domain, agent or name, made_ms, os.urandom(16), verb, arguments).encode()
    return Signed(body, await host.signer.sign_petition(name, body)).encode()


def petitioning_of(hub) -> Petitioning:
    running = hub._open_agent.__self__
    return Petitioning(running.authority, running.local, running.in_force, running.clock)


async def code(judge: Petitioning, request: bytes) -> str:
    answer = Answer.parse(await judge.answer(request))
    assert answer.id == petition_id(request)
    return answer.code


async def test_a_revocation_counts_for_everybody_when_it_returns(ruled):
    async with ruled.open() as hub, hub.agent("LEAD") as lead, ruled.connect(hub.url, agent="PAINTER") as painter:
        async with painter.subscribe("tasks.>") as tasks:
            await lead.authority.revoke("PAINTER")
            trust = await to_thread.run_sync(public, ruled)
            assert trust.statement.agents["PAINTER"][0] == 1
            with anyio.fail_after(20), pytest.raises(bus.RevokedError):
                await anext(tasks)
        with pytest.raises(bus.AttestationError) as caught:
            await lead.authority.revoke("PAINTER")
        assert caught.value.reason == "not_enrolled"


async def test_it_goes_the_same_way_to_a_broker_in_a_process_of_its_own(ruled):
    from bus.hub.open import supervise

    async with supervise(policy=ruled.policy, state=ruled.folder, tpm="software") as hub, hub.agent("LEAD") as lead:
        async with ruled.connect(hub.url, agent="PAINTER") as painter:
            await lead.authority.end_sessions("PAINTER")
            assert (await to_thread.run_sync(public, ruled)).statement.agents["PAINTER"][1] > 0
            await lead.authority.revoke("PAINTER")
            with anyio.fail_after(20):
                while painter.error is None:
                    await anyio.lowlevel.checkpoint()
        await lead.authority.join("GUEST", "worker")
        assert "GUEST" in (await to_thread.run_sync(public, ruled)).bundle.policy().agents


async def test_who_may_enrol_is_written_down_and_a_token_travels_as_its_hash(ruled):
    async with ruled.open() as hub, hub.agent("LEAD") as lead:
        token = await lead.authority.let_in("PAINTER")
        assert await lead.authority.let_in("CARPENTER", chip=CHIP) == b""
        found = await listed(ruled)
        assert {digest: one.name for digest, one in found.tokens.items()} == {hashlib.sha256(token).digest(): "PAINTER"}
        assert found.chips == {"CARPENTER": frozenset([CHIP])}
        await lead.authority.shut_out("CARPENTER")
        assert (await listed(ruled)).chips == {}


@pytest.mark.parametrize("asked_by", ["an agent", "an operator"])
async def test_what_let_somebody_in_lets_nobody_in_who_is_revoked(asked_by, ruled):
    """But for `rotated`: the name is the same agent's, with another key."""
    async with ruled.open() as hub, hub.agent("LEAD") as lead:

        async def revoke(name: str, reason: str) -> None:
            if asked_by == "an agent":
                await lead.authority.revoke(name, reason)
            else:
                await admin.ask(ruled.state.admin_socket, "revoke", name=name, reason=reason)

        for name in ("PAINTER", "CARPENTER"):
            async with hub.agent(name):
                pass
            await lead.authority.let_in(name, chip=CHIP)
            await lead.authority.let_in(name)
        await revoke("PAINTER", "compromised")
        await revoke("CARPENTER", "rotated")
        found = await listed(ruled)
        assert {*found.chips} == {one.name for one in found.tokens.values()} == {"CARPENTER"}


async def test_a_refusal_is_logged_once_a_minute_a_reason_and_no_more(ruled, caplog):
    async with ruled.open() as hub, hub.agent("PAINTER"):
        judge = petitioning_of(hub)
        for _ in range(3):
            assert await code(judge, await signed_by(hub, "PAINTER", arguments=("LEAD", "compromised"))) == "not_permitted"
            assert await code(judge, b"no request") == "malformed"
    said = [record.getMessage().partition(":")[0] for record in caplog.records if record.name == "bus.hub.petitioning"]
    assert said == [
        "a request to the authority was refused as not_permitted",
        "a request to the authority was refused as malformed",
    ]


async def test_policy_is_reloaded_and_a_mistake_in_it_changes_nothing(ruled):
    async with ruled.open() as hub, hub.agent("LEAD") as lead:
        await lead.authority.join("GUEST", "worker")
        async with hub.agent("GUEST"):
            pass
        with pytest.raises(bus.AttestationError) as caught:
            await lead.authority.join("OTHER", "nothing")
        assert caught.value.reason == "policy"
        await to_thread.run_sync(ruled.change, "CARPENTER: worker", "JOINER: worker")
        await lead.authority.reload()
        async with hub.agent("JOINER"):
            pass


async def test_without_the_right_it_is_refused_at_the_call_and_by_the_authority(ruled):
    async with ruled.open() as hub, hub.agent("PAINTER") as painter, hub.agent("LEAD"):
        with pytest.raises(bus.NotPermittedError):
            await painter.authority.revoke("LEAD")
        judge = petitioning_of(hub)
        request = await signed_by(hub, "PAINTER", arguments=("LEAD", "compromised"))
        assert await code(judge, request) == "not_permitted"
        assert "LEAD" in {one.name for one in (await to_thread.run_sync(public, ruled)).agents}


async def test_what_is_forged_stale_or_repeated_is_refused(ruled):
    async with ruled.open() as hub, hub.agent("LEAD"), hub.agent("PAINTER"):
        judge = petitioning_of(hub)
        ask = {"verb": Verb.CHIP, "arguments": ("PAINTER", CHIP)}
        assert await code(judge, await signed_by(hub, "PAINTER", agent="LEAD", **ask)) == "unverified"
        assert await code(judge, await signed_by(hub, "LEAD", domain="other.test", **ask)) == "unverified"
        assert await code(judge, await signed_by(hub, "LEAD", agent="NOBODY", **ask)) == "unverified"
        assert await code(judge, await signed_by(hub, "LEAD", ago_ms=61_000, **ask)) == "unverified"
        assert await code(judge, await signed_by(hub, "LEAD", ago_ms=-70_000, **ask)) == "unverified"
        good = await signed_by(hub, "LEAD", ago_ms=1, **ask)
        assert await code(petitioning_of(hub), good) == "unverified"  # it was made before that authority was opened
        good = await signed_by(hub, "LEAD", **ask)
        body, proof = unpack(good, longest=8)
        other = pack((body.replace(CHIP, bytes(32)), proof))
        assert await code(judge, other) == "unverified"
        assert await code(judge, good) == "done"
        assert await code(judge, good) == "unverified"
        twin = Signed(body, Proof.parse(proof)._replace(signature=_other_form(proof[5]))).encode()
        assert twin != good
        assert await code(judge, twin) == "unverified"


def _other_form(signature: bytes) -> bytes:
    """Of an ECDSA signature on P-256: r and n - s verify as well."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    return signature[:32] + (order - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


async def test_who_was_revoked_asks_for_nothing_more(ruled):
    async with ruled.open() as hub, hub.agent("LEAD"):
        judge = petitioning_of(hub)
        request = await signed_by(hub, "LEAD", verb=Verb.RELOAD, arguments=())
        await admin.ask(ruled.state.admin_socket, "revoke", name="LEAD", reason="compromised")
        assert await code(judge, request) == "unverified"


async def test_one_agent_has_its_share_and_forgeries_do_not_use_it_up(ruled):
    async with ruled.open() as hub, hub.agent("LEAD"), hub.agent("PAINTER"):
        judge = petitioning_of(hub)
        ask = {"verb": Verb.REMOVE, "arguments": ("CARPENTER",)}
        for _ in range(40):
            assert await code(judge, await signed_by(hub, "PAINTER", agent="LEAD", **ask)) == "unverified"
        said = [await code(judge, await signed_by(hub, "LEAD", **ask)) for _ in range(31)]
        assert said == ["done"] * 30 + ["busy"]


async def test_everybody_may_have_a_tls_certificate_of_their_own_and_a_few_an_hour(ruled):
    spki = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    async with ruled.open() as hub, hub.agent("PAINTER"), hub.agent("LEAD"):
        judge, running = petitioning_of(hub), hub._open_agent.__self__
        request = await signed_by(hub, "PAINTER", verb=Verb.TLS, arguments=(spki,))
        said = Answer.parse(await judge.answer(request))
        root = running.authority.root
        found = certificates.read(said.certificate, root=root, domain=running.authority.domain, profile=Profile.TLS)
        assert (said.code, found.name, found.spki) == ("done", "PAINTER", spki)
        assert await code(judge, await signed_by(hub, "PAINTER", agent="LEAD", verb=Verb.TLS, arguments=(spki,))) == "unverified"
        assert await code(judge, await signed_by(hub, "PAINTER", verb=Verb.TLS, arguments=(b"no key",))) != "done"
        codes = [await code(judge, await signed_by(hub, "PAINTER", verb=Verb.TLS, arguments=(spki,))) for _ in range(5)]
        assert codes == ["done"] * 4 + ["busy"], "six an hour, and the one for no key was one of them"
        assert await code(judge, await signed_by(hub, "LEAD", verb=Verb.REMOVE, arguments=("CARPENTER",))) == "done"


@pytest.mark.parametrize("field", [b"", b"x"])
def test_a_certificate_comes_with_nothing_but_done(field):
    id_ = bytes(16)
    with pytest.raises(bus.RemoteProtocolError):
        Answer.parse(pack((1, id_, "done" if not field else "busy", 7, field)))
    assert Answer.parse(Answer(id_, "done", 7, b"x").encode()).certificate == b"x"
    assert Answer.parse(Answer(id_, "busy", 7).encode()) == Answer(id_, "busy", 7)


@pytest.mark.parametrize(
    "request_",
    {
        "nothing": b"",
        "no array": b"\x01",
        "too long": bytes(5_000),
        "deep": b"\x91" * 4_000,
        "no proof": pack((b"x", [])),
    }.values(),
    ids=lambda data: str(len(data)),
)
async def test_what_is_no_request_is_malformed(request_, ruled):
    async with ruled.open() as hub, hub.agent("LEAD"):
        assert await code(petitioning_of(hub), request_) == "malformed"


async def test_a_host_that_floods_is_refused_and_the_next_is_served(ruled):
    async with ruled.open() as hub, hub.agent("LEAD") as lead, ruled.connect(hub.url, agent="PAINTER") as painter:
        host = painter._host
        for number in range(500):
            host.send(encode(Frame.AUTHORITY, b"%d" % number))
        host.send(encode(Frame.AUTHORITY, bytes(100_000)))
        await lead.authority.shut_out("CARPENTER")
        with anyio.fail_after(20):
            while (found := (await hub.statistics())["broker"]["petitions"]).get("malformed", 0) < 1:
                await anyio.lowlevel.checkpoint()
        assert found["busy"] > 0
        assert found["waiting"] <= 1


async def test_a_broker_that_says_done_is_not_believed(ruled):
    async with ruled.open() as hub, hub.agent("LEAD") as lead, hub.agent("PAINTER"):
        petitions = hub._open_agent.__self__.broker._broker.petitions

        async def lie() -> None:
            async with aclosing(petitions.taken()) as taken:
                task_status.set()
                number, request = await anext(taken)
                petitions.answer(number, Answer(petition_id(request), "done", 0).encode())

        task_status = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(lie)
            await task_status.wait()
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(bus.VerificationError) as caught:
                await lead.authority.revoke("PAINTER")
        assert caught.value.reason == "untrusted"
