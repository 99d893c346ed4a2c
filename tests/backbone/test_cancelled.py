"""Whoever is cancelled in any verb of a backbone leaves nothing behind in it.

The clock stands still, so that nothing is tidied up beside it: SQLite keeps the descriptor of a connection that tidying up closed
for the next one that is opened, which is nobody's leak. What a tick would bury is buried after each run, by a bystander: runs that
are cancelled before they have buried anything would each leave more to do to the next one, so that it never comes to its end.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from backbones import entries, in_memory, on_disk, taken

from bus.backbone.interface import ConsumerName, Grant, RetentionClass
from bus.flow.start import LAST
from bus.testing import ManualClock, cancel_everywhere

pytestmark = pytest.mark.anyio

WORK = RetentionClass("work.>", 7 * 86_400_000)
INBOX = ConsumerName("MONITOR", "inbox")


@pytest.mark.parametrize("kind", ["memory", "journal"])
async def test_nothing_is_left_of_who_is_cancelled(tmp_path, kind):
    clock = ManualClock()
    numbers = count()
    made = in_memory(clock) if kind == "memory" else on_disk(tmp_path, clock, ring_bytes=0)
    async with made as backbone:
        await backbone.retain([WORK], passed_ms=0)

        async def scenario() -> None:
            number = next(numbers)
            consumer = await backbone.consume(
                ConsumerName("TRACER", f"c{number % 200}"), "work.>", f"work.{number}", LAST, kept=False
            )
            try:
                positions = await backbone.append(entries(clock, f"work.{number}", "work.other", seed=10 * number))
                consumer.allow(10)
                (found,) = await taken(consumer, 1)
                assert found.position == positions[0]
                await consumer.settle(terms=[(found.position, found.position, "bad")])
                for letter in await backbone.dead_letters(after=found.position):  # its own: not what was left by who was cancelled
                    await backbone.show_dead(letter.class_, letter.position)
                    await backbone.drop_dead(letter.class_, letter.position)
                await backbone.keep([Grant(bytes(32), "MONITOR", "DIRECTOR", bytes(16), clock.now_ms() + 1_000, b"grant")])
                await backbone.grants_for(bytes(32), "MONITOR")
                await backbone.retain([WORK], passed_ms=0)
            finally:
                await consumer.aclose()

        def numbers_at_rest() -> dict[str, int]:
            statistics = backbone.statistics()
            return {name: statistics[name] for name in ("consumers", "open_consumers", "unsettled", "waiting_bytes")}

        bystander = await backbone.consume(ConsumerName("MONITOR", "dead"), "work.>", "work.dead", LAST, kept=False)
        await cancel_everywhere(scenario, numbers_at_rest, settle=bystander.settle)
        consumer = await backbone.consume(INBOX, "work.>", "work.after", LAST, allowed=10)
        await backbone.append(entries(clock, "work.after", seed=1 << 60))
        assert [one.topic for one in await taken(consumer, 1)] == ["work.after"]
