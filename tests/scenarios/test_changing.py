"""A world that changes under load: policy, revocations, who is where, the date, and a hub that is told to end.

Who is meant notices; everybody else goes on, and misses nothing.
"""

from __future__ import annotations

import time

import pytest
from accounts import until_heard
from sizes import note, size
from troupe import Company, ToldError

pytestmark = pytest.mark.soak
LIVE, AGAIN = 1, 2


def test_a_reload_under_load_shuts_one_out_while_others_go_on(bus_of: Company):
    count = size(2_000, 50_000)
    hub = bus_of.hub()
    lead, others, shut_out = bus_of.agents("LEAD"), bus_of.agents("ALICE"), bus_of.agents("EVE")
    others.ask("subscribe", name="ALICE", pattern="tasks.>")
    shut_out.ask("subscribe", name="EVE", pattern="tasks.open")
    lead.ask("publish", name="LEAD", topic="tasks.open", run=LIVE, count=count, rate=1_000)
    shut_out.ask("until", key="EVE", run=LIVE, count=100)
    bus_of.change("subscribe: [tasks.open]", "subscribe: [tasks.other]")
    assert hub.ask("reload") is True
    ended = shut_out.ask("until_ended", key="EVE")
    assert (ended["type"], ended["agent"]) == ("NotPermittedError", "EVE")
    assert ended["rule"], "it is told the rule that did it"
    said = lead.ask("published", run=LIVE)
    assert (said["accepted"], said["failed"]) == (count, {})
    alice = others.ask("until", key="ALICE", run=LIVE, number=count - 1)
    assert alice["came"][str(LIVE)] == count
    assert alice["missed"] == alice["twice"] == alice["out of order"] == 0
    eve = shut_out.ask("report")["readers"]["EVE"]["came"][str(LIVE)]
    assert 100 <= eve < count


@pytest.mark.parametrize("apart", [False, True], ids=["hub", "broker apart"])
def test_a_revocation_cuts_a_live_agent_within_a_tenth_of_a_second(bus_of: Company, apart: bool):
    hub = bus_of.hub(apart=apart)
    lead, alice, bob = bus_of.agents("LEAD"), bus_of.agents("ALICE"), bus_of.agents("BOB")
    for reader, name in ((alice, "ALICE"), (bob, "BOB")):
        reader.ask("subscribe", name=name, pattern="tasks.>")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1_000_000, rate=500)
    bob.ask("until", key="BOB", run=LIVE, count=50)
    bus_of.desk("revoke", name="BOB", reason="compromised")
    ended = bob.ask("until_ended", key="BOB")
    assert ended["type"] == "RevokedError"
    if not apart:  # the hub that is watched is the one whose broker accepted it
        accepted = hub.ask("statistics")["followed"][-1]
        note("a revocation, from its acceptance to the end of the agent", (ended["at_ns"] - accepted) / 1e6, "ms", 100)
    with pytest.raises(ToldError) as caught:
        bus_of.agents("BOB")
    assert caught.value.facts["reason"] == "revoked"
    said = lead.ask("published", run=LIVE, stop=True)["accepted"]
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1, first=said)
    found = alice.ask("until", key="ALICE", run=LIVE, number=said)
    assert found["came"][str(LIVE)] == said + 1
    assert found["missed"] == found["twice"] == 0


def test_who_is_opened_elsewhere_is_taken_over_and_the_new_one_goes_on(bus_of: Company):
    hub = bus_of.hub()
    lead, first = bus_of.agents("LEAD"), bus_of.agents("ALICE")
    first.ask("subscribe", name="ALICE", pattern="tasks.>")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1_000_000, rate=500)
    first.ask("until", key="ALICE", run=LIVE, count=50)
    second = bus_of.agents("ALICE", loop="trio")
    assert first.ask("until_ended", key="ALICE")["type"] == "SessionReplacedError"
    second.ask("subscribe", name="ALICE", pattern="tasks.>")
    found = second.ask("until", key="ALICE", run=LIVE, count=50)
    assert (found["missed"], found["twice"]) == (0, 0)
    assert hub.ask("statistics")["broker"]["agents"] == 2
    assert lead.ask("published", run=LIVE, stop=True)["failed"] == {}


