"""Who means harm, against a hub process: it stays small, says who it was once a minute, and nobody else notices."""

from __future__ import annotations

import socket
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sizes import SOAK, note, percentile, size
from troupe import PATIENCE, Actor, Company

pytestmark = pytest.mark.soak
MEGABYTES = 300
LIVE = 1
MOST_REFUSED, REFUSED_A_SECOND = 4_285, 72
"""By its account, of an agent that does nothing else; and a turn or two may be looked at beyond."""
QUIET = size(100, 3_000)
"""Messages by which the quiet of the onlookers is measured."""


class Onlookers:
    """LEAD tells ALICE something all the time; what others do is nothing to them."""

    def __init__(self, bus_of: Company, hub: Actor, *, rate: int = 300) -> None:
        self.hub, self.speaker, self.reader, self.rate = hub, bus_of.agents("LEAD"), bus_of.agents("ALICE"), rate
        self.reader.ask("subscribe", name="ALICE", pattern="tasks.>")
        self.speaker.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=10_000_000, rate=rate)
        self.begin_to_watch()
        self.reader.ask("more", key="ALICE", count=QUIET)
        self.quiet, self.share, _ = self._seen()

    def begin_to_watch(self) -> None:
        self._cpu, self._began = self.hub.ask("statistics")["cpu"], time.monotonic()
        self.reader.ask("waits", key="ALICE")

    def _seen(self) -> tuple[float, float, float]:
        """Since they began to watch: how long 99 of 100 messages were on their way at most (ms), which share of a processor the hub
        took, and how many seconds it was."""
        waits, seconds = self.reader.ask("waits", key="ALICE"), time.monotonic() - self._began
        return percentile(waits, 99), (self.hub.ask("statistics")["cpu"] - self._cpu) / seconds, seconds

    def noticed(self, what: str) -> float:
        """Since they began to watch, and they begin anew; a few messages at least. For how long they watched, in seconds."""
        self.reader.ask("more", key="ALICE", count=10)
        worst, share, seconds = self._seen()
        note(f"{what}: others' p99 ({worst:.1f} ms), times what it was", worst / self.quiet, "", 2)
        note(f"{what}: of a processor, more than without, over {seconds:.1f} s", 100 * max(share - self.share, 0), "%", 20)
        self.begin_to_watch()
        return seconds

    def compare(self, what: str, seconds: float) -> None:
        """What the same costs them while the hub has nothing to do with it, over as long: so much is the machine's."""
        self.reader.ask("more", key="ALICE", count=int(self.rate * seconds), seconds=2 * seconds + PATIENCE)
        worst, _, _ = self._seen()
        note(f"{what}: others' p99 ({worst:.1f} ms), times what it was", worst / self.quiet, "", 2)
        self.begin_to_watch()

    def have_missed_nothing(self) -> None:
        said = self.speaker.ask("published", run=LIVE, stop=True)["accepted"]
        self.speaker.ask("publish", name="LEAD", topic="tasks.a", run=LIVE, count=1, first=said)
        found = self.reader.ask("until", key="ALICE", run=LIVE, number=said)
        assert found["came"][str(LIVE)] == said + 1
        assert found["missed"] == found["twice"] == found["out of order"] == 0


def named(hub: Actor) -> Counter[str]:
    """Lines of its log without what may differ: when, of what size, how often."""
    return Counter(line.split("WARNING ")[1].split(" (")[0] for line in hub.noted.splitlines() if "WARNING" in line)


def stays_small(what: str, hub: Actor) -> dict[str, Any]:
    found: dict[str, Any] = hub.ask("statistics")
    note(f"{what}: the hub's memory", found["peak_mb"], "MB", MEGABYTES)
    assert found["peak_mb"] < MEGABYTES
    return found


SILENT, OTHERS = 2_000, 200


def crowds(stranger: Actor, own: str, tls: str) -> None:
    """All that say nothing, or too little, one after the other: at a Unix socket and at one of TLS."""
    assert stranger.ask("crowd", url=own, count=OTHERS, what="begun") == OTHERS
    stranger.ask("drip", rest=50)
    for url, count, what in ((own, SILENT, "silent"), (tls, OTHERS, "silent"), (tls, OTHERS, "garbage"), (own, OTHERS, "huge")):
        stranger.ask("crowd", url=url, count=count, what=what)


def crowds_elsewhere(stranger: Actor, onlookers: Onlookers, folder: Path, seconds: float) -> None:
    """The same crowds at sockets that are not ours, where nobody lets them in."""
    with socket.socket(socket.AF_UNIX) as own, socket.socket() as tcp:
        own.bind(str(folder / "elsewhere"))
        tcp.bind(("127.0.0.1", 0))
        for listener in (own, tcp):
            listener.listen(SILENT + 4 * OTHERS)
        onlookers.begin_to_watch()
        crowds(stranger, f"unix://{folder}/elsewhere", f"tls://127.0.0.1:{tcp.getsockname()[1]}")
        onlookers.compare("2,800 strangers elsewhere, for comparison", seconds)
        stranger.ask("leave")


