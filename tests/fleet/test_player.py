"""The reference traffic on a bus in memory: it keeps its rate by the clock, and every message is accounted for."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

import bus.testing
from bus.backbone.memory_storage import MemoryStorage
from bus.fleet.books import books
from bus.fleet.crew import TAKEN_IN_SECONDS, Crew
from bus.fleet.mix import read_mix
from bus.fleet.player import Player
from bus.policy import open_policy

pytestmark = pytest.mark.anyio

POLICY = open_policy()
TEXT = """version: 1
sends:
  - {who: [operations], topics: [telemetry.load.a], share: 700, bytes: [64B, 512B]}
  - {who: [command], topics: [tasks.load.a, tasks.load.b], share: 200, bytes: [64B, 4KiB]}
  - {who: [command], topics: [plans.review], share: 100, bytes: [64B, 128B], kind: request}
hears:
  - {who: [MONITOR, TRACER], topics: [">"]}
  - {who: [ALERTER], topics: [telemetry.load.>]}
  - {who: [architecture], topics: [tasks.load.>]}
  - {who: [architecture], topics: [plans.review], group: reviewers, answers: true}
"""


@asynccontextmanager
async def playing(text: str = TEXT, *, rate: float):
    policy = POLICY
    mix = read_mix(text, file="m", policy=policy)
    async with bus.testing.open() as hub:
        player = Player(mix, lambda name: policy.role_of(name).name, clock=hub.clock, now_ns=lambda: int(hub.clock.seconds * 1e9))
        roles = {name: policy.agents[name] for name in mix.agents}
        crew = Crew(hub, roles, {}, player, clock=hub.clock)
        async with anyio.create_task_group() as tasks:
            await tasks.start(crew.run)
            await crew.speak_up(rate=rate)
            yield hub, mix, crew, player
            tasks.cancel_scope.cancel()


async def let_pass(hub, seconds: float, *, step: float = 0.01) -> None:
    for _ in range(round(seconds / step)):
        hub.clock.advance(step)
        await anyio.wait_all_tasks_blocked()


async def test_it_keeps_its_rate_and_every_message_is_accounted_for():
    async with playing(rate=2_000) as (hub, mix, crew, player):
        await let_pass(hub, 0.2)
        await crew.fall_silent()
        await let_pass(hub, 0.1)
        found = books(mix, player.reading(), dropped={}, refused={})
    assert found["messages"] == pytest.approx(400, rel=0.15)
    assert found["published"] > 3 * found["messages"]
    assert (found["unaccounted"], found["dropped"], found["not_sent"]) == (0, {}, {})
    asked = player.published["plans.review"]
    assert player.replies == asked > 20


async def test_a_disk_that_does_not_answer_does_not_keep_a_fleet_from_ending(monkeypatch):
    async with playing(rate=10) as (hub, _, crew, _):
        held, submit = [], MemoryStorage.submit
        monkeypatch.setattr(MemoryStorage, "submit", lambda storage, commit: held.append(lambda: submit(storage, commit)))
        await crew.agents["DIRECTOR"].publish_soon("work.build.x", b"")
        ended = []

        async def end() -> None:
            await crew.fall_silent()
            ended.append(True)

        async with anyio.create_task_group() as ending:
            ending.start_soon(end)
            await let_pass(hub, TAKEN_IN_SECONDS - 1, step=1)
            assert not ended
            await let_pass(hub, 2, step=1)
            assert ended
        while held:
            held.pop(0)()
            await hub.settle()
