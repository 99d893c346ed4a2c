"""A second machine's hub on the same bus: its papers, its trust, what it refuses; and two of them as agents see them."""

from __future__ import annotations

import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import nats
import pytest
from anyio import to_thread
from click.testing import CliRunner
from homes import Home, Straight

import bus
from bus.backbone.nats import authority_line
from bus.backbone.nats import neighbour_messages as messages
from bus.cli.main import cli
from bus.clock import SystemClock
from bus.errors import (
    AttestationError,
    BackboneError,
    ConnectError,
    NotPermittedError,
    RemoteProtocolError,
    RevokedError,
    VaultError,
    VerificationError,
)
from bus.hub import admin, among
from bus.hub.broker_identity import revoked_gateways
from bus.hub.far_desk import way_over
from bus.hub.gateway_papers import GatewayPapers
from bus.hub.open import supervise
from bus.hub.state import State, open_state
from bus.identity.anchor import read_brokers

sys.path.insert(0, str(Path(__file__).parent.parent / "backbone"))

from nats_servers import NatsServer, free_port, nats_server

pytestmark = [pytest.mark.anyio, pytest.mark.slow]
PLAIN_DESK = [sys.executable, "-c", "from bus.cli.main import main; main()", "host", "desk", "--state"]
DESK = [*PLAIN_DESK[:-1], "--gateways", "--state"]


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
    return await GatewayPapers(state, Straight(home.state.admin_socket), SystemClock()).bring(name, urls)


@asynccontextmanager
async def both(home: Home, west: State, server):
    """The hub with the authority, and a gateway beside it."""
    async with home.open(backbone=server.url) as hub:
        await made_gateway(home, west)
        async with bus.open(state=west.folder, tpm="software", backbone=server.url) as gateway:
            yield hub, gateway


async def test_a_gateway_gets_its_papers_once_and_a_key_of_its_own(home, west, server):
    async with home.open(backbone=server.url):
        async with way_over([*DESK, str(home.folder)]) as way:
            assert (await GatewayPapers(west, way, SystemClock()).bring("WEST", ())).is_new
        assert not (await made_gateway(home, west)).is_new
        for folder in (west, home.state):
            assert await to_thread.run_sync(read_brokers, folder.trust / "public") == {"BROKER", "WEST"}
        with pytest.raises(VaultError) as refused:
            await made_gateway(home, west, "EAST")
        assert refused.value.code == "wrong_domain"


async def test_the_desk_for_other_machines_makes_no_gateways(home, west, server):
    async with home.open(backbone=server.url), way_over([*PLAIN_DESK, str(home.folder)]) as way:
        with pytest.raises(RemoteProtocolError):
            await way.ask("certify_gateway", name="WEST", spki="00")


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
        with pytest.raises(ConnectError):
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
        assert (said["gateway"], said["backbone_connected"], said["failures"]) == ("WEST", True, {})
        assert said["numbers"]["broker"]["gateways"]["shunned_by"] == 0


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


def move_agents(home: Home, west: State, *names: str) -> None:
    """As if they had been enrolled there: keys that are in no chip cannot be, from afar."""
    for folder in ("vault", "inbox"):
        shutil.copytree(home.folder / folder, west.folder / folder, dirs_exist_ok=True)
    for name in names:
        shutil.copy(home.state.trust / "public" / "certificates" / f"{name}.pem", west.trust / "public" / "certificates")


@asynccontextmanager
async def talking(home: Home, west: State, server):
    """LEAD at the hub with the authority, PAINTER at the gateway."""
    async with both(home, west, server) as (hub, gateway):
        async with hub.agent("PAINTER"):
            pass
        await to_thread.run_sync(move_agents, home, west, "PAINTER")
        async with hub.agent("LEAD") as lead, gateway.agent("PAINTER") as painter:
            await linked(hub, 1)
            yield lead, painter


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_agents_of_two_hubs_talk_live_and_durable(home, west, server):
    async with talking(home, west, server) as (lead, painter):
        async with painter.subscribe("tasks.>") as tasks, painter.subscribe("work.>", durable="inbox") as work:
            await lead.publish("tasks.paint", 1)
            assert (await anext(tasks)).body == 1
            await lead.publish("work.paint", 2)
            message = await anext(work)
            assert message.body == 2
            await message.ack(confirmed=True)


