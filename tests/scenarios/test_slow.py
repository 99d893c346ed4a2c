"""Readers that are slow or never say that they are done, and a disk without room: they cost themselves, and it is said what."""

from __future__ import annotations

import pytest
from sizes import size
from troupe import Company

pytestmark = pytest.mark.soak
LIVE, KEPT, MORE = 1, 2, 3


def test_a_slow_reader_is_ended_or_loses_and_costs_nobody_else_anything(bus_of: Company):
    """Of four who do not read: one blocks and is ended, two drop what is too much and see how much that was, one is cut."""
    count, limit = size(6_000, 100_000), 100
    hub = bus_of.hub()
    lead, quick, slow = bus_of.agents("LEAD"), bus_of.agents("ALICE"), bus_of.agents("BOB")
    quick.ask("subscribe", name="ALICE", pattern="tasks.>")
    for overflow in ("block", "drop_oldest", "drop_newest", "disconnect"):
        slow.ask("subscribe", name="BOB", pattern="tasks.>", key=overflow, overflow=overflow, limit=limit, hold=True)
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=count, rate=2_000)
    quick.ask("until", key="ALICE", run=LIVE, number=count - 1)
    for overflow in ("block", "drop_oldest", "drop_newest", "disconnect"):
        slow.ask("hold", key=overflow, goes=True)
    for overflow in ("block", "disconnect"):
        assert slow.ask("until_ended", key=overflow)["type"] == "SlowReaderError"
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1, first=count)
    for overflow in ("drop_oldest", "drop_newest"):
        found = slow.ask("until", key=overflow, run=LIVE, number=count)
        assert found["came"][str(LIVE)] + found["missed"] == count + 1
        assert found["missed"] == found["dropped"] > 0
        assert found["twice"] == found["out of order"] == 0
    alice = quick.ask("until", key="ALICE", run=LIVE, number=count)
    assert alice["came"][str(LIVE)] == count + 1
    assert alice["missed"] == alice["twice"] == alice["out of order"] == 0
    counted = hub.ask("statistics")["broker"]
    assert counted["copies"] == counted["delivered"] + sum(counted["dropped"].values()) + counted["held"]
    assert counted["held"] == 0


def test_a_reader_that_never_says_it_is_done_gets_it_again_and_then_it_is_a_dead_letter(bus_of: Company):
    count, deliveries = size(50, 1_000), 2
    bus_of.change(
        "class: durable, retention: 1d, ack_wait: 30s", f"class: durable, retention: 1d, ack_wait: 1s, max_deliver: {deliveries}"
    )
    bus_of.hub()
    lead, never, others = bus_of.agents("LEAD"), bus_of.agents("BOB"), bus_of.agents("ALICE")
    never.ask("subscribe", name="BOB", pattern="work.>", durable="inbox", acks="never")
    others.ask("subscribe", name="ALICE", pattern="work.>", durable="inbox")
    lead.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=count, stored=True)
    assert len(lead.ask("published", run=KEPT)["stored"]) == count
    never.ask("in_all", key="BOB", count=deliveries * count)
    while len(dead := bus_of.desk("dead_letters", most=10_000)) < count:
        pass  # each question is a round trip to the hub, whose clock it is
    assert {(one["reason"], one["deliveries"], one["consumer"]) for one in dead} == {
        ("max_deliver", deliveries, dead[0]["consumer"])
    }
    assert len({one["original"] for one in dead}) == count
    bob = never.ask("report")["readers"]["BOB"]
    assert (bob["came"][str(KEPT)], bob["messages"]) == (count, deliveries * count)
    alice = others.ask("until", key="ALICE", run=KEPT, count=count)
    assert (alice["messages"], alice["twice"]) == (count, 0)


def test_a_disk_without_room_refuses_what_it_cannot_keep_and_all_else_goes_on(bus_of: Company):
    count = size(300, 5_000)
    hub = bus_of.hub()
    lead, alice = bus_of.agents("LEAD"), bus_of.agents("ALICE")
    alice.ask("subscribe", name="ALICE", pattern="tasks.>", key="live")
    alice.ask("subscribe", name="ALICE", pattern="work.>", key="kept", durable="inbox")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1_000_000, rate=300)
    lead.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=50, stored=True)
    assert len(lead.ask("published", run=KEPT)["stored"]) == 50
    hub.ask("room", limit=1)
    lead.ask("publish", name="LEAD", topic="work.a", run=MORE, count=count, stored=True)
    full = lead.ask("published", run=MORE)
    assert full["stored"] == []
    assert {word.split()[0] for word in full["failed"]} == {"BackboneError"}
    assert sum(map(len, full["failed"].values())) == count
    hub.ask("room", limit=None)
    lead.ask("publish", name="LEAD", topic="work.a", run=MORE + 10, count=count, stored=True)
    after = lead.ask("published", run=MORE + 10)
    assert (len(after["stored"]), after["failed"]) == (count, {})
    found = alice.ask("until", key="kept", run=MORE + 10, count=count)
    assert found["came"] == {str(KEPT): 50, str(MORE + 10): count}
    said = lead.ask("published", run=LIVE, stop=True)["accepted"]
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1, first=said)
    live = alice.ask("until", key="live", run=LIVE, number=said)
    assert live["came"][str(LIVE)] == said + 1
    assert live["missed"] == live["twice"] == 0
    counted = hub.ask("statistics")["broker"]
    assert counted["kept"] == counted["stored"] + sum(counted["not_stored"].values()) + counted["storing"]
