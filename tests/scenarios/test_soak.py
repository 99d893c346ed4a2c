"""Everything at once, for as long as there is time: messages by the thousand, and somebody is killed at random. The counts add up.

What LEAD said live was handed to ALICE, shows as missed, or found no reader. What it was told is stored was handed to BOB or is a
dead letter, and what he acknowledged did not come again. TPMBUS_SOAK_SEED says again what a run that failed had printed.
"""

from __future__ import annotations

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from accounts import sent, until_heard, until_outstanding
from sizes import note, size
from troupe import Actor, Company, told

pytestmark = [pytest.mark.soak, pytest.mark.timeout(size(120, 1_500))]
LIVE, KEPT = 1, 2
SECONDS = size(3, 600)
MESSAGES = size(2_000, 100_000)
"""Of each kind."""


def test_random_kills_lose_nothing_that_is_not_accounted_for(bus_of: Company, tmp_path: Path):
    seed = int(os.environ.get("TPMBUS_SOAK_SEED") or random.randrange(2**32))
    print(f"seed {seed}")
    dice, kills = random.Random(seed), dict.fromkeys(("hub", "service", "reader"), 0)
    handed, stored = tmp_path / "handed", tmp_path / "stored"
    bus_of.change("ack_wait: 30s", "ack_wait: 3s")  # an ack that a kill swallows is said again after this
    hub = bus_of.hub()
    lead, alice, bob = bus_of.agents("LEAD"), bus_of.agents("ALICE"), reader_of_what_is_kept(bus_of, handed)
    alice.ask("subscribe", name="ALICE", pattern="tasks.>")
    lead.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=MESSAGES, rate=MESSAGES / SECONDS)
    lead.ask(
        "publish", name="LEAD", topic="work.a", run=KEPT, count=MESSAGES, rate=MESSAGES / SECONDS, stored=True, tell=str(stored)
    )
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        time.sleep(min(dice.uniform(0.3, size(1.0, 10.0)), max(until - time.monotonic(), 0)))  # the moment is the lot's
        victim = dice.choice([*kills])
        kills[victim] += 1
        if victim == "hub":
            hub.kill()
            hub = bus_of.hub()
        elif victim == "service" and bus_of.service_pid:
            bus_of.kill_service()
        elif victim == "reader":
            bob.kill()
            bob = reader_of_what_is_kept(bus_of, handed)
    said, kept = lead.ask("published", run=LIVE, seconds=80), lead.ask("published", run=KEPT, seconds=80)
    assert (said["accepted"], said["failed"]) == (MESSAGES, {})
    assert (len(kept["stored"]), kept["positions"], kept["failed"]) == (MESSAGES, MESSAGES, {})
    alice.ask("until_connected", name="ALICE")
    found = until_heard(lead, "LEAD", "tasks.a", alice, key="ALICE", run=LIVE, number=MESSAGES)
    until_outstanding(bus_of, 0)
    unheard = sent(lead, "unheard")
    assert found["came"][str(LIVE)] + found["missed"] + unheard == MESSAGES + 1
    assert found["twice"] == found["out of order"] == 0
    acked, got = set(), set()
    for what, run, number in told(handed):
        assert what == "acked" or (run, number) not in acked, "what was acknowledged did not come again"
        (acked if what == "acked" else got).add((run, number))
    places, died = lead.ask("places", run=KEPT), dead_letters(bus_of)
    became = {number: died.get(places[str(number)], "lost") for number in range(MESSAGES) if (KEPT, number) not in got}
    assert "lost" not in became.values(), f"{became}; {bus_of.desk('consumers')}; {bob.ask('report')['hosts']}"
    note(f"{2 * MESSAGES:,} messages in {SECONDS} s with {sum(kills.values())} kills: unaccounted for", 0, "", 0)
    note(f"of {MESSAGES:,} kept ones, dead letters", len(died), "", MESSAGES / 100)
    note(f"of {MESSAGES:,} live ones, lost and shown as missed", found["missed"], "", MESSAGES / 100)


def dead_letters(bus_of: Company) -> dict[int, Any]:
    """Why it died, by the position of the original."""
    found, last = {}, 0
    while more := bus_of.desk("dead_letters", class_="work.>", after=last, most=10_000):
        found |= {letter["original"]: (letter["reason"], letter["deliveries"]) for letter in more}
        last = more[-1]["position"]
    return found


def reader_of_what_is_kept(bus_of: Company, handed: Path) -> Actor:
    bob = bus_of.agents("BOB")
    bob.ask("subscribe", name="BOB", pattern="work.>", durable="inbox", acks="tenths", tell=str(handed))
    return bob
