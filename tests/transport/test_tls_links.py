"""TLS: 1.3 or nothing, a certificate on both sides or nothing, and both certificates known to both ends."""

from __future__ import annotations

import gc
import socket
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest
from pairs import DAY, NOW, Papers, Root, gone, over_sockets

from bus.errors import ConnectError, ConnectionLostError
from bus.testing.link_ear import Ear, turns
from bus.transport import listening_links
from bus.transport.dialing import dial
from bus.transport.link import Link
from bus.transport.listening_links import listening
from bus.transport.tls import HANDSHAKE_SECONDS, Tls, load_tls
from bus.transport.unwelcome import Unwelcome

pytestmark = pytest.mark.anyio
ANYWHERE = "tls://127.0.0.1:0"
REVOKED = 4_711


@asynccontextmanager
async def echoing(papers: Papers, *, tls: Tls | None = None, url: str = ANYWHERE):
    """A door; what comes through it is sent back."""
    links: list[Link] = []

    def on_link(link: Link) -> None:
        ear = Ear(link)
        ear.does = lambda: link.send(ear.frames[-1])
        ear.start()
        links.append(link)

    async with listening(url, on_link, tls=tls or papers.server) as door:
        door.came = links
        yield door
        for link in links:
            link.close(flush=False)
        await gone(door)


async def echo(url: str, tls: Tls) -> None:
    """Raises what ends the link before it has answered."""
    ear = Ear(await dial(url, tls=tls))
    ear.start()
    ear.send(b"anybody?")
    with anyio.fail_after(10):
        await ear.until(lambda: ear.frames or ear.lost)
        ear.close()
        await ear.until(lambda: ear.lost)
    if not ear.frames:
        raise ear.lost[0]


async def test_both_ends_know_both_certificates(papers):
    async with over_sockets(ANYWHERE, papers) as (near, far):
        for link in (near, far):
            assert (link.peer.kind, link.peer.uid, link.peer.pid) == ("tls", None, None)
            assert (link.peer.server_leaf, link.peer.client_leaf) == (papers.server.leaf, papers.client.leaf)
        assert near.peer.address != far.peer.address


async def test_a_name_is_as_good_as_an_address(papers):
    async with echoing(papers) as door:
        await echo(door.url.replace("127.0.0.1", "localhost"), papers.client)


# ---- who is refused --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def servers(papers) -> dict[str, Tls]:
    folder, root, stranger = papers.folder, papers.root, Root("stranger")
    crl = root.revoke(folder, REVOKED)
    return {
        "strict": load_tls(*root.issue(folder, "strict"), roots=root.der, crl=crl, is_client=False),
        "renewed": load_tls(*root.issue(folder, "renewed"), roots=root.der, is_client=False),
        "foreign": load_tls(*stranger.issue(folder, "foreign"), roots=root.der, is_client=False),
    }


@pytest.fixture(scope="module")
def refused(papers) -> dict[str, Tls]:
    folder, root, stranger = papers.folder, papers.root, Root("stranger")
    nameless = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nameless.load_verify_locations(cadata=root.der)
    nameless.minimum_version = ssl.TLSVersion.TLSv1_3
    return {
        "of another root": load_tls(*stranger.issue(folder, "foreign-client"), roots=root.der, is_client=True),
        "expired": load_tls(*root.issue(folder, "expired", ends=NOW - DAY), roots=root.der, is_client=True),
        "revoked": load_tls(*root.issue(folder, "revoked", serial=REVOKED), roots=root.der, is_client=True),
        "none": Tls(nameless, b""),
    }


@pytest.mark.parametrize("case", ["of another root", "expired", "revoked", "none"])
async def test_a_client_without_a_good_certificate_is_refused(papers, servers, refused, case):
    async with echoing(papers, tls=servers["strict"]) as door:
        with pytest.raises((ConnectError, ConnectionLostError)) as caught:
            await echo(door.url, refused[case])
        assert isinstance(caught.value.__cause__, ssl.SSLError), "the alert says why"
        assert not door.came
        while not door.failed:
            await anyio.lowlevel.checkpoint()
        await echo(door.url, papers.client)
        assert (door.failed, door.turned_away) == (1, 0)


