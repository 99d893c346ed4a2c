"""The trust of all gateways on NATS, where anybody may have written anything: what is taken, replaced, and left alone."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from anyio import to_thread
from homes import Home

from bus.backbone.nats.watching import Shared
from bus.clock import SystemClock
from bus.errors import BackboneError, VaultError, VerificationError
from bus.hub import admin
from bus.hub.shared_trust import FILE, SharedTrust, Value, begun_with, kept_by_gateway, newest_of
from bus.hub.state import open_state
from bus.identity import durable, trust_documents
from bus.identity.anchor import read_anchor
from bus.identity.envelopes.verifier import Verifier
from bus.identity.trust_memory import TrustMemory
from bus.protocol.codec import pack

sys.path.insert(0, str(Path(__file__).parent.parent / "backbone"))

from nats_servers import nats_server, new_space, on_nats

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with nats_server() as one:
        yield one


@pytest.fixture
async def issued(home):
    """Three states of trust that an authority signed, one after the other."""
    found = []
    async with home.open():
        for _ in range(3):
            found.append(await to_thread.run_sync(trust_documents.load, home.state.trust / "public"))
            await admin.ask(home.state.admin_socket, "end_sessions", name="PAINTER")
    return found


class Side:
    """A gateway, or the hub with the authority, with what it goes by."""

    def __init__(self, home, folder, shared: Shared, space: str) -> None:
        self.home, self.state, self.shared, self.space = home, open_state(folder), shared, space
        self.anchor = read_anchor(home.state.trust / "public")
        self.memory = TrustMemory(self.state.broker)
        self.taken: list[int] = []
        self.trust: SharedTrust

    async def begin(self, documents, *, is_authority: bool = False) -> Side:
        self.verifier = Verifier(self.anchor.root, self.anchor.domain, ml_dsa_root=self.anchor.ml_dsa_root)
        snapshot = await trust_documents.accept(documents, self.memory, self.verifier)
        self.trust = SharedTrust(
            self.shared, self.anchor, self.memory, (snapshot, documents), space=self.space, state=self.state,
            is_authority=is_authority, take=lambda taken, _: self.taken.append(taken.trust.statement.number), clock=SystemClock(),
        )  # fmt: skip
        await self.trust.begin()
        return self

    async def write(self, value: bytes) -> bytes:
        await self.shared.write(value, instead_of=(await self.shared.read()).revision)
        return value

    async def there(self):
        value = (await self.shared.read()).value
        return None if value is None else Value.parse(value).documents


@asynccontextmanager
async def sides(home, tmp_path, server):
    space = new_space()
    async with on_nats([server.url], space) as backbone:
        shared = await backbone.shared("trust")
        yield await to_thread.run_sync(lambda: [Side(home, tmp_path / name, shared, space) for name in ("east", "west")])


async def test_what_is_newer_is_taken_and_kept_and_what_is_older_is_replaced(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (east, west):
        await east.begin(issued[1])
        await west.begin(issued[0])
        assert len(west.taken) == 1
        kept = await to_thread.run_sync(kept_by_gateway, west.state.broker, west.anchor)
        assert kept == issued[1] == await west.there()
        east.trust.follow(await trust_documents.accept(issued[2], east.memory, east.verifier), issued[2])
        await east.trust.look()
        assert await east.there() == issued[2]
        await west.trust.look()
        assert len(west.taken) == 2


def junk(issued, west: Side) -> dict[str, bytes]:
    one, ours = issued[2], Value.of(west.space, west.anchor, issued[2])
    unsigned = one.statement[:-1] + bytes([one.statement[-1] ^ 1])
    return {
        "no value": b"\x00",
        "another statement's list": ours._replace(documents=replace(one, crl=issued[0].crl + b"x")).encode(),
        "a statement that nobody signed": ours._replace(documents=replace(one, statement=unsigned)).encode(),
        "a policy of somebody else": ours._replace(documents=replace(one, bundle=b"\x93\x01\x02\x03")).encode(),
        "a root that is none": ours._replace(root=bytes(32), documents=replace(one, crl=b"x")).encode(),
        "a value of the form before": pack([1, bytes(32), b"x", b"y", b"z"]),
    }


WHATS = [
    "no value",
    "another statement's list",
    "a statement that nobody signed",
    "a policy of somebody else",
    "a root that is none",
    "a value of the form before",
]


@pytest.mark.parametrize("what", WHATS)
async def test_what_does_not_verify_is_not_taken_and_only_the_authority_writes_over_it(home, tmp_path, server, issued, what):
    async with sides(home, tmp_path, server) as (east, west):
        await west.begin(issued[0])
        value = await west.write(junk(issued, west)[what])
        await west.trust.look()
        assert west.taken == []
        assert ((await west.shared.read()).value == value) is (what not in ("no value", "a value of the form before"))
        await east.begin(issued[1], is_authority=True)
        assert await east.there() == issued[1]


async def test_junk_keeps_nobody_from_beginning_and_is_said(home, tmp_path, server, issued, caplog):
    async with sides(home, tmp_path, server) as (east, west):
        for what in WHATS:
            for side, documents, is_authority in ((west, issued[0], False), (east, issued[1], True)):
                caplog.clear()
                await side.write(junk(issued, west)[what])
                await side.begin(documents, is_authority=is_authority)
                assert (side.taken, side.trust.statistics()["refused"]) == ([], 1), what
                assert [record.name for record in caplog.records] == ["bus.hub.shared_trust"], what
            assert await east.there() == issued[1]


async def test_nobody_is_led_back(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (_, west):
        await west.begin(issued[2])
        await west.write(Value.of(west.space, west.anchor, issued[0]).encode())
        await west.trust.look()
        assert (west.taken, await west.there()) == ([], issued[2])


async def test_an_authority_that_is_older_than_what_stands_there_leaves_it(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (east, west):
        await west.begin(issued[2])
        await east.begin(issued[0], is_authority=True)
        assert (east.taken, await east.there()) == ([], issued[2])


@pytest.fixture
async def stranger(tmp_path):
    """The trust of another bus: its root, and what that has signed."""
    other = await to_thread.run_sync(Home.at, await anyio.Path(tmp_path / "other").mkdir() or tmp_path / "other")
    async with other.open():
        public = other.state.trust / "public"
        return await to_thread.run_sync(lambda: (read_anchor(public), trust_documents.load(public)))


async def test_another_bus_is_known_by_what_its_own_root_signed_for_this_space(home, tmp_path, server, issued, stranger):
    anchor, documents = stranger
    async with sides(home, tmp_path, server) as (east, west):
        for junk in (
            Value.of("elsewhere", anchor, documents),  # a copy of a bus that is in another space
            Value.of(west.space, anchor, issued[0]),  # a root that says nothing of what stands there
            Value.of(west.space, anchor, replace(documents, statement=documents.statement[:-1])),
        ):
            await west.write(junk.encode())
            await west.begin(issued[0])
        await west.write(Value.of(west.space, anchor, documents).encode())
        for side, is_authority in ((west, False), (east, True)):
            with pytest.raises(BackboneError) as refused:
                await side.begin(issued[0], is_authority=is_authority)
            assert refused.value.code == "another_bus"


async def test_what_a_broker_kept_of_another_bus_is_nothing_to_begin_with(home, tmp_path, stranger):
    anchor, documents = stranger
    kept = Value.of("space", anchor, documents).encode()
    await to_thread.run_sync(durable.replace, tmp_path / FILE, kept)
    ours = await to_thread.run_sync(read_anchor, home.state.trust / "public")
    assert await to_thread.run_sync(kept_by_gateway, tmp_path, anchor) == documents
    assert await to_thread.run_sync(kept_by_gateway, tmp_path, ours) is None


async def test_a_gateway_begins_with_what_its_broker_kept_where_nothing_else_is_left(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (east, west):
        await east.begin(issued[1])
        await west.begin(issued[0])  # and hears the other
        nothing = tmp_path / "nothing"
        _, found = await begun_with(nothing, west.state.broker, west.anchor, west.memory)
        assert found == issued[1]
        with pytest.raises(VaultError) as refused:
            await begun_with(nothing, east.state.trust, east.anchor, east.memory)
        assert (refused.value.code, refused.value.path) == ("missing", str(nothing))


async def test_a_gateway_begins_with_the_newest_that_it_can_believe(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (_, west):
        await west.begin(issued[1])
        _, found = await newest_of([issued[0], issued[2], issued[1]], west.memory, west.verifier)
        assert found == issued[2]
        with pytest.raises(VerificationError) as refused:
            await newest_of([issued[0]], west.memory, west.verifier)
        assert refused.value.reason == "trust_rollback"
