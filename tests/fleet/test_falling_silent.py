"""A crew falls silent, although not everything that was said could be taken in."""

from __future__ import annotations

import logging

import anyio
import pytest

import bus.testing
from bus.errors import NotPermittedError
from bus.fleet.crew import Crew
from bus.testing.policy_texts import in_domain

pytestmark = pytest.mark.anyio

POLICY = """
version: 1
agents: {PAINTER: worker, MASON: worker}
roles: {worker: {key: ecc256/sha256, publish: [results.>], subscribe: [results.>]}}
"""
MUTE = POLICY.replace("publish: [results.>]", "publish: []")


async def test_what_could_not_be_sent_is_told_and_the_crew_falls_silent_all_the_same(caplog):
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("MASON") as mason, anyio.create_task_group() as tasks:
        crew = Crew(hub, {"PAINTER": "worker"}, {}, None, clock=hub.clock)
        await tasks.start(crew.run)
        painter = crew.agents["PAINTER"]
        async with mason.subscribe("results.>"):
            await painter.publish("results.paint", b"")
            await hub.settle()
            painter.publish_nowait("results.paint", b"")
            painter._host._follow(
                hub._world.change(in_domain({"policy.yaml": MUTE.encode()}))
            )  # before the turn that would take it
            with caplog.at_level(logging.WARNING, "bus.fleet"):
                await crew.fall_silent()
        assert [record.args[0] for record in caplog.records if isinstance(record.args[-1], NotPermittedError)] == ["PAINTER"]
        tasks.cancel_scope.cancel()