async def test_a_server_of_another_root_or_name_is_a_connect_error(papers, servers):
    async with echoing(papers, tls=servers["foreign"]) as door:
        with pytest.raises(ConnectError):
            await dial(door.url, tls=papers.client)
    async with echoing(papers, url="tls://0.0.0.0:0") as door:
        with pytest.raises(ConnectError) as caught:
            await dial(door.url.replace("0.0.0.0", "127.0.0.2"), tls=papers.client)
        assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
        await echo(door.url.replace("0.0.0.0", "127.0.0.1"), papers.client)


async def test_older_versions_are_not_spoken(papers):
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    old.load_verify_locations(cadata=papers.root.der)
    async with echoing(papers) as door:
        port = int(door.url.rpartition(":")[2])

        def call() -> None:
            with socket.create_connection(("127.0.0.1", port)) as raw, pytest.raises(ssl.SSLError):
                old.wrap_socket(raw, server_hostname="127.0.0.1")

        await anyio.to_thread.run_sync(call)
        while not door.failed:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "case", ["no certificate", "of another root", "expired", "revoked", "TLS 1.2", "TLS 1.2 with a certificate", "good"]
)
async def test_openssl_itself_comes_in_with_a_good_certificate_and_tls_1_3_alone(papers, servers, case, tmp_path):
    root, stranger = papers.root, Root("stranger")
    issued = {
        "of another root": lambda: stranger.issue(tmp_path, "c"),
        "expired": lambda: root.issue(tmp_path, "c", ends=NOW - DAY),
        "revoked": lambda: root.issue(tmp_path, "c", serial=REVOKED),
        "TLS 1.2 with a certificate": lambda: root.issue(tmp_path, "c"),
        "good": lambda: root.issue(tmp_path, "c"),
    }
    words = [word for path, word in zip(issued.get(case, tuple)(), ("-cert", "-key"), strict=False) for word in (word, str(path))]
    words += ["-tls1_2"] if "1.2" in case else ["-tls1_3"]
    words += ["-sess_out", str(tmp_path / "session")]
    async with echoing(papers, tls=servers["strict"]) as door:
        call = ["openssl", "s_client", "-connect", door.url.removeprefix("tls://"), "-quiet", "-no_ign_eof", *words]
        with anyio.fail_after(20):
            await anyio.run_process(call, input=b"\0\0\0\3abc", check=False)
            while door.links or not (door.failed or door.came):
                await anyio.lowlevel.checkpoint()
        assert (len(door.came), door.failed) == ((1, 0) if case == "good" else (0, 1))
        assert not (tmp_path / "session").exists(), "there is nothing to resume"
        await echo(door.url, papers.client)


async def test_a_certificate_is_changed_while_the_door_is_open(papers, servers):
    async with echoing(papers) as door:
        first = await dial(door.url, tls=papers.client)
        door.tls = servers["renewed"]
        second = await dial(door.url, tls=papers.client)
        assert first.peer.server_leaf == papers.server.leaf
        assert second.peer.server_leaf == servers["renewed"].leaf
        for link in (first, second):
            link.close(flush=False)


# ---- who says nothing, or nonsense -----------------------------------------------------------------------------------------------


async def test_who_says_nothing_is_not_waited_for(papers, monkeypatch):
    monkeypatch.setattr(listening_links, "HANDSHAKE_SECONDS", 0.05)
    async with echoing(papers) as door:
        port = int(door.url.rpartition(":")[2])
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        with anyio.fail_after(10):
            while door.failed < 20:
                await anyio.lowlevel.checkpoint()
        for stranger in silent:
            assert stranger.recv(1) == b""
            stranger.close()
        assert door.links == 0


@pytest.mark.parametrize("nonsense", [b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(100), b"\0"])
async def test_nonsense_is_no_handshake(papers, nonsense, caplog):
    async with echoing(papers) as door:
        port = int(door.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(nonsense)
            stranger.shutdown(socket.SHUT_WR)
            with anyio.fail_after(10):
                while not door.failed:
                    await anyio.lowlevel.checkpoint()
        await echo(door.url, papers.client)
    (named,) = [record for record in caplog.records if record.name.startswith("bus")]
    assert "127.0.0.1" in named.getMessage()


async def test_a_crowd_comes_one_by_one_and_others_have_their_turn_in_between(papers):
    """Whose handshake fails costs half a millisecond: two hundred in one turn of the loop would hold up everybody else."""
    async with echoing(papers) as door:
        port = int(door.url.rpartition(":")[2])
        crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        seen = [door.links]
        with anyio.fail_after(10):
            while door.links < 20:
                await anyio.lowlevel.checkpoint()
                seen.append(door.links)
        assert max(later - earlier for earlier, later in pairwise(seen)) <= 2
        for stranger in crowd:
            stranger.close()


async def test_strangers_are_named_once_a_minute(papers, caplog):
    async with echoing(papers) as door:
        port = int(door.url.rpartition(":")[2])
        for number in range(1, 11):
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"nonsense")
                stranger.shutdown(socket.SHUT_WR)
                with anyio.fail_after(10):
                    while door.failed < number:
                        await anyio.lowlevel.checkpoint()
    assert len([record for record in caplog.records if record.name.startswith("bus")]) == 1


