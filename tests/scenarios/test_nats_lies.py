"""Somebody has a broker's key for NATS, and NATS's own client: what can be done with that, beyond keeping things back.

Two hubs run on servers that `tpmbus backbone nats-config` configured. What is stored again is handed over once, what is spoiled
stops nobody, and no older policy or revocation list comes back.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import nats
import pytest
from click.testing import CliRunner
from nats_servers import NatsServer, free_port
from troupe import Company, ToldError
from two_hubs import begun, until_linked

from bus.backbone.nats.layout import EXPIRES, MESSAGE_ID, Names
from bus.backbone.nats.login import Login
from bus.cli.main import cli
from bus.protocol.codec import pack, unpack

pytestmark = pytest.mark.slow

NAMES = Names("tpmbus")
WORK = NAMES.stream("work.>")
TRUST, GRANTS, CONSUMERS = "KV_tpmbus_trust", "KV_tpmbus_grants", "KV_tpmbus_consumers"
FIRST, SECOND = 1, 2
JUNK = (b"junk", pack([]), pack([b"x"]), pack([b"a", b"b"]), pack([b"a", b"b", [b"c"], b"d"]))


class Stored(NamedTuple):
    seq: int
    subject: str
    headers: dict[str, str]
    data: bytes


class Thief:
    """With NATS's own client, and the key of a broker."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def ask(self, verb: str, **body: Any) -> Any:
        return json.loads((await self._client.request(f"$JS.API.{verb}", json.dumps(body).encode(), timeout=5)).data)

    async def all(self, stream: str, subjects: str = ">") -> list[Stored]:
        found: list[Stored] = []
        while "message" in (answer := await self.ask(f"STREAM.MSG.GET.{stream}", seq=self._next(found), next_by_subj=subjects)):
            one = answer["message"]
            lines = base64.b64decode(one.get("hdrs", "")).decode().split("\r\n")[1:]
            headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
            found.append(Stored(one["seq"], one["subject"], headers, base64.b64decode(one.get("data", ""))))
        return found

    async def put(self, subject: str, data: bytes, headers: dict[str, str] | None = None) -> None:
        assert "seq" in json.loads((await self._client.request(subject, data, headers=headers, timeout=5)).data)

    async def remove(self, stream: str, one: Stored) -> None:
        assert (await self.ask(f"STREAM.MSG.DELETE.{stream}", seq=one.seq))["success"]

    def _next(self, found: list[Stored]) -> int:
        return found[-1].seq + 1 if found else 1


class Strict:
    """A server that lets brokers in, by their keys, and nobody else."""

    def __init__(self, server: NatsServer, seed: str) -> None:
        self.server, self._seed = server, seed

    def rob(self, work: Callable[[Thief], Awaitable[Any]]) -> Any:
        async def run() -> Any:
            async with self._thief() as thief:
                return await work(thief)

        return anyio.run(run)

    @asynccontextmanager
    async def _thief(self) -> AsyncIterator[Thief]:
        client = await nats.connect(self.server.url, nkeys_seed_str=self._seed, inbox_prefix=Login(seed=self._seed).inbox)
        yield Thief(client)
        await client.close()


@pytest.fixture
def strict(bus_of_nats: Company, west: Company, tmp_path: Path) -> Iterator[Strict]:
    port, out = free_port(), tmp_path / "nats"
    words = ["backbone", "nats-config", "--policy", str(bus_of_nats.policy), "--servers", f"one=127.0.0.1:{port}"]
    words += ["--out", str(out), "--store", str(tmp_path / "store"), "--broker", "hub", "--broker", "west"]
    assert CliRunner().invoke(cli, words).exit_code == 0
    for company, broker in ((bus_of_nats, "hub"), (west, "west")):
        company.environ["TPMBUS_NATS_NKEY"] = str(out / f"{broker}.nk")
    server = NatsServer(tmp_path, "one", config=out / "one.conf", port=port)
    server.begin()
    yield Strict(server, (out / "west.nk").read_text().strip())
    server.kill()


def published(actor: Any, run: int, count: int, topic: str = "work.a") -> None:
    actor.ask("publish", name="LEAD", topic=topic, run=run, count=count, stored=True)
    assert len(actor.ask("published", run=run)["stored"]) == count


def test_what_is_stored_again_is_handed_over_once_and_to_a_group_once_to_each_member(
    bus_of_nats: Company, west: Company, strict: Strict
):
    count = 20
    begun(bus_of_nats, west, strict.server)
    here, there = bus_of_nats.agents("LEAD", "ALICE"), west.agents("BOB", "CAROL")
    there.ask("subscribe", name="CAROL", pattern="work.>", durable="inbox")
    for actor, name in ((here, "ALICE"), (there, "BOB")):
        actor.ask("subscribe", name=name, pattern="work.>", group="hands", durable="walls")
    published(here, FIRST, count)
    there.ask("until", key="CAROL", run=FIRST, count=count)

    async def again(thief: Thief) -> None:
        """As it was; on another topic, and for ever; with another signature; and what is none."""
        for number, one in enumerate(await thief.all(WORK)):
            forged = one.data[:-1] + bytes([one.data[-1] ^ 1])
            for place, (subject, data, more) in enumerate(
                ((one.subject, one.data, {}), (NAMES.record("work.>", "work.b"), one.data, {EXPIRES: str(1 << 60)}),
                 (one.subject, forged, {}), (one.subject, JUNK[number % len(JUNK)], {}))
            ):  # fmt: skip
                await thief.put(subject, data, {**one.headers, **more, MESSAGE_ID: f"{number}.{place}"})

    strict.rob(again)
    published(here, SECOND, count)
    carol = there.ask("until", key="CAROL", run=SECOND, count=count)
    assert [carol[what] for what in ("messages", "twice", "ended")] == [2 * count, 0, None]
    for actor, key in ((here, "ALICE"), (there, "BOB")):
        assert actor.ask("report")["readers"][key]["twice"] == 0


