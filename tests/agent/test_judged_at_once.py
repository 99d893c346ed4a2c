"""What comes at once is judged by one moment: clocks are not read for each envelope."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from agent_scenes import numbered, rest, scene

from bus.testing import ManualClock

pytestmark = pytest.mark.anyio


class CountedClock(ManualClock):
    reads = 0

    def now_ms(self) -> int:
        self.reads += 1
        return super().now_ms()


async def test_envelopes_that_come_together_cost_no_look_at_the_clock_each():
    clock = CountedClock()
    async with scene("LEAD", "PAINTER", clock=clock) as (hub, lead, painter), painter.subscribe("alone.>") as alone:
        await lead.publish("alone.a", b"first")
        await hub.settle()
        envelopes, before = painter._host.inbox.counts["delivered"], clock.reads
        await lead.publish_many("alone.a", numbered(100))
        assert len(await rest(hub, alone)) == 101
        assert painter._host.inbox.counts["delivered"] - envelopes == 100
        assert clock.reads - before < 50