def test_a_stranger_who_goes_on_is_named_again_with_how_often(caplog):
    unwelcome = Unwelcome()
    for second in (0, 1, 2, 59, 60, 61):
        unwelcome.note("tls://x:1", "10.0.0.1", "no handshake", now=second)
    unwelcome.note("tls://x:1", "10.0.0.2", "no handshake", now=3)
    first, again, other = (record.getMessage() for record in caplog.records)
    assert "3 times" in again
    assert "times" not in first + other


async def test_a_door_that_closes_does_not_wait_for_those_who_shake_hands(papers):
    async with listening(ANYWHERE, Ear, tls=papers.server) as door:
        slow = socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2])))
        slow.sendall(b"\x16\x03")
        await turns()
        assert door.links == 1
        begun = time.monotonic()
    assert time.monotonic() - begun < HANDSHAKE_SECONDS
    assert slow.recv(100) == b""
    slow.close()


async def test_a_handshake_that_failed_is_not_kept_in_memory(papers):
    """Whoever waits for the garbage collector waits long, and strangers are many."""

    def waiting() -> int:
        return sum(type(thing).__name__ in ("AsyncioTlsLink", "TLSStream") for thing in gc.get_objects())

    async with echoing(papers) as door:
        gc.collect()
        before = waiting()
        gc.disable()
        try:
            for count in range(1, 11):
                with socket.create_connection(("127.0.0.1", int(door.url.rpartition(":")[2]))) as stranger:
                    stranger.sendall(b"nonsense")
                    while door.failed < count:
                        await anyio.lowlevel.checkpoint()
            await turns()
            assert waiting() <= before + 1
        finally:
            gc.enable()


async def test_a_listener_that_speaks_no_tls_is_a_connect_error(papers):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"tls://127.0.0.1:{listener.getsockname()[1]}"

        def answer() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(10)
                accepted.sendall(b"SSH-2.0-hello\r\n")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, answer)
            with pytest.raises(ConnectError):
                await dial(url, tls=papers.client)
    with pytest.raises(ConnectError):
        await dial(url, tls=papers.client)
    with pytest.raises(ConnectError):
        await dial("tls://no-such-host.invalid:1", tls=papers.client)


async def test_no_more_handshakes_than_there_is_memory_for(papers, monkeypatch):
    monkeypatch.setattr(listening_links, "MOST_HANDSHAKES", 2)
    async with echoing(papers) as door:
        port = int(door.url.rpartition(":")[2])
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
        for stranger in slow:
            stranger.sendall(b"\x16")
        await turns()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(echo, door.url, papers.client)
            await turns()
            assert not door.came
            slow[0].close()
        assert len(door.came) == 1
        slow[1].close()


# ---- misuse ----------------------------------------------------------------------------------------------------------------------


def test_less_than_tls_of_both_sides_is_a_mistake(papers):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(ValueError, match=r"1\.3"):
        Tls(context, b"")
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    with pytest.raises(ValueError, match="certificate"):
        Tls(context, b"")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    with pytest.raises(ValueError, match="check_hostname"):
        Tls(context, b"")
    assert "leaf" not in repr(replace(papers.client, leaf=b"leaf"))


async def test_an_end_that_does_not_fit_is_a_mistake(papers):
    for tls in (None, papers.server):
        with pytest.raises(ValueError, match="tls="):
            await dial("tls://127.0.0.1:1", tls=tls)
    for tls in (None, papers.client):
        with pytest.raises(ValueError, match="tls="):
            async with listening(ANYWHERE, lambda _: None, tls=tls):
                pass
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConnectError):
        async with listening(f"tls://127.0.0.1:{taken.getsockname()[1]}", lambda _: None, tls=papers.server):
            pass
