"""The trust of all gateways on NATS, where anybody may have written anything: what is taken, replaced, and left alone."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from anyio import to_thread

from bus.backbone.nats.watching import Shared
from bus.clock import SystemClock
from bus.errors import BackboneError, VerificationError
from bus.hub import admin
from bus.hub.shared_trust import SharedTrust, Value, kept_by_gateway, newest_of, root_digest
from bus.hub.state import open_state
from bus.identity import trust_documents
from bus.identity.anchor import read_anchor
from bus.identity.envelopes.verifier import Verifier
from bus.identity.trust_memory import TrustMemory

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

    def __init__(self, home, folder, shared: Shared) -> None:
        self.home, self.state, self.shared = home, open_state(folder), shared
        self.anchor = read_anchor(home.state.trust / "public")
        self.memory = TrustMemory(self.state.broker)
        self.taken: list[int] = []
        self.trust: SharedTrust

    async def begin(self, documents, *, is_authority: bool = False) -> Side:
        self.verifier = Verifier(self.anchor.root, self.anchor.domain, ml_dsa_root=self.anchor.ml_dsa_root)
        snapshot = await trust_documents.accept(documents, self.memory, self.verifier)
        self.trust = SharedTrust(
            self.shared, self.anchor, self.memory, (snapshot, documents), state=self.state, is_authority=is_authority,
            take=lambda taken, _: self.taken.append(taken.trust.statement.number), clock=SystemClock(),
        )  # fmt: skip
        await self.trust.begin()
        return self

    async def there(self):
        value = (await self.shared.read()).value
        return None if value is None else Value.parse(value).documents


@asynccontextmanager
async def sides(home, tmp_path, server):
    async with on_nats([server.url], new_space()) as backbone:
        shared = await backbone.shared("trust")
        yield await to_thread.run_sync(lambda: [Side(home, tmp_path / name, shared) for name in ("east", "west")])


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


def junk(issued, root: bytes) -> dict[str, bytes]:
    one = issued[2]
    return {
        "no value": b"\x00",
        "another statement's list": Value(root, replace(one, crl=issued[0].crl + b"x")).encode(),
        "a statement that nobody signed": Value(root, replace(one, statement=one.statement[:-1] + b"x")).encode(),
        "a policy of somebody else": Value(root, replace(one, bundle=b"\x93\x01\x02\x03")).encode(),
    }


@pytest.mark.parametrize(
    "what", ["no value", "another statement's list", "a statement that nobody signed", "a policy of somebody else"]
)
async def test_what_does_not_verify_is_not_taken_and_only_the_authority_writes_over_it(home, tmp_path, server, issued, what):
    async with sides(home, tmp_path, server) as (east, west):
        await west.begin(issued[0])
        value = junk(issued, root_digest(west.anchor))[what]
        await west.shared.write(value, instead_of=(await west.shared.read()).revision)
        await west.trust.look()
        assert west.taken == []
        assert ((await west.shared.read()).value == value) is (what != "no value")
        await east.begin(issued[1], is_authority=True)
        assert await east.there() == issued[1]


async def test_nobody_is_led_back(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (_, west):
        await west.begin(issued[2])
        old = Value(root_digest(west.anchor), issued[0]).encode()
        await west.shared.write(old, instead_of=(await west.shared.read()).revision)
        await west.trust.look()
        assert (west.taken, await west.there()) == ([], issued[2])


async def test_an_authority_that_is_older_than_what_stands_there_leaves_it(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (east, west):
        await west.begin(issued[2])
        await east.begin(issued[0], is_authority=True)
        assert (east.taken, await east.there()) == ([], issued[2])


async def test_another_root_does_not_begin(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (_, west):
        await west.shared.write(Value(bytes(32), issued[0]).encode(), instead_of=0)
        with pytest.raises(BackboneError) as refused:
            await west.begin(issued[0])
        assert refused.value.code == "another_bus"


async def test_a_gateway_begins_with_the_newest_that_it_can_believe(home, tmp_path, server, issued):
    async with sides(home, tmp_path, server) as (_, west):
        await west.begin(issued[1])
        _, found = await newest_of([issued[0], issued[2], issued[1]], west.memory, west.verifier)
        assert found == issued[2]
        with pytest.raises(VerificationError) as refused:
            await newest_of([issued[0]], west.memory, west.verifier)
        assert refused.value.reason == "trust_rollback"
