"""Two hubs on one bus, over a real NATS: agents do not notice where the others are, and one that is killed costs what is said.

East has the authority; West is a gateway with a state folder and a socket of its own. What is live is at most once between them,
and a gap shows as missed; what was acknowledged as stored is there once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from actor import FILLED_WITH
from cut_wire import cut_wire
from nats_servers import NatsServer, nats_cluster, nats_cluster_in_two_places, nats_server
from sizes import note
from troupe import Actor, Company
from two_hubs import begun, until_linked

pytestmark = pytest.mark.slow

LIVE, KEPT, SHARED, FAR = 1, 2, 3, 4


@pytest.fixture
def server() -> Iterator[NatsServer]:
    with nats_server() as one:
        yield one


def until_shared(count: int, readers: list[tuple[Actor, str, int]]) -> None:
    """Each number went to one of them, once."""
    until, parts = time.monotonic() + 30, []
    while sum(map(len, parts)) < count:
        assert time.monotonic() < until, [*map(len, parts)]
        parts = [actor.ask("numbers", key=key, run=run) for actor, key, run in readers]
    assert sorted(number for part in parts for number in part) == [*range(count)]
    assert all(actor.ask("report")["readers"][key]["twice"] == 0 for actor, key, _ in readers)


def test_agents_of_two_hubs_publish_ask_share_and_keep_as_those_of_one(bus_of_nats: Company, west: Company, server: NatsServer):
    count = 500
    begun(bus_of_nats, west, server)
    here = bus_of_nats.agents("LEAD", "ALICE")
    there = west.agents("BOB", "CAROL")
    there.ask("subscribe", name="BOB", pattern="tasks.one.>")
    there.ask("subscribe", name="CAROL", pattern="work.>", durable="inbox")
    for name in ("BOB", "CAROL"):
        there.ask("subscribe", name=name, pattern="tasks.shared.>", group="hands", key=f"shared {name}")
    for actor, name in ((here, "ALICE"), (there, "BOB")):
        actor.ask("subscribe", name=name, pattern="work.>", group="hands", durable="walls", key="walls")
    there.ask("reply", name="CAROL", pattern="tasks.ask.>")

    here.ask("publish", name="LEAD", topic="tasks.one.a", run=LIVE, count=count, rate=1_000)
    here.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=count, stored=True)
    here.ask("publish", name="LEAD", topic="tasks.shared.a", run=SHARED, count=count, rate=1_000)
    said, stored, shared = (here.ask("published", run=run) for run in (LIVE, KEPT, SHARED))
    assert (said["accepted"], shared["accepted"], len(stored["stored"]), stored["positions"]) == (count,) * 4

    bob = there.ask("until", key="BOB", run=LIVE, count=count)
    carol = there.ask("until", key="CAROL", run=KEPT, count=count)
    for reader in (bob, carol):
        assert [reader[what] for what in ("messages", "missed", "twice", "out of order")] == [count, 0, 0, 0]
    assert here.ask("request", name="LEAD", topic="tasks.ask.me", count=20) == 20
    until_shared(count, [(there, "shared BOB", SHARED), (there, "shared CAROL", SHARED)])
    until_shared(count, [(here, "walls", KEPT), (there, "walls", KEPT)])


def test_nats_sees_who_talks_about_what_is_kept_and_nothing_of_what_is_said(
    bus_of_nats: Company, west: Company, server: NatsServer
):
    """On the wires of both hubs, and on the server's disk: said live, kept, asked and answered."""
    count = 100
    with cut_wire(int(server.url.rpartition(":")[2])) as wire:
        server.url, direct = f"nats://127.0.0.1:{wire.port}", server.url
        begun(bus_of_nats, west, server)
        here, there = bus_of_nats.agents("LEAD"), west.agents("BOB", "CAROL")
        there.ask("subscribe", name="BOB", pattern="tasks.one.>")
        there.ask("subscribe", name="CAROL", pattern="work.>", durable="inbox")
        there.ask("reply", name="CAROL", pattern="tasks.ask.>")
        here.ask("publish", name="LEAD", topic="tasks.one.a", run=LIVE, count=count, rate=1_000)
        here.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=count, stored=True)
        assert there.ask("until", key="BOB", run=LIVE, count=count)["messages"] == count
        assert there.ask("until", key="CAROL", run=KEPT, count=count)["messages"] == count
        assert here.ask("request", name="LEAD", topic="tasks.ask.me", count=20) == 20
        server.url = direct
        heard = bytes(wire.heard)
    stored = b"".join(file.read_bytes() for file in server.folder.rglob("*") if file.is_file())
    for place in (heard, stored):
        assert FILLED_WITH not in place
        assert b"LEAD" in place  # of durable messages the sender and the topic, as the specification says
        assert len(place) > 2 * count * len(FILLED_WITH)