def test_what_is_spoiled_where_everything_is_kept_keeps_no_gateway_from_beginning(
    bus_of_nats: Company, west: Company, strict: Strict
):
    count = 10
    hub, gateway = begun(bus_of_nats, west, strict.server)
    lead, away = bus_of_nats.agents("LEAD"), west.agents("CAROL")
    away.ask("subscribe", name="CAROL", pattern="work.>", durable="inbox")
    away.end()
    published(lead, FIRST, count)

    async def spoil(thief: Thief) -> None:
        for number, one in enumerate(await thief.all(GRANTS, "$KV.tpmbus_grants.g.>")):
            until_ms, _ = unpack(one.data, longest=2, arrays=1)
            await thief.put(one.subject, pack([until_ms, JUNK[number % len(JUNK)]]))
        [row] = await thief.all(CONSUMERS)
        fields = unpack(row.data, longest=8, arrays=1)
        for number, pattern in enumerate(("", "a..b", ">.x", "\x1b[2J")):
            name = f"forged{number}"
            await thief.put(f"$KV.tpmbus_consumers.CAROL.{name}", pack(["CAROL", name, fields[2], pattern, *fields[4:]]))

    strict.rob(spoil)
    gateway.kill()
    until_linked(hub, west.hub(backbone=strict.server.url))
    back = west.agents("CAROL")
    back.ask("subscribe", name="CAROL", pattern="work.>", durable="inbox")
    carol = back.ask("until", key="CAROL", run=FIRST, count=count)
    assert [carol[what] for what in ("messages", "twice", "ended")] == [count, 0, None]
    assert [one["name"] for one in bus_of_nats.desk("consumers")] == ["inbox"]


def test_who_was_revoked_does_not_come_back_with_an_older_list(bus_of_nats: Company, west: Company, strict: Strict):
    hub, gateway = begun(bus_of_nats, west, strict.server)
    there = west.agents("BOB")
    there.ask("subscribe", name="BOB", pattern="tasks.>")
    before = strict.rob(lambda thief: thief.all(TRUST))
    bus_of_nats.desk("revoke", name="BOB", reason="compromised")
    assert there.ask("until_ended", key="BOB")["type"] == "RevokedError"
    hub.kill()  # who would write over it

    async def roll_back(thief: Thief) -> None:
        for one in await thief.all(TRUST):
            await thief.remove(TRUST, one)
        for one in before:
            await thief.put(one.subject, one.data)

    strict.rob(roll_back)
    gateway.kill()
    west.hub(backbone=strict.server.url)
    with pytest.raises(ToldError) as refused:
        west.agents("BOB")
    assert refused.value.facts["type"] == "RevokedError"
    assert [one.data for one in strict.rob(lambda thief: thief.all(TRUST))] != [one.data for one in before]


def test_who_fills_the_disks_of_the_servers_keeps_no_revocation_from_the_other_hub(
    bus_of_nats: Company, west: Company, strict: Strict
):
    config = strict.server.folder / "nats" / "one.conf"
    room = re.compile(r"max_file_store: \S+")
    whole = config.read_text()
    strict.server.kill()
    config.write_text(room.sub("max_file_store: 1MB", whole))
    strict.server.begin()
    hub, gateway = begun(bus_of_nats, west, strict.server)
    lead, there = bus_of_nats.agents("LEAD"), west.agents("BOB", "CAROL")
    for name in ("BOB", "CAROL"):
        there.ask("subscribe", name=name, pattern="tasks.>")
    lead.ask("publish", name="LEAD", topic="work.a", run=FIRST, count=200, size=16_000, stored=True)
    assert lead.ask("published", run=FIRST)["failed"]
    bus_of_nats.desk("revoke", name="BOB", reason="compromised")
    assert there.ask("until_ended", key="BOB", seconds=10)["type"] == "RevokedError"
    hub.kill()
    hub = bus_of_nats.hub(backbone=strict.server.url)  # it has what it cannot store, and begins

    strict.server.kill()
    config.write_text(whole)
    strict.server.begin()
    until_linked(hub, gateway)
    lead.ask("publish", name="LEAD", topic="tasks.a", run=SECOND, count=20)
    assert there.ask("until", key="CAROL", run=SECOND, count=20)["messages"] == 20
    gateway.kill()
    west.hub(backbone=strict.server.url)
    with pytest.raises(ToldError) as refused:
        west.agents("BOB")
    assert refused.value.facts["type"] == "RevokedError"
