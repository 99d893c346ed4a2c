"""Processes that are killed under load: everybody comes back by itself, and every message is accounted for.

What a reader was handed, what it missed, and what found no reader is all that was published. What was stored is handed over, and
what was acknowledged is not handed over again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from accounts import sent, until_heard, until_outstanding
from troupe import Actor, Company, told

pytestmark = pytest.mark.slow

LIVE, KEPT, OTHER = 1, 2, 3


def grants_and_sessions(*actors: Actor) -> list[tuple[int, int]]:
    """What each host granted, and had certified by its TPM."""
    hosts = [host for actor in actors for host in actor.ask("report")["hosts"]]
    return [(host["keyring"]["grants_given"]["made"], host["sessions"]["certified"]) for host in hosts]


@pytest.mark.parametrize("apart", [False, True], ids=["hub", "broker apart"])
def test_a_broker_that_is_killed_costs_no_grant_no_signature_and_nothing_that_was_stored(bus_of: Company, apart: bool):
    kept, kills = 1_000, 2
    hub = bus_of.hub(apart=apart)
    lead, readers = bus_of.agents("LEAD", loop="asyncio"), bus_of.agents("ALICE", "BOB", loop="trio")
    readers.ask("subscribe", name="ALICE", pattern="tasks.>")
    readers.ask("subscribe", name="BOB", pattern="work.>", durable="inbox")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=100_000, rate=1_000)
    lead.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=kept, rate=500, stored=True)
    readers.ask("until", key="ALICE", run=LIVE, count=100)
    readers.ask("until", key="BOB", run=KEPT, count=50)
    grants, done = grants_and_sessions(lead, readers), hub.ask("statistics")["tpm"]
    for turn in range(1, kills + 1):
        if apart:
            bus_of.kill_broker(hub)
        else:
            hub.kill()
            hub = bus_of.hub()
        for actor, name in ((lead, "LEAD"), (readers, "ALICE"), (readers, "BOB")):
            actor.ask("until_event", name=name, kind="Connected", count=turn)
        readers.ask("until", key="BOB", run=KEPT, count=50 + turn * kept // 4)
        readers.ask("more", key="ALICE", count=100)
    said, stored = lead.ask("published", run=LIVE, stop=True), lead.ask("published", run=KEPT)
    live = said["accepted"]
    assert said["failed"] == {}
    assert (stored["accepted"], len(stored["stored"]), stored["positions"], stored["failed"]) == (kept, kept, kept, {})

    alice = until_heard(lead, "LEAD", "tasks.a", readers, key="ALICE", run=LIVE, number=live)
    assert alice["came"][str(LIVE)] + alice["missed"] + sent(lead, "unheard") == live + 1
    assert (alice["twice"], alice["out of order"], alice["ended"]) == (0, 0, None)
    bob = readers.ask("until", key="BOB", run=KEPT, count=kept)
    assert (bob["came"][str(KEPT)], bob["missed"], bob["twice"]) == (kept, 0, 0)
    assert grants_and_sessions(lead, readers) == grants
    now = hub.ask("statistics")["tpm"]
    assert now["signatures"] == done["signatures"]
    if apart:
        assert now["operations"] == done["operations"], "an authority unseals its key when it is opened; this one was not"


def test_what_a_new_hub_delivers_a_second_time_is_handed_out_once(bus_of: Company):
    """BOB was handed one and takes its time with it, while all of them come again."""
    kept = 200
    hub = bus_of.hub()
    lead, bob = bus_of.agents("LEAD"), bus_of.agents("BOB")
    bob.ask("subscribe", name="BOB", pattern="work.>", durable="inbox", hold=True)
    lead.ask("publish", name="LEAD", topic="work.a", run=KEPT, count=kept, stored=True)
    lead.ask("published", run=KEPT)
    for times in range(1, 4):
        until_outstanding(bus_of, kept)
        bob.ask("delivered", name="BOB", count=times * kept)
        if times < 3:
            hub.kill()
            hub = bus_of.hub()
    bob.ask("hold", key="BOB", goes=True)
    until_outstanding(bus_of, 0)
    found = bob.ask("report")["readers"]["BOB"]
    assert (found["came"], found["messages"]) == ({str(KEPT): kept}, kept)


def test_agents_that_are_killed_leave_nothing_behind_and_go_on_where_they_were(bus_of: Company, tmp_path: Path):
    """DEPUTY and ALICE are elsewhere, and must not notice. LEAD and BOB are killed, each time while both are at work."""
    each, kills = 300, 3
    handed, stored = tmp_path / "handed", tmp_path / "stored"
    hub = bus_of.hub()
    others = bus_of.agents("DEPUTY", "ALICE")
    others.ask("subscribe", name="ALICE", pattern="tasks.>")
    others.ask("publish", name="DEPUTY", topic="tasks.a", run=OTHER, count=100_000, rate=500)
    for turn in range(kills + 1):
        lead, bob = bus_of.agents("LEAD"), bus_of.agents("BOB")
        bob.ask("subscribe", name="BOB", pattern="work.>", durable="inbox", acks="confirmed", tell=str(handed))
        lead.ask("publish", name="LEAD", topic="work.a", run=KEPT + 10 * turn, count=each, stored=True, window=50, tell=str(stored))
        lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE + 10 * turn, count=100_000, rate=500)
        if turn < kills:
            lead.ask("progress", run=KEPT + 10 * turn, count=each // 3)
            lead.kill()
            bob.ask("until", key="BOB", run=KEPT + 10 * turn, count=each // 4)
            bob.kill()
            assert hub.ask("statistics")["broker"]["agents"] == 2
    last = KEPT + 10 * kills
    assert len(lead.ask("published", run=last)["stored"]) == each
    bob.ask("until", key="BOB", run=last, number=each - 1)
    lead.ask("published", run=LIVE + 10 * kills, stop=True)

    said = others.ask("published", run=OTHER, stop=True)
    alice = until_heard(others, "DEPUTY", "tasks.a", others, key="ALICE", run=OTHER, number=said["accepted"])
    assert alice["came"][str(OTHER)] == said["accepted"] + 1
    assert alice["missed"] == alice["twice"] == alice["out of order"] == 0

    until_outstanding(bus_of, 0)
    acked, handed_out = set(), set()
    for what, *message in told(handed):
        assert what == "acked" or tuple(message) not in acked, "what was acknowledged did not come again"
        (acked if what == "acked" else handed_out).add(tuple(message))
    assert {tuple(message) for _, *message in told(stored)} <= handed_out, "what was stored was handed over"


def orders_survive(found_bus: Company, kill: Callable[[], None], *, rate: int, kills: int = 3) -> None:
    """Each order of LEAD needs its TPM, which is killed meanwhile. ALICE gets each of them once, and all that is said live."""
    lead, alice = found_bus.agents("LEAD"), found_bus.agents("ALICE")
    alice.ask("subscribe", name="ALICE", pattern=">")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=100_000, rate=500)
    lead.ask("publish", name="LEAD", topic="control.a", run=KEPT, count=100_000, rate=rate, wait="sent")
    alice.ask("until", key="ALICE", run=KEPT, count=10)
    for _ in range(kills):
        kill()
        so_far = lead.ask("progress", run=KEPT, count=0)
        alice.ask("until", key="ALICE", run=KEPT, number=so_far + 10)  # signed after that: so it was started again
    said = lead.ask("published", run=KEPT, stop=True)
    orders = said["accepted"]
    assert said["failed"] == {}
    alice.ask("until", key="ALICE", run=KEPT, number=orders - 1)
    spoken = lead.ask("published", run=LIVE, stop=True)["accepted"]
    found = until_heard(lead, "LEAD", "tasks.a", alice, key="ALICE", run=LIVE, number=spoken)
    assert found["came"] == {str(KEPT): orders, str(LIVE): spoken + 1}
    assert found["by identity"] == orders
    assert found["twice"] == found["missed"] == found["out of order"] == 0


def test_a_tpm_service_that_is_killed_is_started_again_by_whoever_needs_it(bus_of: Company):
    bus_of.hub()
    orders_survive(bus_of, bus_of.kill_service, rate=200)
    bus_of.agents("BOB")  # who opens now has a service too


def test_a_software_tpm_that_is_killed_is_started_again_and_no_order_is_lost(bus_with_tpm: Company):
    bus_with_tpm.hub()
    orders_survive(bus_with_tpm, bus_with_tpm.kill_swtpm, rate=100)