def test_crowds_that_say_nothing_or_too_little_are_hung_up_on_within_seconds(bus_of: Company, runtime: Path):
    hub = bus_of.hub(listen=("tls://127.0.0.1:0",))
    tls, own = hub.urls
    onlookers = Onlookers(bus_of, hub)
    before, stranger = hub.ask("statistics"), bus_of.stranger()
    onlookers.begin_to_watch()
    crowds(stranger, own, tls)
    longest = stranger.ask("until_hung_up")["longest"]
    seconds = onlookers.noticed("2,800 strangers at once")
    note("2,800 strangers at once: the last is hung up on after", longest, "s", 10)
    after = stays_small("2,800 strangers at once", hub)
    ends = Counter(after["broker"]["handshakes"]) - Counter(before["broker"]["handshakes"])
    assert ends == {"busy": SILENT + OTHERS, "malformed": OTHERS}
    assert after["broker"]["links_half_open"] == 0
    assert after["descriptors"] == before["descriptors"]
    assert set(named(hub).values()) == {1}, "once a minute"
    assert 4 <= len(named(hub)) < 10, "what TLS does not understand it says in several ways"
    if SOAK:
        crowds_elsewhere(stranger, onlookers, runtime, seconds)
    onlookers.have_missed_nothing()


def test_a_crowd_that_takes_every_descriptor_leaves_the_hub_some_for_itself(bus_of: Company):
    descriptors, reserve = 256, 64
    hub = bus_of.hub(descriptors=descriptors)
    onlookers = Onlookers(bus_of, hub)
    stranger = bus_of.stranger()
    stranger.ask("crowd", url=bus_of.url, count=2 * descriptors, what="silent")
    bus_of.change("publish: [results.>]", "publish: [results.>, alarms.>]")
    assert hub.ask("reload") is True, "it reads files, asks its TPM service and writes, all the same"
    assert hub.ask("statistics")["descriptors"] <= descriptors - reserve + 2
    stranger.ask("until_hung_up")
    bus_of.agents("BOB")
    assert any("no room" in line for line in named(hub))
    onlookers.have_missed_nothing()


def test_storms_of_nonsense_are_one_line_in_the_log(bus_of: Company):
    count = size(100, 5_000)
    hub = bus_of.hub(listen=("tls://127.0.0.1:0",))
    tls, own = hub.urls
    onlookers, strangers = Onlookers(bus_of, hub), [bus_of.stranger() for _ in range(4)]
    onlookers.begin_to_watch()
    kinds = ((own, "garbage"), (own, "wrong"), (own, "huge"), (tls, "garbage"))
    for stranger, (url, what) in zip(strangers, kinds, strict=True):
        stranger.tell("storm", url=url, count=count, what=what)
    for stranger in strangers:
        assert stranger.answer(size(PATIENCE, 900.0)) == count
    onlookers.noticed("storms of nonsense")
    found = stays_small("storms of nonsense", hub)
    heard = found["broker"]["handshakes"]["malformed"] + found["broker"]["cut"]["malformed"]
    assert 0.99 * 3 * count <= heard <= 3 * count, "what some say comes after their time, where the machine has other things to do"
    assert sum(named(hub).values()) < 10 + size(0, 40)
    onlookers.have_missed_nothing()


def test_an_insider_who_forges_is_cut_and_then_read_slowly_and_nobody_else_is_blamed(bus_of: Company):
    count = size(5_000, 100_000)
    hub = bus_of.hub()
    onlookers, eve = Onlookers(bus_of, hub), bus_of.stranger("EVE")
    onlookers.begin_to_watch()
    sent = eve.ask("forge", name="EVE", topic="tasks.open", sender="LEAD", count=count)
    eve.ask("until_event", name="EVE", kind="Connected", count=1)  # her host comes back, as hosts do
    if SOAK:
        sent += eve.ask("forge", name="EVE", topic="tasks.open", sender="LEAD", count=count)
    took = onlookers.noticed("forged senders")
    found = stays_small("forged senders", hub)["broker"]
    assert found["cut"] == {"junk": 1}
    assert 4_096 < found["refused"]["untrusted"] <= min(sent, MOST_REFUSED + REFUSED_A_SECOND * took + 64)
    assert found["received"] == found["admitted"] + sum(found["refused"].values())
    assert [line for line in named(hub) if "LEAD" in line] == []
    assert sum(named(hub).values()) < 5
    onlookers.have_missed_nothing()


def test_floods_of_an_insider_with_good_papers_cost_others_nothing(bus_of: Company):
    count = size(3_000, 200_000)
    hub = bus_of.hub()
    onlookers, target, eve = Onlookers(bus_of, hub), bus_of.agents("DEPUTY"), bus_of.stranger("EVE")
    target.ask("subscribe", name="DEPUTY", pattern="results.>")  # who is sent what nobody can open
    onlookers.begin_to_watch()
    keys = eve.ask("flood_keys", name="EVE", topic="results.guest", count=count)
    onlookers.noticed("a flood of keys that are missing")
    subscriptions = eve.ask("flood_subscriptions", name="EVE", pattern="tasks.open", count=count)
    onlookers.noticed("a flood of subscriptions")
    questions = eve.ask("flood_questions", name="EVE", count=count)
    onlookers.noticed("a flood of questions")
    found = stays_small("floods", hub)["broker"]
    assert found["received"] == found["admitted"] + sum(found["refused"].values())
    assert found["subscriptions"] <= 16_000 + 2, "as many as a link may have, and those of the others"
    assert found["epochs"] <= 256 + 1
    assert (found["cut"], found["ended"]) == ({}, {}), hub.noted
    heard = target.ask("report")
    assert heard["hosts"][0]["received"]["let_go"] + heard["hosts"][0]["keyring"]["parking"]["parked"] == keys
    assert heard["hosts"][0]["keyring"]["parking"]["parked"] <= 256
    note("floods: the memory of the host that is flooded", heard["peak_mb"], "MB", MEGABYTES)
    assert [line for line in named(target) if "EVE" in line]
    assert set(named(target).values()) == {1}
    if subscriptions + questions > 100_000:
        assert any("asks for too much" in line for line in named(hub))
    onlookers.have_missed_nothing()
