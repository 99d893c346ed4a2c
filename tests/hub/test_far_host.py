"""Agents on another machine: their keys are made there, their papers come by a command that reaches the hub; then it is TLS."""

from __future__ import annotations

import json
import shutil
import ssl
import sys
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

import bus
from bus.clock import SystemClock
from bus.hub import admin
from bus.hub.enrolling import Enrolling
from bus.hub.far_desk import answered, way_over
from bus.hub.far_host import FarHost
from bus.hub.state import open_state
from bus.hub.tpm_process import open_engine, stop_service
from bus.identity.anchor import encode_brokers, read_brokers
from bus.identity.public_trust import read_public
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.interface import SOFTWARE
from bus.trust.endorsement import key_hash
from bus.trust.petition import Answer, petition_id

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
TLS = "tls://127.0.0.1:0"
DESK = [sys.executable, "-c", "from bus.cli.main import main; main()", "host", "desk", "--state"]


def _made(home, made_swtpm, folder):
    shutil.copytree(made_swtpm, folder / "swtpm")
    for name, kind in (("swtpm-localca-rootca-cert.pem", "software"), ("issuercert.pem", "between")):
        place = home.state.trust / "chips" / kind
        place.mkdir(parents=True)
        shutil.copy(folder / "swtpm" / "ca" / name, place)
    folder.chmod(0o700)
    return open_state(folder)


@pytest.fixture
async def far(home, made_swtpm, tmp_path):
    """The other machine's state folder, with a software TPM whose maker the hub's operator believes."""
    state = await to_thread.run_sync(_made, home, made_swtpm, tmp_path / "far")
    yield state
    await stop_service(state)


@asynccontextmanager
async def reached(home, far):
    async with way_over([*DESK, str(home.folder)]) as way:
        yield FarHost(far, way, SystemClock())


def number_of(state) -> int:
    return read_public(state.trust / "public").statement.number


async def asked_of(command: str) -> None:
    async with way_over([command]) as way:
        with anyio.fail_after(20):
            await way.ask("papers")


async def joined(home, far, *names: str, tokens=None, tpm="swtpm"):
    async with reached(home, far) as here:
        policy = await here.take_trust()
        async with open_engine(far, tpm=tpm) as engine:
            return await here.join(engine, names, tokens or {}, environ={}, policy=policy)


async def token_for(home, name: str) -> bytes:
    return bytes.fromhex((await admin.ask(home.state.admin_socket, "let_in", token=name))["token"])