def test_who_is_revoked_at_one_hub_is_cut_off_at_the_other(bus_of_nats: Company, west: Company, server: NatsServer):
    names, took_ms = ("BOB", "CAROL", "DAVE"), []
    begun(bus_of_nats, west, server)
    there = west.agents(*names)
    for name in names:
        there.ask("subscribe", name=name, pattern="tasks.>")
    for name in names:
        bus_of_nats.desk("revoke", name=name, reason="compromised")
        answered = time.monotonic_ns()
        ended = there.ask("until_ended", key=name)
        assert ended["type"] == "RevokedError"
        took_ms.append((ended["at_ns"] - answered) / 1e6)
    note("revoked at one hub, cut off at the other", max(took_ms), "ms", 1_000)
    assert sorted(took_ms)[1] < 1_000, "of three the one in the middle: the machine has other things to do"


@pytest.mark.parametrize("apart", [False, True], ids=["hub", "broker apart"])
def test_a_gateway_that_is_killed_costs_what_was_said_live_and_nothing_else(
    bus_of_nats: Company, west: Company, server: NatsServer, apart: bool
):
    kept = 600
    _, gateway = begun(bus_of_nats, west, server, apart=apart)
    lead, here, there = bus_of_nats.agents("LEAD"), bus_of_nats.agents("ALICE", "BOB"), west.agents("CAROL", "DAVE")
    here.ask("subscribe", name="ALICE", pattern="tasks.>")
    here.ask("subscribe", name="BOB", pattern="work.>", durable="inbox")
    there.ask("subscribe", name="CAROL", pattern="tasks.>")
    there.ask("subscribe", name="DAVE", pattern="work.>", durable="inbox")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=100_000, rate=500)
    lead.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=kept, rate=300, stored=True)
    there.ask("until", key="CAROL", run=LIVE, count=50)
    there.ask("until", key="DAVE", run=KEPT, count=20)

    if apart:
        west.kill_broker(gateway)
    else:
        gateway.kill()
    here.ask("more", key="ALICE", count=200)  # who reads elsewhere goes on
    if not apart:
        west.hub(backbone=server.url)
    for name in ("CAROL", "DAVE"):
        there.ask("until_event", name=name, kind="Connected", count=1)
    there.ask("more", key="CAROL", count=50)
    there.ask("until", key="DAVE", run=KEPT, count=kept)
    live, stored = lead.ask("published", run=LIVE, stop=True), lead.ask("published", run=KEPT)
    assert (len(stored["stored"]), stored["positions"], stored["failed"], live["failed"]) == (kept, kept, {}, {})

    last = live["accepted"]
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1, first=last)
    alice, carol = (actor.ask("until", key=key, run=LIVE, number=last) for actor, key in ((here, "ALICE"), (there, "CAROL")))
    assert [alice[what] for what in ("messages", "missed", "twice", "out of order", "ended")] == [last + 1, 0, 0, 0, None]
    assert carol["messages"] + carol["missed"] == last + 1
    assert (carol["missed"] > 0, carol["twice"], carol["out of order"], carol["ended"]) == (True, 0, 0, None)
    for actor, key in ((here, "BOB"), (there, "DAVE")):
        reader = actor.ask("until", key=key, run=KEPT, count=kept)
        assert [reader["came"][str(KEPT)], reader["missed"], reader["twice"]] == [kept, 0, 0]


def test_a_server_of_the_cluster_that_is_killed_under_two_gateways_costs_nothing_that_was_stored(
    bus_of_nats: Company, west: Company
):
    kept = 600
    with nats_cluster() as servers:
        hub, gateway = begun(bus_of_nats, west, *servers)
        lead, here, there = bus_of_nats.agents("LEAD"), bus_of_nats.agents("ALICE", "BOB"), west.agents("CAROL", "DAVE")
        here.ask("subscribe", name="ALICE", pattern="tasks.>")
        there.ask("subscribe", name="CAROL", pattern="tasks.>")
        there.ask("subscribe", name="DAVE", pattern="work.>", durable="inbox")
        lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=100_000, rate=500)
        lead.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=kept, rate=200, stored=True)
        there.ask("until", key="CAROL", run=LIVE, count=50)
        there.ask("until", key="DAVE", run=KEPT, count=20)

        servers[-1].kill()  # the one by which West is there
        here.ask("more", key="ALICE", count=200)
        until_linked(hub, gateway)
        assert gateway.ask("statistics")["broker"]["backbone"]["connections_lost"] == 1
        there.ask("more", key="CAROL", count=50)
        stored = lead.ask("published", run=KEPT)
        assert (len(stored["stored"]), stored["positions"], stored["failed"]) == (kept, kept, {})
        dave = there.ask("until", key="DAVE", run=KEPT, count=kept)
        assert [dave["came"][str(KEPT)], dave["missed"], dave["twice"]] == [kept, 0, 0]

        last = lead.ask("published", run=LIVE, stop=True)["accepted"]
        lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1, first=last)
        alice, carol = (actor.ask("until", key=key, run=LIVE, number=last) for actor, key in ((here, "ALICE"), (there, "CAROL")))
        assert [alice[what] for what in ("messages", "missed", "twice", "out of order")] == [last + 1, 0, 0, 0]
        assert [carol["messages"] + carol["missed"], carol["twice"], carol["out of order"]] == [last + 1, 0, 0]


