"""How others come in: over TLS with certificates for a day, by whom the authority knows, until it does not any more."""

from __future__ import annotations

import os
import socket

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hub_authority import opened

import bus
from bus.errors import ConnectError
from bus.hub import admin
from bus.hub.tls_papers import Hosts, TlsPapers
from bus.identity.anchor import read_anchor
from bus.identity.public_trust import read_root
from bus.protocol.frames import Frame, encode
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import ManualClock
from bus.transport import lobby
from bus.transport.address import TlsAddress
from bus.transport.dialing import dial
from bus.transport.framing import LENGTH
from bus.transport.tls import Tls, load_tls
from bus.trust.revocations import Reason

pytestmark = pytest.mark.anyio
ANY_PORT = "tls://127.0.0.1:0"


async def test_an_agent_comes_over_tls(home):
    async with (
        home.open(listen=[ANY_PORT]) as hub,
        hub.agent("LEAD") as lead,
        home.connect(hub.url, agent="PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        assert hub.url.startswith("tls://127.0.0.1:")
        assert not hub.url.endswith(":0")
        await lead.publish("tasks.paint", b"the door")
        assert (await anext(tasks)).body == b"the door"


async def test_who_says_nothing_is_half_open_until_it_has_to_go(home, monkeypatch):
    monkeypatch.setattr(lobby, "MOST", 1)
    async with home.open() as hub:
        first, second = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)
        with first, second:
            for one, handshakes in ((first, {}), (second, {"busy": 1})):
                one.connect(str(home.state.bus_socket))
                with anyio.fail_after(10):
                    while (await hub.statistics())["broker"]["handshakes"] != handshakes or not await half_open(hub):
                        await anyio.lowlevel.checkpoint()
                assert await half_open(hub) == 1
            await anyio.wait_readable(first)
            word = encode(Frame.REFUSE, "busy", b"")
            assert first.recv(100) == LENGTH.pack(len(word)) + word


async def half_open(hub) -> int:
    return (await hub.statistics())["broker"]["links_half_open"]


async def test_keys_and_certificates_are_files_of_ours_that_are_used_again(home):
    def seen() -> dict[str, tuple[int, bytes]]:
        folders = [home.state.tls, home.state.broker / "tls"]
        return {path.name: (path.stat().st_mode & 0o777, path.read_bytes()) for folder in folders for path in folder.iterdir()}

    found = []
    for _ in range(2):
        async with home.open(listen=[ANY_PORT]) as hub, home.connect(hub.url, agent="PAINTER"):
            found.append(await to_thread.run_sync(seen))
    assert found[0] == found[1]
    assert {name: mode for name, (mode, _) in found[0].items()} == dict.fromkeys(
        ("BROKER.key", "BROKER.pem", "PAINTER.key", "PAINTER.pem"), 0o600
    )


async def test_a_hub_that_listens_at_another_address_shows_another_certificate(home):
    async with home.open(listen=["tls://localhost:0"]) as hub, home.connect(hub.url, agent="PAINTER"):
        pass
    async with home.open(listen=[ANY_PORT]) as hub, home.connect(hub.url, agent="PAINTER"):
        pass


async def test_who_was_revoked_is_not_let_in_and_gets_no_papers_again(home):
    async with home.open(listen=[ANY_PORT]) as hub:
        async with home.connect(hub.url, agent="PAINTER"):
            pass
        shown = home.state.tls / "PAINTER"
        root = (await to_thread.run_sync(read_root, home.state.trust / "public")).der
        tls = await to_thread.run_sync(
            lambda: load_tls(shown.with_suffix(".pem"), shown.with_suffix(".key"), roots=root, is_client=True)
        )
        assert await is_let_in(hub, tls)
        await admin.ask(home.state.admin_socket, "revoke", name="PAINTER", reason="compromised")
        with anyio.fail_after(20):
            while await is_let_in(hub, tls):
                pass  # the doors are told in the next step, and read their files in a thread
        with pytest.raises(bus.RevokedError) as caught:
            async with home.connect(hub.url, agent="PAINTER", wait=1_000):
                pass
        assert caught.value.agent == "PAINTER"


async def test_a_broker_that_runs_shows_a_new_certificate_when_one_is_due_and_cuts_nobody_off(home):
    """Due is what is not good any more; a certificate that is gone is as due as one that ends soon."""
    async with (
        home.open(listen=[ANY_PORT]) as hub,
        hub.agent("LEAD") as lead,
        home.connect(hub.url, agent="PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        tls = await shown_by_painter(home)
        before = await leaf_of(hub, tls)
        assert await leaf_of(hub, tls) == before
        await to_thread.run_sync((home.state.broker / "tls" / "BROKER.pem").unlink)
        await admin.ask(home.state.admin_socket, "end_sessions", name="CARPENTER")
        with anyio.fail_after(20):
            while await leaf_of(hub, tls) == before:
                pass  # the doors are told in the next step, and make it in a thread
        for number in range(3):
            await lead.publish("tasks.paint", number)
        assert [(await anext(tasks)).body for _ in range(3)] == [0, 1, 2]


async def shown_by_painter(home) -> Tls:
    shown = home.state.tls / "PAINTER"
    root = (await to_thread.run_sync(read_root, home.state.trust / "public")).der
    return await to_thread.run_sync(
        lambda: load_tls(shown.with_suffix(".pem"), shown.with_suffix(".key"), roots=root, is_client=True)
    )


async def leaf_of(hub: bus.Hub, tls: Tls) -> bytes:
    """What the broker shows to who comes now."""
    link = await dial(hub.url, tls=tls)
    leaf = link.peer.server_leaf
    link.close()
    return leaf


async def is_let_in(hub: bus.Hub, tls: Tls) -> bool:
    """Whether TLS lets this link through to the broker."""
    before, over = (await hub.statistics())["broker"]["links"], anyio.Event()
    link = await dial(hub.url, tls=tls)
    link.start(lambda _: None, lambda _: over.set(), lambda: None)
    link.send(b"nonsense, which ends it")
    await over.wait()
    after: int = (await hub.statistics())["broker"]["links"]
    return after > before


@pytest.mark.parametrize("listen_at", [[], ["tls://127.0.0.1:0"]], ids=["unix", "tls"])
async def test_who_is_revoked_while_it_is_there_is_cut_off(home, listen_at):
    async with home.open(listen=listen_at) as hub, hub.agent("LEAD") as lead:
        async with anyio.create_task_group() as tasks:
            listens = anyio.Event()

            async def listen() -> None:
                async with home.connect(hub.url, agent="PAINTER") as painter, painter.subscribe("tasks.>") as found:
                    listens.set()
                    await anext(found)

            async def hear() -> None:
                with pytest.raises(bus.RevokedError):
                    await listen()

            tasks.start_soon(hear)
            await listens.wait()
            await admin.ask(home.state.admin_socket, "revoke", name="PAINTER", reason="compromised")
        await lead.publish("tasks.paint", b"without PAINTER")


async def test_what_nobody_knows_how_to_revoke_is_refused(home):
    async with home.open():
        for verb in ({"name": "PAINTER", "reason": "whim"}, {"name": "PAINTER", "reason": "retired", "profile": "dog"}):
            with pytest.raises(bus.NotPermittedError):
                await admin.ask(home.state.admin_socket, "revoke", **verb)
        with pytest.raises(bus.AttestationError):
            await admin.ask(home.state.admin_socket, "revoke", name="PAINTER", reason="retired")


@pytest.mark.parametrize("url", ["tls://nowhere.invalid:1", "unix:///dev/null/bus.sock", "http://localhost"])
async def test_an_address_that_cannot_be_had_is_an_error(home, url):
    with pytest.raises(ConnectError):
        async with home.open(listen=[url]):
            pass
    async with home.open():
        pass


def test_a_server_that_listens_everywhere_is_called_what_this_machine_is_called():
    hosts = Hosts.of(TlsAddress("0.0.0.0", 1), TlsAddress("::", 1), TlsAddress("Bus.Example", 1), TlsAddress("10.0.0.7", 1))
    assert {"localhost", "bus.example"} <= set(hosts.dns)
    assert [str(ip) for ip in hosts.ips] == ["127.0.0.1", "::1", "10.0.0.7"]


async def test_a_certificate_that_was_revoked_or_ends_soon_or_lost_its_key_is_replaced(state):
    clock = ManualClock()
    async with opened(state, clock) as authority:
        anchor = await to_thread.run_sync(read_anchor, state.trust / "public")
        papers = TlsPapers(state.tls, "PAINTER", anchor, state.trust / "public")
        key = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

        def enroll() -> None:
            authority.issue_identity("PAINTER", key, IDENTITY_SUITES["ecc256/sha256"], "software", 0, b"")

        async def issue(spki: bytes) -> bytes:
            return await to_thread.run_sync(authority.issue_tls, "PAINTER", spki)

        async def shown() -> bytes:
            found = await papers.get(issue, is_client=True, now_ms=clock.now_ms())
            assert found is not None
            return found.leaf

        assert await papers.get(None, is_client=True, now_ms=clock.now_ms()) is None
        with pytest.raises(bus.AttestationError):
            await shown()
        await to_thread.run_sync(enroll)
        leaves = [await shown()]
        assert await shown() == leaves[0]
        await to_thread.run_sync(authority.revoke, "PAINTER", Reason.RETIRED)
        await to_thread.run_sync(enroll)
        leaves.append(await shown())
        clock.advance(17 * 3_600)
        leaves.append(await shown())
        before = await to_thread.run_sync((state.tls / "PAINTER.key").read_bytes)
        await to_thread.run_sync((state.tls / "PAINTER.key").unlink)
        leaves.append(await shown())
        await to_thread.run_sync(os.truncate, state.tls / "PAINTER.pem", 1 << 40)  # more than there is memory
        leaves.append(await shown())
        await to_thread.run_sync((state.tls / "PAINTER.key").write_bytes, before)  # as who is killed between the two leaves them
        leaves.append(await shown())
        assert len(set(leaves)) == 6
