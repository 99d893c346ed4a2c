"""A handshake, a subscription, a topic, an envelope: each frame in its order."""

from __future__ import annotations

import pytest
from played import Stage

from bus.protocol.frames import LISTENS, Frame, column

pytestmark = pytest.mark.anyio


async def test_an_envelope_comes_from_one_host_to_another(stage: Stage):
    async with stage.running():
        director, monitor = await stage.host("DIRECTOR"), await stage.host("MONITOR")
        assert await monitor.subscribe(7, "tasks.>") == [[Frame.SUBSCRIBED, 7]]
        papers, interest, opened = await director.open("tasks.build")
        assert papers == [Frame.PAPERS, [monitor.agents["MONITOR"].papers], b""]
        assert interest == [Frame.INTEREST, 1, [["MONITOR", "tasks.>", LISTENS]]]
        assert opened == [Frame.OPENED, 2, 1, 0, 1]
        envelope = director.seal("tasks.build")
        turn = director.publish(envelope, topic="tasks.build")
        papers, delivery = await monitor.hears()
        assert papers == [Frame.PAPERS, [director.agents["DIRECTOR"].papers], b""]
        assert delivery == [Frame.DELIVER, 1, column([7]), 1, 0, envelope]
        assert await director.credited() == set()
        monitor.send(Frame.CREDIT, 0, 1)
        assert await director.credited() == {turn}
        counted = stage.counted
        assert (counted["admitted"], counted["delivered"], counted["held"]) == (1, 1, 0)