@pytest.mark.both_loops
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_hub_that_is_open_has_met_the_gateways_that_were_there(home, west, server, monkeypatch):
    monkeypatch.setattr(among, "MEET_SECONDS", 15.0)  # where the broker is in this process: a full machine needs longer
    async with both(home, west, server) as (hub, _), hub.agent("PAINTER"):
        await to_thread.run_sync(move_agents, home, west, "PAINTER")
    async with bus.open(state=west.folder, tpm="software", backbone=server.url) as gateway, gateway.agent("PAINTER") as painter:
        async with painter.subscribe("tasks.>") as tasks, home.open(backbone=server.url) as hub:
            found = (await admin.ask(home.state.admin_socket, "statistics"))["broker"]["neighbours"]
            assert [found[what] for what in ("open", "agents", "subscriptions")] == [1, 1, 1]
            async with hub.agent("LEAD") as lead:
                await lead.publish("tasks.paint", b"the door")
                with anyio.fail_after(10):
                    assert (await anext(tasks)).body == b"the door"


async def test_one_that_is_there_and_makes_no_link_holds_up_a_start_for_a_moment_only(home, server):
    client = await nats.connect(server.url)
    said = []

    async def answer(message) -> None:
        said.append(message.subject)
        await client.publish(message.subject, messages.here(bytes(messages.ID_BYTES)))

    await client.subscribe("*.here", cb=answer)
    await client.flush()
    with anyio.fail_after(30):
        async with home.open(backbone=server.url):
            found = (await admin.ask(home.state.admin_socket, "statistics"))["broker"]
            assert (found["gateways"]["neighbours"], found["neighbours"]["open"]) == (0, 0)
    assert said
    await client.close()


async def test_a_revocation_cuts_an_agent_off_at_the_gateway(home, west, server):
    async with talking(home, west, server) as (_, painter):
        async with painter.subscribe("tasks.>") as tasks:
            await admin.ask(home.state.admin_socket, "revoke", name="PAINTER", reason="compromised")
            with anyio.fail_after(10), pytest.raises(RevokedError):
                await anext(tasks)


def let_workers_revoke(home: Home) -> None:
    home.change("subscribe: [tasks.>, work.>]", "subscribe: [tasks.>, work.>], may: [revoke]")


@pytest.mark.both_loops
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])  # trio: both brokers are in processes of their own
async def test_what_is_asked_of_the_authority_gets_there_from_a_gateway(home, west, server):
    let_workers_revoke(home)
    async with talking(home, west, server) as (_, painter):
        with anyio.fail_after(20):
            await painter.authority.revoke("LEAD")
        assert (await trust_of(west))[0] == (await trust_of(home.state))[0]


@pytest.mark.both_loops
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_the_key_of_what_was_kept_before_its_reader_came_is_asked_for_across_gateways(home, west, server):
    async with talking(home, west, server) as (lead, painter):
        await lead.publish("work.paint", "early")
        async with painter.subscribe("work.>", durable="late", start="all") as work:
            with anyio.fail_after(30):
                assert (await anext(work)).body == "early"
        assert painter._host.statistics()["keyring"]["parking"]["asked"] >= 1


async def test_an_authority_that_is_away_is_said(home, west, server, monkeypatch):
    monkeypatch.setattr(authority_line, "ANSWER_SECONDS", 0.3)
    let_workers_revoke(home)
    async with talking(home, west, server):
        pass
    async with bus.open(state=west.folder, tpm="software", backbone=server.url) as gateway, gateway.agent("PAINTER") as painter:
        with pytest.raises(AttestationError) as refused:
            await painter.authority.revoke("LEAD")
        assert refused.value.reason == "authority_away"


TLS = "tls://127.0.0.1:0"


async def heard(lead, tasks):
    """What is said live comes across once at most, and not before two gateways have found each other: it is said again."""
    with anyio.fail_after(60):
        while True:
            await lead.publish("tasks.paint", b"the door")
            with anyio.move_on_after(2):
                return await anext(tasks)


