"""A hub that keeps what is durable on NATS: in this process, in one of its own, on trio; and what it says where that cannot be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from homes import Home, until

from bus.backbone.nats import connection, jetstream
from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.streams import HAVE_TTL
from bus.bench.peers.nats_synced import version_of
from bus.clock import SystemClock
from bus.errors import BackboneError, ConnectError
from bus.hub import admin, backbones, broker_apart
from bus.hub.backbones import NatsServers
from bus.hub.broker_apart import BrokerApart
from bus.hub.open import supervise

sys.path.insert(0, str(Path(__file__).parent.parent / "backbone"))

from nats_servers import NatsServer, free_port, nats_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]


@pytest.fixture
def server():
    with nats_server() as one:
        yield one


async def status_of(home: Home) -> dict:
    return await admin.ask(home.state.admin_socket, "status")


async def carries(hub, count: int) -> None:
    """What was stored while its reader was away is there when it comes, once."""
    async with hub.agent("PAINTER") as painter, painter.subscribe("work.>", durable="inbox"):
        pass
    async with hub.agent("LEAD") as lead:
        for number in range(count):
            await lead.publish("work.paint", number)
    async with hub.agent("PAINTER") as painter, painter.subscribe("work.>", durable="inbox") as work:
        with anyio.fail_after(30):
            for number in range(count):
                message = await anext(work)
                assert message.body == number
                await message.ack(confirmed=True)


async def test_what_is_durable_is_on_nats_wherever_the_broker_runs(home, server, anyio_backend_name):
    async with home.open(backbone=server.url) as hub:
        await carries(hub, 3)
        said = await status_of(home)
        assert (said["backbone"], said["backbone_connected"]) == ([server.url], True)
        version = await to_thread.run_sync(version_of, server.program)
        assert said["backbone_version"].split(".")[:2] == [*map(str, version)]
        assert said["backbone_features"] == (["message_ttl"] if version >= HAVE_TTL else [])
        assert said["numbers"]["broker"]["backbone"]["appended"] == 3
        assert ("starts" in said["numbers"]["broker"]) is (anyio_backend_name == "trio")


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_broker_that_can_get_at_nothing_else_reaches_nats_by_its_name(home, server):
    url = server.url.replace("127.0.0.1", "localhost")
    async with supervise(policy=home.policy, state=home.folder, tpm="software", backbone=url) as hub:
        await carries(hub, 2)
        log = await to_thread.run_sync((home.folder / "broker.log").read_text)
        said = await status_of(home)
        assert (said["backbone"], said["backbone_connected"]) == ([url], True), log


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_broker_that_dies_while_nats_is_away_comes_back_with_it(home, server, monkeypatch):
    begun: list[int] = []
    begin = BrokerApart._begin

    async def seen(self, process) -> None:
        begun.append(process.pid)
        await begin(self, process)

    monkeypatch.setattr(BrokerApart, "_begin", seen)
    async with supervise(policy=home.policy, state=home.folder, tpm="software", backbone=server.url) as hub:
        await carries(hub, 1)
        await to_thread.run_sync(server.kill)
        os.kill(begun[0], signal.SIGKILL)
        await until(lambda: len(begun) > 1)
        await to_thread.run_sync(server.begin)
        with anyio.fail_after(60):
            await carries(hub, 1)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_status_says_that_nats_is_away_and_that_it_is_back(home, server):
    async with home.open(backbone=server.url):
        for is_there, change in ((False, server.kill), (True, server.begin)):
            await to_thread.run_sync(change)
            with anyio.fail_after(30):
                while (await status_of(home))["backbone_connected"] is not is_there:
                    await anyio.lowlevel.checkpoint()


async def test_a_journal_with_messages_is_not_left_behind_unsaid(home, server):
    async with home.open() as hub, hub.agent("LEAD") as lead:
        await lead.publish("work.paint", b"a door")
        assert (await status_of(home))["backbone"] == "journal"
    with pytest.raises(BackboneError) as refused:
        async with home.open(backbone=server.url):
            pass
    assert (refused.value.code, refused.value.path) == ("journal_holds", str(home.state.journal))
    await to_thread.run_sync(lambda: home.state.journal.rename(home.folder / "journal.before"))
    async with home.open(backbone=server.url) as hub:
        await carries(hub, 1)


def silent() -> socket.socket:
    """A server that says nothing to anybody."""
    one = socket.socket()
    one.bind(("127.0.0.1", 0))
    one.listen()
    return one


def said_by(module, caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if (record.name, record.levelname) == (module.__name__, "WARNING")]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_waits_for_nats_is_told_so_before_it_fails(home, monkeypatch, caplog):
    monkeypatch.setattr(connection, "SAID_SECONDS", 0.1)
    monkeypatch.setattr(backbones, "WAIT_SECONDS", 0.5)
    with silent() as server:
        with pytest.raises(BackboneError):
            async with home.open(backbone=f"nats://broker:secret@127.0.0.1:{server.getsockname()[1]}"):
                pass
    [said] = said_by(connection, caplog)
    assert "secret" not in said


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_broker_in_a_process_of_its_own_tells_whoever_started_it_what_it_waits_for(home, monkeypatch, caplog):
    monkeypatch.setattr(broker_apart, "STOP_SECONDS", 0.1)

    async def run(url: str) -> None:
        async with supervise(policy=home.policy, state=home.folder, tpm="software", backbone=url):
            pass

    with silent() as server:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run, f"nats://broker:secret@127.0.0.1:{server.getsockname()[1]}")
            await until(lambda: said_by(broker_apart, caplog))
            tasks.cancel_scope.cancel()
    assert "secret" not in said_by(broker_apart, caplog)[0]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_waits_for_jetstream_is_told_so(tmp_path, monkeypatch, caplog):
    port, config = free_port(), tmp_path / "plain.conf"
    await anyio.Path(config).write_text(f'listen: "127.0.0.1:{port}"\n')
    one = NatsServer(tmp_path, "plain", config=config, port=port)
    monkeypatch.setattr(jetstream, "SAID_SECONDS", 0.1)
    monkeypatch.setattr(jetstream, "PATIENCE_SECONDS", 0.5)
    try:
        await to_thread.run_sync(one.begin)
        with pytest.raises(BackboneError) as refused:
            await open_nats([one.url], SystemClock())
        assert refused.value.code == "disk"
        assert [record.name for record in caplog.records if record.levelname == "WARNING"] == [jetstream.__name__]
    finally:
        await to_thread.run_sync(one.kill)


async def test_servers_that_are_not_there_are_named_without_their_password(home, monkeypatch):
    monkeypatch.setattr(backbones, "WAIT_SECONDS", 0.3)
    with pytest.raises(BackboneError) as refused:
        async with home.open(backbone=f"nats://broker:secret@127.0.0.1:{free_port()}"):
            pass
    assert refused.value.code == "disk"
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ["", "h1:4222", "http://h1", "nats://", "nats://h:0", "nats://h/x", "nats://h:x", "nats://h," * 17]
)
def test_what_names_no_servers_is_refused(text):
    with pytest.raises(ConnectError):
        NatsServers.parse(text)


@pytest.mark.parametrize(
    "url", ["http://broker:secret@h", "nats://broker:secret@h/path", "nats://broker:secret@", "broker:secret@h"]
)
def test_what_is_no_server_is_named_without_its_password(url):
    with pytest.raises(ConnectError) as refused:
        NatsServers.parse(f"nats://good,{url}")
    assert "secret" not in str(refused.value)


def test_servers_are_shown_without_passwords_and_looked_up_with_them():
    found = NatsServers.parse("nats://broker:secret@localhost, tls://[::1]:5222")
    assert (found.shown, found.ports) == (["nats://localhost:4222", "tls://[::1]:5222"], {4222, 5222})
    assert "secret" not in repr(found)
    looked_up = found.looked_up()
    assert {"nats://broker:secret@127.0.0.1:4222", "tls://[::1]:5222"} <= {*looked_up.urls}
    assert looked_up.names["127.0.0.1"] == "localhost"


def test_a_name_that_nobody_knows_is_said():
    with pytest.raises(BackboneError) as refused:
        NatsServers.parse("nats://nobody.invalid").looked_up()
    assert refused.value.code == "disk"


def tls_server(folder: Path) -> NatsServer:
    """Whose certificate is good for the name `localhost`, and for no address."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new_key = ["req", "-newkey", "ed25519", "-nodes"]
    openssl(*new_key, "-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=ca", "-days", "2")
    openssl(*new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    signed_by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    openssl("x509", "-req", "-in", "server.csr", *signed_by, "-out", "server.pem")
    port, config = free_port(), folder / "tls.conf"
    files = f'cert_file: "{folder}/server.pem", key_file: "{folder}/server.key"'
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}" }}\ntls {{ {files} }}\n')
    return NatsServer(folder, "tls", config=config, port=port)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_contained_broker_holds_a_server_against_the_name_that_it_was_given(home, tmp_path, monkeypatch):
    one = await to_thread.run_sync(tls_server, tmp_path)
    await to_thread.run_sync(one.begin)
    try:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        url = one.url.replace("nats://127.0.0.1", "tls://localhost")
        async with supervise(policy=home.policy, state=home.folder, tpm="software", backbone=url) as hub:
            await carries(hub, 1)
    finally:
        one.kill()
