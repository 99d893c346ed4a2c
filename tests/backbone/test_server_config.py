"""The configuration of NATS servers: what is in it, what is refused, and what a server makes of it."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import anyio
import nats
import nats.errors
import pytest
from nats.aio.client import Client

sys.path.insert(0, str(Path(__file__).parent))

from nats_gateways import gateway, until
from nats_servers import NatsServer, free_port, on_nats

from bus.backbone.interface import ConsumerName, RetentionClass
from bus.backbone.nats.authority_line import AuthorityLine
from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.login import Login
from bus.backbone.nats.nkeys import public_text, seed_text
from bus.backbone.nats.server_config import (
    LOOK_INBOX,
    Cluster,
    Server,
    config_of,
    parse_servers,
    rooms,
    store_bytes,
)
from bus.clock import SystemClock
from bus.errors import BackboneError
from bus.flow.start import NEW
from bus.testing import backbone_check, backbone_consuming, backbone_keeping

CLOCK = SystemClock()
BROKER, LOOK, STRANGER, OTHER = bytes(32), b"\1" * 32, b"\2" * 32, b"\3" * 32
GIB = 1 << 30


@pytest.fixture
def anyio_backend():
    return "asyncio"


def cluster(servers: str, store: Path | str = "/var/lib/nats", brokers=(BROKER, OTHER), **words) -> Cluster:
    return Cluster(
        "example.com",
        parse_servers(servers),
        {f"broker{number}": public_text(seed) for number, seed in enumerate(brokers)},
        public_text(LOOK),
        GIB,
        str(store),
        routes_password="between-servers",
        **words,
    )


# ---- what is written -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", ["n1=127.0.0.1:4222", "n1=h1:4222,n2=h2.example.com:4222:7000,n3=[::1]:4222"])
def test_a_server_takes_what_is_written(tmp_path, servers):
    wanted = cluster(servers, tmp_path)
    for server in wanted.servers:
        path = tmp_path / "x.conf"
        path.write_text(config_of(wanted, server))
        done = subprocess.run(["nats-server", "-c", path, "-t"], capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0, done.stderr


def test_a_server_of_a_cluster_knows_the_others_and_not_itself():
    wanted = cluster("n1=h1:4222,n2=h2:4222,n3=h3:4222:7000")
    text = config_of(wanted, wanted.servers[1])
    assert "@h1:6222" in text
    assert "@h3:7000" in text
    assert "@h2:" not in text
    assert "0.0.0.0:6222" in text
    assert "between-servers" not in repr(wanted)


def test_one_server_alone_has_no_password_and_listens_where_it_is():
    text = config_of(wanted := cluster("n1=127.0.0.1:4222"), wanted.servers[0])
    assert "cluster" not in text
    assert "between-servers" not in text
    assert 'listen: "127.0.0.1:4222"' in text


def test_with_tls_both_brokers_and_servers_have_it():
    wanted = cluster("n1=h1:4222,n2=h2:4222", tls="/etc/nats/")
    text = config_of(wanted, wanted.servers[0])
    assert text.count('cert_file: "/etc/nats/n1.pem"') == 2
    assert text.count("verify: true") == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        ",",
        "h1:4222",
        "n1=h1",
        "n1=:4222",
        "N1=h1:4222",
        'n1=h"1:4222',
        "n1=h1:0",
        "n1=h1:65536",
        "n1=h1:64000",
        "n1=h1:4222:1:2",
        "n1=h1:4222,n1=h2:4222",
        "n1=h1:4222,n2=h1:4222",
        "n1=h1:4222:4222",
        "n1=h1:4222:x",
        "n1=h1 h2:4222",
        ",".join(f"n{number}=h{number}:4222" for number in range(17)),
    ],
)
def test_what_are_no_servers_is_refused(text):
    with pytest.raises(ValueError, match=r"server|port"):
        parse_servers(text)


def test_servers_are_read():
    assert parse_servers("n1=h1:4222, n2=[::1]:1:2") == (Server("n1", "h1", 4222, 6222), Server("n2", "[::1]", 1, 2))


def test_room_is_what_comes_in_while_it_is_kept():
    day = 86_400_000
    [room] = rooms([RetentionClass("work.>", day)], a_second=10, message_bytes=488)
    assert room.bytes == 2 * 86_400 * 10 * 1_000  # a stream keeps what it has a day longer
    assert store_bytes([room]) == 3 * GIB
    assert store_bytes([]) == GIB


# ---- what a server makes of it -------------------------------------------------------------------------------------------------


@contextmanager
def running(folder: Path):
    wanted = cluster(f"n1=127.0.0.1:{free_port()}", folder)
    config = folder / "n1.conf"
    config.write_text(config_of(wanted, wanted.servers[0]))
    one = NatsServer(folder, "n1", config=config, port=wanted.servers[0].port)
    one.begin()
    try:
        yield one
    finally:
        one.kill()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("server")) as one:
        yield one


@pytest.fixture
def fresh(tmp_path):
    with running(tmp_path) as one:
        yield one


PARTS = [
    backbone_consuming.what_is_given_up_is_a_dead_letter,
    backbone_consuming.dead_letters_can_be_requeued_and_dropped,
    backbone_keeping.consumers_keep_what_they_are,
    backbone_keeping.grants_and_papers_are_kept_until_their_time,
]


@pytest.mark.anyio
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
async def test_a_broker_with_its_key_may_do_what_a_backbone_does(fresh, monkeypatch, part):
    monkeypatch.setattr(backbone_check, "_PARTS", (part,))
    login = Login(seed=seed_text(BROKER))
    await backbone_check.check_backbone(lambda clock: on_nats([fresh.url], "tpmbus", clock, login=login), clock=CLOCK)


@pytest.mark.anyio
async def test_a_broker_with_its_key_may_do_what_gateways_do(server):
    login, others = Login(seed=seed_text(BROKER)), Login(seed=seed_text(OTHER))
    async with (
        gateway(server.url, "tpmbus", login=login) as one,
        gateway(server.url, "tpmbus", login=others) as other,
        on_nats([server.url], "tpmbus", login=login) as backbone,
        anyio.create_task_group() as tasks,
    ):
        await until(lambda: one.alive and other.alive)

        asked = AuthorityLine(backbone.connection, backbone.names, CLOCK, key=lambda answer: answer)
        await asked.listen()
        await asked.serve(lambda request, reply: reply(request))
        assert await asked.ask(b"a question", b"a question") == b"a question"

        shared, looks = await backbone.shared("trust"), []

        async def look():
            looks.append(await shared.read())

        shared.look()
        tasks.start_soon(shared.run, look)
        await until(lambda: looks)
        await shared.write(b"a statement", instead_of=0)
        await until(lambda: looks[-1].value == b"a statement", seconds=2)  # told, and not because it looks now and then
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("options", [{}, {"nkeys_seed_str": seed_text(STRANGER)}, {"user": "broker", "password": "broker"}],
                         ids=["no key", "another key", "a password"])  # fmt: skip
async def test_a_stock_client_without_the_key_cannot_even_connect(server, options):
    errors = []

    async def failed(error):
        errors.append(error)

    client = Client()
    try:
        with pytest.raises(nats.errors.Error):
            await client.connect(server.url, allow_reconnect=False, connect_timeout=2, error_cb=failed, **options)
    finally:
        await client.close()
    with pytest.raises(BackboneError):
        await open_nats([server.url], CLOCK, login=Login(seed=seed_text(STRANGER)), wait_seconds=0.3)


async def tried(url: str, seed: bytes, hears=(), says=()) -> list[str]:
    """What a stock client with this key is denied, of these subjects."""
    denied = []

    async def failed(error):
        denied.append(str(error))

    async def heard(message):
        raise AssertionError(message)

    client = await nats.connect(url, nkeys_seed_str=seed_text(seed), error_cb=failed)
    for subject in hears:
        await client.subscribe(subject, cb=heard)
    for subject in says:
        await client.publish(subject, b"junk")
    await client.flush()
    await until(lambda: len(denied) >= len(hears) + len(says))
    await client.close()
    return denied


@pytest.mark.anyio
async def test_what_is_answered_to_a_broker_nobody_else_hears(server):
    inboxes = [Login(seed=seed_text(seed)).inbox for seed in (BROKER, OTHER)]
    hears = ["_INBOX.>", ">", f"{inboxes[0]}.>", f"{inboxes[0]}.*", f"{inboxes[0]}.*.1", f"{LOOK_INBOX}.>", "$JS.>", "$KV.>"]
    says = [f"{inboxes[0]}.x.1", "_INBOX.x", "$JS.API.STREAM.PURGE.x", "$JS.API.STREAM.DELETE.x", "$JS.API.STREAM.NAMES"]
    denied = await tried(server.url, OTHER, hears, says)
    assert len(denied) == len(hears) + len(says)
    async with on_nats([server.url], "tpmbus", login=Login(seed=seed_text(BROKER))) as backbone:
        assert backbone.connection.new_inbox().startswith(f"{inboxes[0]}.")
        assert not backbone.connection.denied


@pytest.mark.anyio
async def test_a_configuration_that_lets_a_broker_do_too_little_is_said_at_once(tmp_path):
    wanted = cluster(f"n1=127.0.0.1:{free_port()}", tmp_path)
    config = tmp_path / "n1.conf"
    config.write_text(config_of(wanted, wanted.servers[0]).replace("$JS.API.STREAM.CREATE.*", "$JS.API.STREAM.NOTHING"))
    one = NatsServer(tmp_path, "n1", config=config, port=wanted.servers[0].port)
    one.begin()
    try:
        with anyio.fail_after(10), pytest.raises(BackboneError) as refused:  # and not after all its patience
            await open_nats([one.url], CLOCK, login=Login(seed=seed_text(BROKER)))
        assert refused.value.code == "disk"
    finally:
        one.kill()


@pytest.mark.anyio
async def test_a_broker_that_is_taken_out_is_cut_off_when_its_server_reads_that_and_no_other_is(fresh):
    config = fresh.folder / "n1.conf"
    fewer = cluster(f"n1=127.0.0.1:{fresh.port}", fresh.folder, brokers=[BROKER])
    async with (
        gateway(fresh.url, "tpmbus", login=Login(seed=seed_text(BROKER))) as stays,
        gateway(fresh.url, "tpmbus", login=Login(seed=seed_text(OTHER))) as goes,
    ):
        await until(lambda: stays.alive and goes.alive)
        config.write_text(config_of(fewer, fewer.servers[0]))
        fresh.reload()
        await until(lambda: not goes.connection.is_connected)
        with pytest.raises(BackboneError):
            await open_nats([fresh.url], CLOCK, login=Login(seed=seed_text(OTHER)), wait_seconds=0.5)
        assert (stays.connection.is_connected, stays.connection.losses) == (True, 0)
        goes.scope.cancel()


@pytest.mark.anyio
async def test_who_may_look_sees_how_things_stand_and_no_message(server):
    async with on_nats([server.url], "tpmbus", login=Login(seed=seed_text(BROKER))) as backbone:
        await backbone.retain([RetentionClass("work.>", 3_600_000)], passed_ms=0)
        await backbone.consume(ConsumerName("MONITOR", "x"), "work.>", "work.>", NEW)
        denied = []

        async def failed(error):
            denied.append(str(error))

        client = await nats.connect(server.url, nkeys_seed_str=seed_text(LOOK), inbox_prefix=LOOK_INBOX, error_cb=failed)
        manager = client.jsm()
        streams = {info.config.name: info for info in await manager.streams_info()}
        [stream] = [name for name in streams if name.startswith("tpmbus_work")]
        assert [info.name for info in await manager.consumers_info(stream)] == ["MONITOR=x"]

        async def heard(message):
            raise AssertionError(message)

        for subject in ("tpmbus.>", ">", "_INBOX.>", "$KV.>"):
            await client.subscribe(subject, cb=heard)
            await client.publish(subject.replace(">", "x"), b"junk")
        for verb in ("STREAM.MSG.GET", "STREAM.DELETE", "STREAM.PURGE", "CONSUMER.DURABLE.CREATE", "CONSUMER.MSG.NEXT"):
            await client.publish(f"$JS.API.{verb}.{stream}", b'{"seq":1}', reply=f"{LOOK_INBOX}.x")
        await client.flush()
        await until(lambda: len(denied) >= 13)
        await client.close()
