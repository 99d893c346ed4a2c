"""A second machine's hub on the same bus: its papers, its trust, what it refuses; and two of them as agents see them."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from homes import Home, until

import bus
from bus.clock import SystemClock
from bus.errors import AttestationError, BackboneError, ConnectError, NotPermittedError, RevokedError, VaultError
from bus.hub import admin
from bus.hub.far_desk import way_over
from bus.hub.gateway_papers import GatewayPapers
from bus.hub.open import supervise
from bus.hub.state import State, open_state
from bus.identity.anchor import read_brokers

sys.path.insert(0, str(Path(__file__).parent.parent / "backbone"))

from nats_servers import nats_server

pytestmark = pytest.mark.anyio
DESK = [sys.executable, "-c", "from bus.cli.main import main; main()", "host", "desk", "--gateways", "--state"]


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def server():
    with nats_server() as one:
        yield one


@pytest.fixture
def west(tmp_path, runtime) -> State:
    """The other machine's state folder."""
    return open_state(tmp_path / "west")


async def made_gateway(home: Home, state: State, name: str = "WEST", *urls: str):
    async with way_over([*DESK, str(home.folder)]) as way:
        return await GatewayPapers(state, way, SystemClock()).bring(name, urls)


@asynccontextmanager
async def both(home: Home, west: State, server):
    """The hub with the authority, and a gateway beside it."""
    async with home.open(backbone=server.url) as hub:
        await made_gateway(home, west)
        async with bus.open(state=west.folder, tpm="software", backbone=server.url) as gateway:
            yield hub, gateway


async def test_a_gateway_gets_its_papers_once_and_a_key_of_its_own(home, west, server):
    async with home.open(backbone=server.url):
        assert (await made_gateway(home, west)).is_new
        assert not (await made_gateway(home, west)).is_new
        assert await to_thread.run_sync(read_brokers, west.trust / "public") == {"BROKER", "WEST"}
        with pytest.raises(VaultError) as refused:
            await made_gateway(home, west, "EAST")
        assert refused.value.code == "wrong_domain"


async def test_names_that_somebody_has_are_refused(home, tmp_path, west, server):
    async with home.open(backbone=server.url):
        for name in ("BROKER", "PAINTER", "west"):
            with pytest.raises(NotPermittedError):
                await made_gateway(home, west, name)
        await made_gateway(home, west)
        other = await to_thread.run_sync(open_state, tmp_path / "other")
        with pytest.raises(AttestationError) as taken:
            await made_gateway(home, other)
        assert taken.value.reason == "name_taken"


async def test_a_folder_without_papers_or_without_servers_is_said(home, west, server):
    async with home.open(backbone=server.url):
        await made_gateway(home, west)
        with pytest.raises(ConnectError, match="--backbone"):
            async with bus.open(state=west.folder, tpm="software"):
                pass
        await to_thread.run_sync((west.trust / "public" / "certificates" / "broker.WEST.pem").unlink)
        with pytest.raises(VaultError) as refused:
            async with bus.open(state=west.folder, tpm="software", backbone=server.url):
                pass
        assert refused.value.code == "missing"


async def test_a_gateway_decides_nothing_and_says_who_does(home, west, server):
    async with both(home, west, server) as (_, gateway):
        for verb, arguments in (
            ("revoke", {"name": "PAINTER", "reason": "compromised"}),
            ("reload", {}),
            ("let_in", {"token": "X"}),
        ):
            with pytest.raises(NotPermittedError):
                await admin.ask(west.admin_socket, verb, **arguments)
        with pytest.raises(NotPermittedError):
            await gateway.reload()
        said = await admin.ask(west.admin_socket, "status")
        assert (said["gateway"], said["backbone_connected"]) == ("WEST", True)


async def trust_of(state: State) -> tuple[int, int]:
    said = await admin.ask(state.admin_socket, "status")
    return said["trust_statement"], said["policy_version"]


async def follows(home: Home, west: State) -> None:
    with anyio.fail_after(10):
        while await trust_of(west) != await trust_of(home.state):
            await anyio.lowlevel.checkpoint()


async def test_what_the_authority_changes_is_in_force_at_the_gateway(home, west, server):
    async with both(home, west, server):
        await admin.ask(home.state.admin_socket, "end_sessions", name="PAINTER")
        await follows(home, west)
        before = await trust_of(west)
        home.change("publish: [results.>]", "publish: [results.>, extra.>]")
        assert await admin.ask(home.state.admin_socket, "reload")
        await follows(home, west)
        assert (await trust_of(west))[1] == before[1] + 1


async def test_a_gateway_that_was_away_begins_with_what_is_newest(home, west, server):
    async with both(home, west, server):
        pass
    async with home.open(backbone=server.url):
        await admin.ask(home.state.admin_socket, "end_sessions", name="PAINTER")
        async with bus.open(state=west.folder, tpm="software", backbone=server.url):
            await follows(home, west)
    async with bus.open(state=west.folder, tpm="software", backbone=server.url):  # and without the authority
        assert (await trust_of(west))[0] > 1


async def test_another_bus_on_the_same_servers_is_not_mixed_with_this_one(home, tmp_path, server):
    other = await to_thread.run_sync(Home.at, await anyio.Path(tmp_path / "other").mkdir() or tmp_path / "other")
    async with home.open(backbone=server.url):
        with pytest.raises(BackboneError) as refused:
            async with other.open(backbone=server.url):
                pass
        assert refused.value.code == "another_bus"