async def test_a_gateway_is_reached_over_tls_by_what_its_hub_certified(home, west, server):
    async with home.open(backbone=server.url) as hub:
        await made_gateway(home, west)
        with pytest.raises(VaultError) as refused:
            async with bus.open(state=west.folder, tpm="software", backbone=server.url, listen=[TLS]):
                pass
        assert refused.value.code == "missing"
        await made_gateway(home, west, "WEST", TLS)
        async with bus.open(state=west.folder, tpm="software", backbone=server.url, listen=[TLS]) as gateway:
            async with home.connect(gateway.url, agent="PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
                async with hub.agent("LEAD") as lead:
                    assert (await heard(lead, tasks)).body == b"the door"


async def test_a_gateway_that_is_revoked_carries_nothing_any_more_and_ends(home, west, server):
    async with home.open(backbone=server.url) as hub:
        await made_gateway(home, west)

        async def until_it_ends() -> None:
            async with bus.open(state=west.folder, tpm="software", backbone=server.url):
                await linked(hub, 1)
                assert not await to_thread.run_sync(revoked_gateways, home.state.trust)
                await admin.ask(home.state.admin_socket, "revoke", name="WEST", reason="compromised", profile="broker")
                await linked(hub, 0)
                with anyio.fail_after(10):
                    await anyio.sleep_forever()

        with pytest.raises(VerificationError) as ended:
            await until_it_ends()
        assert (ended.value.reason, ended.value.agent) == ("revoked", "WEST")
        with pytest.raises(VerificationError) as ended:  # and does not even ask the servers, which are elsewhere
            async with bus.open(state=west.folder, tpm="software", backbone=f"nats://127.0.0.1:{free_port()}"):
                pass
        assert (ended.value.reason, ended.value.agent) == ("revoked", "WEST")
        with pytest.raises(NotPermittedError):
            await made_gateway(home, west)
        assert await to_thread.run_sync(revoked_gateways, home.state.trust) == {"WEST"}
        assert not await to_thread.run_sync(revoked_gateways, west.trust), "where the authority is not"
        await to_thread.run_sync(west.broker.rename, west.folder / "broker.revoked")  # the way back
        await made_gateway(home, west, "WEST2")
        async with bus.open(state=west.folder, tpm="software", backbone=server.url):
            await linked(hub, 1)


async def linked(hub: bus.Hub, count: int) -> None:
    with anyio.fail_after(30):
        while (await hub.statistics())["broker"]["neighbours"]["open"] != count:
            await anyio.lowlevel.checkpoint()


@pytest.fixture
def strict_server(home, tmp_path, monkeypatch):
    """As `tpmbus backbone nats-config` has it: who shows no key is refused, and who shows one may do what a broker does."""
    port, out = free_port(), tmp_path / "nats"
    words = ["backbone", "nats-config", "--policy", str(home.policy), "--servers", f"one=127.0.0.1:{port}", "--out", str(out)]
    assert CliRunner().invoke(cli, [*words, "--store", str(tmp_path / "store")]).exit_code == 0
    monkeypatch.setenv("TPMBUS_NATS_NKEY", str(out / "broker.nk"))
    one = NatsServer(tmp_path, "one", config=out / "one.conf", port=port)
    one.begin()
    yield one
    one.kill()


async def test_what_gateways_do_is_what_their_servers_let_them_do(home, west, strict_server):
    let_workers_revoke(home)
    async with talking(home, west, strict_server) as (lead, painter):
        async with painter.subscribe("tasks.>") as tasks, painter.subscribe("work.>", durable="inbox") as work:
            await lead.publish("tasks.paint", 1)
            await lead.publish("work.paint", 2)
            assert [(await anext(one)).body for one in (tasks, work)] == [1, 2]
        with anyio.fail_after(20):
            await painter.authority.revoke("LEAD")
    assert "violation" not in (await to_thread.run_sync(strict_server.log)).lower()


async def test_a_broker_that_can_get_at_nothing_else_has_read_its_nkey_before(home, strict_server):
    async with supervise(policy=home.policy, state=home.folder, tpm="software", backbone=strict_server.url):
        assert (await admin.ask(home.state.admin_socket, "status"))["backbone_connected"]
