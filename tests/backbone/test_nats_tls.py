"""Between machines the connection to NATS is TLS: made by openssl here, with certificates on both sides."""

from __future__ import annotations

import ssl
import subprocess
import sys
from pathlib import Path

import anyio
import anyio.abc
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries
from nats_servers import NatsServer, all_begun, free_port, new_space, on_nats

from bus.backbone.interface import RetentionClass
from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.login import Login
from bus.backbone.nats.nkeys import public_text, seed_text
from bus.backbone.nats.server_config import Cluster, config_of, parse_servers
from bus.clock import SystemClock
from bus.errors import BackboneError

CLOCK = SystemClock()


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def papers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("papers")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    openssl(
        folder,
        "req",
        "-x509",
        "-newkey",
        "ed25519",
        "-nodes",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        "-subj",
        "/CN=ca",
        "-days",
        "2",
    )
    for name in ("server", "broker", "n1", "n2", "n3"):
        openssl(
            folder, "req", "-newkey", "ed25519", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"
        )
        (folder / f"{name}.ext").write_text(names)
        openssl(
            folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", f"{name}.ext", "-out", f"{name}.pem",
        )  # fmt: skip
    return folder


def openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def server(papers, tmp_path_factory):
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    config = folder / "tls.conf"
    files = f'cert_file: "{papers}/server.pem", key_file: "{papers}/server.key", ca_file: "{papers}/ca.pem", verify: true'
    config.write_text(f'listen: "127.0.0.1:{port}"\njetstream {{ store_dir: "{folder}" }}\ntls {{ {files} }}\n')
    one = NatsServer(folder, "tls", config=config, port=port)
    one.begin()
    yield one
    one.kill()


@pytest.mark.anyio
async def test_a_broker_with_a_good_certificate_comes_in(server, papers):
    tls = ssl.create_default_context(cafile=papers / "ca.pem")
    tls.load_cert_chain(papers / "broker.pem", papers / "broker.key")
    async with on_nats([server.url.replace("nats://", "tls://")], new_space(), tls=tls) as backbone:
        await backbone.retain([RetentionClass("work.>", 3_600_000)], passed_ms=0)
        assert await backbone.append(entries(CLOCK, "work.a")) == [1]


@pytest.mark.anyio
@pytest.mark.parametrize("case", ["no TLS", "a CA that it does not know", "no certificate of its own"])
async def test_who_has_none_is_refused(server, papers, case):
    tls = {
        "no TLS": None,
        "a CA that it does not know": ssl.create_default_context(),
        "no certificate of its own": ssl.create_default_context(cafile=papers / "ca.pem"),
    }[case]
    with pytest.raises(BackboneError) as refused:
        await open_nats([server.url], CLOCK, tls=tls, wait_seconds=0.5)
    assert refused.value.code == "disk"


@pytest.fixture
def cluster(papers, tmp_path):
    """Three servers, as `tpmbus backbone nats-config --tls` writes them."""
    places = ",".join(f"n{number}=127.0.0.1:{free_port()}:{free_port()}" for number in (1, 2, 3))
    servers, brokers, look = parse_servers(places), {"broker": public_text(bytes(32))}, public_text(b"\1" * 32)
    wanted = Cluster("example.com", servers, brokers, look, 1 << 30, str(tmp_path), str(papers), routes_password="routes")
    running = []
    for server in servers:
        config = tmp_path / f"{server.name}.conf"
        config.write_text(config_of(wanted, server))
        running.append(NatsServer(tmp_path, server.name, config=config, port=server.port))
    with all_begun(running):
        yield running


@pytest.mark.slow
@pytest.mark.anyio
async def test_servers_that_were_configured_are_a_cluster_and_survive_one_of_them(cluster, papers):
    tls = ssl.create_default_context(cafile=papers / "ca.pem")
    urls = [one.url.replace("nats://", "tls://") for one in cluster]
    login = Login(seed=seed_text(bytes(32)))
    async with on_nats(urls, "tpmbus", tls=tls, login=login, replicas=3, wait_seconds=30) as backbone:
        await backbone.retain([RetentionClass("work.>", 3_600_000)], passed_ms=0)
        assert await backbone.append(entries(CLOCK, "work.a")) == [1]
        cluster[0].kill()
        assert await backbone.append(entries(CLOCK, "work.b", seed=1)) == [2]


@pytest.mark.anyio
async def test_a_server_that_offers_no_tls_where_it_is_asked_for_hears_no_password():
    heard = bytearray()

    async def pretend(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b'INFO {"server_id": "x", "version": "2.9.10", "max_payload": 1048576, "auth_required": true}\r\n')
            async for data in stream:
                heard.extend(data)

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, pretend)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        with pytest.raises(BackboneError) as refused:
            await open_nats([f"tls://broker:secret@127.0.0.1:{port}"], CLOCK, tls=ssl.create_default_context(), wait_seconds=0.5)
        tasks.cancel_scope.cancel()
    assert (refused.value.code, bytes(heard)) == ("disk", b"")