def test_a_network_that_is_cut_in_two_and_heals_costs_nothing_that_was_stored(bus_of_nats: Company, west: Company):
    """West is with the one server that is cut off, and both of them go on running."""
    kept = 300
    with nats_cluster_in_two_places() as (servers, wire):
        hub, gateway = begun(bus_of_nats, west, *servers)
        lead, here, there = bus_of_nats.agents("LEAD"), bus_of_nats.agents("ALICE", "BOB"), west.agents("DEPUTY", "CAROL", "DAVE")
        here.ask("subscribe", name="ALICE", pattern="tasks.>")
        there.ask("subscribe", name="CAROL", pattern="tasks.>")
        for actor, name in ((here, "BOB"), (there, "DAVE")):
            actor.ask("subscribe", name=name, pattern="work.>", durable="inbox")
        lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=100_000, rate=200)
        for actor, name, run in ((lead, "LEAD", KEPT), (there, "DEPUTY", SHARED)):
            actor.ask("publish", name=name, topic=f"work.{name}", run=run, count=kept, rate=50, stored=True)
        there.ask("until", key="CAROL", run=LIVE, count=50)
        there.ask("until", key="DAVE", run=KEPT, count=20)

        wire.cut()
        until_linked(hub, others=0)
        until_linked(gateway, others=0)
        here.ask("more", key="ALICE", count=100)
        there.ask("publish", name="DEPUTY", topic="tasks.far", run=FAR, count=20)
        there.ask("until", key="CAROL", run=FAR, count=20)  # each side goes on
        wire.mend()
        until_linked(hub, gateway)
        there.ask("more", key="CAROL", count=50)
        for actor, run in ((lead, KEPT), (there, SHARED)):
            stored = actor.ask("published", run=run)
            assert (len(stored["stored"]), stored["positions"], stored["failed"]) == (kept, kept, {})
        for actor, key in ((here, "BOB"), (there, "DAVE")):
            for run in (KEPT, SHARED):
                reader = actor.ask("until", key=key, run=run, count=kept)
                assert [reader["came"][str(run)], reader["twice"]] == [kept, 0]

        last = lead.ask("published", run=LIVE, stop=True)["accepted"]
        lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1, first=last)
        alice, carol = (actor.ask("until", key=key, run=LIVE, number=last) for actor, key in ((here, "ALICE"), (there, "CAROL")))
        assert [alice[what] for what in ("messages", "missed", "twice", "out of order")] == [last + 1, 0, 0, 0]
        assert [carol["came"][str(LIVE)] + carol["missed"], carol["twice"], carol["out of order"]] == [last + 1, 0, 0]
        assert carol["missed"] > 0


def test_those_at_a_gateway_go_on_while_the_hub_with_the_authority_is_away(bus_of_nats: Company, west: Company, server: NatsServer):
    count = 200
    hub, gateway = begun(bus_of_nats, west, server)
    there, alice = west.agents("LEAD", "CAROL"), west.agents("ALICE")
    there.ask("subscribe", name="CAROL", pattern="tasks.>")
    alice.ask("subscribe", name="ALICE", pattern="work.>", durable="inbox")
    hub.kill()
    there.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=count, rate=1_000)
    there.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=count, stored=True)
    carol, kept = there.ask("until", key="CAROL", run=LIVE, count=count), alice.ask("until", key="ALICE", run=KEPT, count=count)
    assert [reader[what] for reader in (carol, kept) for what in ("messages", "missed", "twice")] == [count, 0, 0] * 2
    hub = bus_of_nats.hub(backbone=server.url)
    until_linked(hub, gateway)
    bus_of_nats.desk("revoke", name="CAROL", reason="compromised")
    assert there.ask("until_ended", key="CAROL")["type"] == "RevokedError"