async def test_an_agent_of_another_machine_joins_by_a_token_and_is_heard_over_tls(home, far):
    async with home.open(listen=[TLS]) as hub, hub.agent("LEAD") as lead:
        token = await token_for(home, "PAINTER")
        [member] = await joined(home, far, "PAINTER", tokens={"PAINTER": token})
        assert (member.name, member.enrolled) == ("PAINTER", True)
        there = replace(home, state=far)
        for _ in range(2):  # and again, by what it went by last
            async with there.connect(hub.url, agent="PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
                await lead.publish("tasks.paint", b"the door")
                assert (await anext(tasks)).body == b"the door"
                said = await admin.ask(home.state.admin_socket, "end_sessions", name="CARPENTER")
                with anyio.fail_after(20):
                    while await to_thread.run_sync(number_of, far) < said["statement"]:
                        await anyio.lowlevel.checkpoint()
        [member] = await joined(home, far, "PAINTER")
        assert member.enrolled is False


async def test_while_it_is_connected_its_tls_certificate_is_renewed_over_the_link(home, far, monkeypatch):
    async with home.open(listen=[TLS]) as hub:
        await joined(home, far, "PAINTER", tokens={"PAINTER": await token_for(home, "PAINTER")})
        certificate, there = anyio.Path(far.tls / "PAINTER.pem"), replace(home, state=far)
        before = await certificate.read_bytes()
        async with there.connect(hub.url, agent="PAINTER"):
            await anyio.wait_all_tasks_blocked()
        assert await certificate.read_bytes() == before, "it lasts for most of a day"
        monkeypatch.setattr("bus.hub.tls_papers.RENEWED_BEFORE_MS", 25 * 3_600_000)  # as if that day were over soon
        async with there.connect(hub.url, agent="PAINTER"):
            with anyio.fail_after(20):
                while await certificate.read_bytes() == before:
                    await anyio.lowlevel.checkpoint()
        monkeypatch.undo()
        async with there.connect(hub.url, agent="PAINTER"):
            pass


async def test_what_a_broker_gives_in_place_of_a_certificate_is_not_kept(home, far, monkeypatch, caplog):
    async with home.open(listen=[TLS]) as hub:
        await joined(home, far, "PAINTER", tokens={"PAINTER": await token_for(home, "PAINTER")})
        shown, there = [anyio.Path(far.tls / name) for name in ("PAINTER.pem", "PAINTER.key")], replace(home, state=far)
        before = [await file.read_bytes() for file in shown]
        another = ssl.PEM_cert_to_DER_cert(before[0].decode())
        petitions = hub._open_agent.__self__.broker._broker.petitions
        monkeypatch.setattr("bus.hub.tls_papers.RENEWED_BEFORE_MS", 25 * 3_600_000)
        monkeypatch.setattr("bus.hub.connecting.TLS_SECONDS", 0.0)
        async with aclosing(petitions.taken()) as taken, there.connect(hub.url, agent="PAINTER"):
            for said in (another, b"no certificate", b""):
                number, request = await anext(taken)
                petitions.answer(number, Answer(petition_id(request), "done", 0, said).encode())
            await anext(taken)  # it asks again, so all of these were looked at
        assert [await file.read_bytes() for file in shown] == before
        assert caplog.text.count("was not renewed") >= 3


async def test_what_is_secret_stays_where_it_was_made(home, far):
    async with home.open():
        await joined(home, far, "PAINTER", tokens={"PAINTER": await token_for(home, "PAINTER")})

    def look() -> tuple[bool, bool]:
        return (far.trust / "private").exists(), (home.state.vault / "PAINTER.1.json").exists()

    assert await to_thread.run_sync(look) == (False, False)


async def test_a_chip_that_is_listed_needs_no_token(home, far):
    async with home.open():
        async with open_engine(far, tpm="swtpm") as engine:
            chip = key_hash((await engine.endorsement()).spki)
        await admin.ask(home.state.admin_socket, "let_in", ek=[chip.hex(), "PAINTER"])
        [member] = await joined(home, far, "PAINTER")
        assert member.enrolled


@pytest.mark.both_loops  # each has TLS of its own
async def test_who_was_revoked_joins_again_when_it_is_let_in_again(home, far):
    async with home.open(listen=[TLS]) as hub:
        await joined(home, far, "PAINTER", tokens={"PAINTER": await token_for(home, "PAINTER")})
        await admin.ask(home.state.admin_socket, "revoke", name="PAINTER", reason="compromised")
        for url in hub.urls:  # over TLS, which shows the certificate first, and over a Unix socket
            with pytest.raises(bus.RevokedError) as ended:
                async with replace(home, state=far).connect(url, agent="PAINTER"):
                    pass
            assert ended.value.agent == "PAINTER"
        with pytest.raises(bus.AttestationError) as caught:
            await joined(home, far, "PAINTER")
        assert (caught.value.reason, caught.value.agent) == ("not_listed", "PAINTER")
        [member] = await joined(home, far, "PAINTER", tokens={"PAINTER": await token_for(home, "PAINTER")})
        assert member.enrolled
        async with replace(home, state=far).connect(hub.url, agent="PAINTER"):
            pass


async def test_a_chip_that_is_not_believed_yet_joins_with_the_same_token_when_it_is(home, far):
    chips = home.state.trust / "chips"
    chips.rename(chips.with_name("not-yet"))
    async with home.open():
        tokens = {"PAINTER": await token_for(home, "PAINTER")}
        with pytest.raises(bus.AttestationError) as caught:
            await joined(home, far, "PAINTER", tokens=tokens)
        assert caught.value.reason == "ek_untrusted"
        chips.with_name("not-yet").rename(chips)
        [member] = await joined(home, far, "PAINTER", tokens=tokens)
        assert member.enrolled


async def test_nobody_from_afar_is_a_user_of_the_hubs_machine(home):
    """Such a one may enrol every name: whoever says over there that they are that user is not asked."""
    async with home.open() as hub:
        running = hub._open_agent.__self__

        async def exchange(message: bytes) -> bytes:
            line = json.dumps({"verb": "enroll_from_afar", "message": message.hex()})
            return bytes.fromhex(json.loads(await answered(home.state.admin_socket, line.encode()))["answer"])

        async def held(_: str) -> None:
            return None

        root, domain = running.authority.root, running.authority.domain
        afar = Enrolling(
            running.engine, running.policy, exchange=exchange, held=held, root=root, domain=domain, clock=running.clock
        )
        key = await running.engine.create("CARPENTER", IDENTITY_SUITES["ecc256/sha256"], origin=SOFTWARE)
        with pytest.raises(bus.AttestationError) as refused:
            async for _ in afar.enroll([key]):
                pass
        assert refused.value.reason == "uid_unknown"
        assert running.authority.holder("CARPENTER") is None


async def test_a_name_that_is_held_from_another_chip_is_taken(home, far):
    async with home.open() as hub:
        async with hub.agent("PAINTER"):
            pass
        tokens = {"PAINTER": await token_for(home, "PAINTER")}
        with pytest.raises(bus.AttestationError) as caught:
            await joined(home, far, "PAINTER", tokens=tokens)
        assert (caught.value.reason, caught.value.agent) == ("name_taken", "PAINTER")


async def test_nobody_is_let_in_under_a_name_that_policy_does_not_have(home):
    async with home.open():
        for words in ({"token": "STRANGER"}, {"ek": ["ab" * 32, "STRANGER"]}, {"uid": [1000, "STRANGER"]}):
            with pytest.raises(bus.NotPermittedError) as caught:
                await admin.ask(home.state.admin_socket, "let_in", **words)
            assert caught.value.agent == "STRANGER"
        said = await admin.ask(home.state.admin_socket, "let_in", remove="STRANGER", uid=[1000, "*"])
        assert said["token"] is None


async def test_keys_in_no_chip_are_enrolled_by_nobody_from_afar(home, far):
    async with home.open():
        tokens = {"PAINTER": await token_for(home, "PAINTER")}
        with pytest.raises(bus.AttestationError) as caught:
            await joined(home, far, "PAINTER", tokens=tokens, tpm="software")
        assert caught.value.reason == "uid_unknown"


async def test_a_chip_that_nobody_let_in_and_a_token_that_was_shown_are_refused(home, far):
    async with home.open():
        with pytest.raises(bus.AttestationError) as caught:
            await joined(home, far, "PAINTER")
        assert caught.value.reason == "not_listed"
        token = await token_for(home, "PAINTER")
        await joined(home, far, "PAINTER", tokens={"PAINTER": token})
        with pytest.raises(bus.AttestationError) as caught:
            await joined(home, far, "CARPENTER", tokens={"CARPENTER": token})
        assert caught.value.reason == "token_used"


async def test_another_root_is_not_taken_for_the_one_that_is_pinned(home, far):
    async with home.open():
        async with reached(home, far) as here:
            await here.take_trust()
            root = far.trust / "public" / "root.pem"
            text = await to_thread.run_sync(root.read_text)
            await to_thread.run_sync(root.write_text, text.replace("A", "B", 1))
            with pytest.raises(bus.VaultError) as caught:
                await here.take_trust()
            assert caught.value.code == "wrong_domain"


class Telling:
    """Whoever shows these papers. Implements `Asks`."""

    def __init__(self, papers: dict[str, str]) -> None:
        self._papers = papers

    async def ask(self, verb: str, **arguments):
        assert (verb, arguments) == ("papers", {})
        return self._papers


async def test_a_machine_is_not_led_back_to_papers_from_before(home, tmp_path, runtime):
    other = await to_thread.run_sync(open_state, tmp_path / "other")
    async with home.open():
        old = await admin.ask(home.state.admin_socket, "papers")
        await admin.ask(home.state.admin_socket, "revoke", name="BROKER", reason="rotated", profile="broker")
        new = await admin.ask(home.state.admin_socket, "papers")
    await FarHost(other, Telling(new), SystemClock()).take_trust()
    newest = await to_thread.run_sync(number_of, other)
    with pytest.raises(bus.VerificationError) as refused:
        await FarHost(other, Telling(old), SystemClock()).take_trust()
    assert (refused.value.reason, await to_thread.run_sync(number_of, other)) == ("trust_rollback", newest)


async def test_a_name_of_a_broker_that_is_pinned_stays_whatever_is_shown_later(home, tmp_path, runtime):
    other = await to_thread.run_sync(open_state, tmp_path / "other")
    async with home.open():
        papers = await admin.ask(home.state.admin_socket, "papers")
    for names in (["BROKER"], ["WEST"], ["BROKER"]):
        told = papers | {"brokers": encode_brokers(names).hex()}
        await FarHost(other, Telling(told), SystemClock()).take_trust()
    assert await to_thread.run_sync(read_brokers, other.trust / "public") == {"BROKER", "WEST"}


async def test_a_folder_with_an_authority_is_no_other_machine(home):
    async with home.open(), reached(home, home.state) as here:
        with pytest.raises(bus.VaultError) as caught:
            await here.take_trust()
        assert caught.value.code == "wrong_domain"


@pytest.mark.parametrize(
    "line",
    [b"", b"{", b"[]", b'{"verb": "revoke", "name": "LEAD", "reason": "retired"}', b'{"verb": "let_in", "token": "LEAD"}',
     b'{"verb": "papers", "socket": "/elsewhere"}', b'{"verb": "statistics"}', b"{" * 100_000],
    ids=lambda line: line[:20].decode(),
)  # fmt: skip
async def test_another_machine_may_ask_for_three_things_and_for_nothing_else(line, home):
    said = json.loads(await answered(home.state.admin_socket, line))
    assert said["error"]["reason"] == "malformed"


async def test_without_a_hub_or_a_command_it_says_so(home, far):
    with pytest.raises(bus.ConnectError):
        async with reached(home, far) as here:
            await here.take_trust()
    with pytest.raises(bus.ConnectError):
        async with way_over(["/nowhere/at/all"]):
            pass
    with pytest.raises(bus.ConnectionLostError):
        await asked_of("true")