@pytest.mark.parametrize("seconds", [3_600, -3_600], ids=["forward", "back"])
def test_a_clock_that_jumps_stops_nobody_else(bus_of: Company, seconds: int):
    hub = bus_of.hub()
    lead, deputy, alice = bus_of.agents("LEAD"), bus_of.agents("DEPUTY"), bus_of.agents("ALICE")
    alice.ask("subscribe", name="ALICE", pattern="tasks.>")
    deputy.ask("publish", name="DEPUTY", topic="tasks.b", run=AGAIN, count=1_000_000, rate=300)
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=50)
    alice.ask("until", key="ALICE", run=LIVE, count=50)
    lead.ask("jump", seconds=seconds)
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE + 10, count=20, rate=100)
    alice.ask("more", key="ALICE", count=100)
    lead.ask("jump", seconds=-seconds)
    right_again = time.monotonic()
    wrong = lead.ask("published", run=LIVE + 10)
    assert wrong["accepted"] + sum(map(len, wrong["failed"].values())) == 20, "it is told what is not sent"
    again = LIVE + 20
    while lead.ask("publish", name="LEAD", topic="tasks.a", run=again, count=1) or lead.ask("published", run=again)["failed"]:
        again += 1
    note("a clock that is right again: the sender goes on after", time.monotonic() - right_again, "s", 10)
    lead.ask("publish", name="LEAD", topic="tasks.a", run=again + 1, count=50)
    alice.ask("until", key="ALICE", run=again + 1, count=50)
    said = deputy.ask("published", run=AGAIN, stop=True)["accepted"]
    deputy.ask("publish", name="DEPUTY", topic="tasks.b", run=AGAIN, count=1, first=said)
    found = alice.ask("until", key="ALICE", run=AGAIN, number=said)
    assert found["came"][str(AGAIN)] == said + 1
    assert found["twice"] == 0
    counted = hub.ask("statistics")["broker"]
    assert counted["received"] == counted["admitted"] + sum(counted["refused"].values())


@pytest.mark.parametrize("seconds", [3_600, -3_600], ids=["forward", "back"])
def test_a_hub_whose_clock_jumps_goes_on_when_it_is_right_again_and_what_it_refused_shows_as_missed(bus_of: Company, seconds: int):
    hub = bus_of.hub()
    deputy, alice = bus_of.agents("DEPUTY"), bus_of.agents("ALICE")
    alice.ask("subscribe", name="ALICE", pattern="tasks.>")
    deputy.ask("publish", name="DEPUTY", topic="tasks.b", run=LIVE, count=50)
    alice.ask("until", key="ALICE", run=LIVE, count=50)
    hub.ask("jump", seconds=seconds)
    deputy.ask("publish", name="DEPUTY", topic="tasks.b", run=LIVE + 10, count=20, rate=100)
    assert deputy.ask("published", run=LIVE + 10)["over"]
    hub.ask("jump", seconds=-seconds)
    deputy.ask("publish", name="DEPUTY", topic="tasks.b", run=AGAIN, count=50)
    found = alice.ask("until", key="ALICE", run=AGAIN, number=49)
    refused = sum(hub.ask("statistics")["broker"]["refused"].values())
    came = sum(found["came"].values())
    assert (came + found["missed"], found["missed"], found["twice"]) == (120, refused, 0)


def test_a_hub_that_is_told_to_end_delivers_what_it_has_and_says_so(bus_of: Company):
    count = size(1_000, 20_000)
    hub = bus_of.hub()
    lead, alice = bus_of.agents("LEAD"), bus_of.agents("ALICE")
    alice.ask("subscribe", name="ALICE", pattern=">")
    lead.ask("publish", name="LEAD", topic="work.a", run=LIVE, count=count, stored=True)
    lead.ask("progress", run=LIVE, count=count // 4)
    assert hub.end()[-1] == {"ended": "SIGTERM"}
    assert not bus_of.state.bus_socket.exists(), "it leaves nothing behind"
    bus_of.hub()
    said = lead.ask("published", run=LIVE)
    assert (len(said["stored"]), said["positions"], said["failed"]) == (count, count, {})
    alice.ask("until_connected", name="ALICE")
    found = until_heard(lead, "LEAD", "work.a", alice, key="ALICE", run=LIVE, number=count)
    assert found["came"][str(LIVE)] + found["missed"] == count + 1
    assert found["twice"] == found["out of order"] == 0
