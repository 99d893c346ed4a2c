"""The reference fleet and its traffic (agents/mix.yaml): all 76 agents in one process, the broker in one of its own.

At each rate, one after the other: the fleet opens, plays itself warm, and is looked at for some seconds. A message's latency counts
from when it was due, and one reader's copy counts once. The first rate that is too much ends it.

python tests/benchmarks/fleet_mix.py [rate..]
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

import anyio
from bus_path import UVLOOP, folder
from targets import Row, show

from bus import shipped
from bus.cli.run_plan import Wanted, planned
from bus.clock import SystemClock
from bus.fleet.crew import Crew
from bus.fleet.handlers import load_handlers
from bus.fleet.player import Player
from bus.fleet.running import Measured, running
from bus.hub.open import supervise
from bus.metrics.histogram import Histogram

RATES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
TARGET_RATE, TARGET_MS, TARGET_HITS, TARGET_MIB = 50_000, 20, 95, 150
WARM_SECONDS = 6
SECONDS = 8


async def one_rate(state: str, rate: float) -> dict[str, float]:
    wanted = Wanted((), None, 1, None, None, rate, None, None, Path(state), None)
    plan, clock = planned(wanted), SystemClock()
    player = Player(plan.mix, lambda name: plan.roles.get(name, "?"), clock=clock)
    async with supervise(state=state, listen=()) as hub:
        crew = Crew(hub, plan.roles, load_handlers(shipped.folder("agents") / "handlers"), player, clock=clock)
        async with running(Measured(hub.statistics), crew, [], plan.mix, clock=clock) as fleet:
            await fleet.speak_up(rate=rate)
            await anyio.sleep(WARM_SECONDS)
            await fleet.figures()
            before = (Counter(player.latency.packed()), sum(player.published.values()), sum(player.not_sent.values()))
            await anyio.sleep(SECONDS)
            figures = await fleet.figures()
            published = (sum(player.published.values()) - before[1]) / SECONDS
            not_sent = sum(player.not_sent.values()) - before[2]
            waits = Histogram.unpacked(Counter(player.latency.packed()) - before[0])
            resident = max(resident_mib(pid) for pid in children())
            last = await fleet.come_to_rest()
            books = fleet.report(last)["books"]
    return {
        "published": published,
        "delivered": waits.count / SECONDS,
        "p50": waits.percentile(50) * 1e3,
        "p99": waits.percentile(99) * 1e3,
        "hits": figures.signature_hits * 100,
        "broker": resident,
        "not sent": not_sent,
        "lost": sum(last["lost"].values()),
        "unaccounted": books["unaccounted"],
    }


def children() -> list[int]:
    """The processes that are the broker's."""
    found = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in found if b"broker_program" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


async def measure(state: str, rates: list[float]) -> list[Row]:
    best, rows = 0.0, []
    for rate in rates:
        found = await one_rate(state, rate)
        print(f"{rate:>8,.0f}/s: " + ", ".join(f"{name} {figure:,.1f}" for name, figure in found.items()), flush=True)
        if found["p99"] > TARGET_MS or found["published"] < 0.95 * rate or found["lost"]:
            break
        best = rate
        rows = [
            Row(f"the mix at {rate:,.0f} a second: p99", found["p99"], "ms", TARGET_MS),
            Row(f"the mix at {rate:,.0f} a second: handed over without verifying", found["hits"], "%", TARGET_HITS, True),
            Row(f"the mix at {rate:,.0f} a second: the broker's memory", found["broker"], "MiB", TARGET_MIB),
        ]
    return [Row(f"the mix of 76 agents, most with p99 under {TARGET_MS} ms", best, "/s", TARGET_RATE, more_is_better=True), *rows]


if __name__ == "__main__":
    with folder() as place:
        wanted_rates = [float(rate) for rate in sys.argv[1:]] or [*RATES]
        show("the fleet and its traffic", anyio.run(measure, place, wanted_rates, backend_options=UVLOOP))
