"""Several processes of a fleet: they begin together, add up, and none outlives its parent."""

from __future__ import annotations

import os
import signal
import sys
import time

import anyio
import pytest

from bus.errors import ConnectionLostError
from bus.fleet import children
from bus.fleet.children import started

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

CHILD = """
import sys
import anyio, anyio.streams.file
import bus.testing
from bus.clock import SystemClock
from bus.fleet.children import be_a_child
from bus.fleet.crew import Crew
from bus.fleet.mix import read_mix
from bus.fleet.player import Player
from bus.policy import open_policy

TEXT = '''version: 1
sends: [{who: [command], topics: [tasks.load.a], share: 1000, bytes: [64B, 128B]}]
hears: [{who: [MONITOR], topics: [tasks.load.a]}]
'''
policy = open_policy()
mix = read_mix(TEXT, file="m", policy=policy)

async def main():
    async with bus.testing.open(clock=SystemClock()) as hub:
        player = Player(mix, lambda name: policy.agents[name], clock=SystemClock())
        crew = Crew(hub, {name: policy.agents[name] for name in mix.agents}, {}, player, clock=SystemClock())

        async def host():
            return {"received": {"delivered": sum(player.delivered.values())}, "url": "x"}

        await be_a_child(crew, host, anyio.streams.file.FileReadStream(open(0, "rb", buffering=0, closefd=False)))

anyio.run(main)
"""


def command(code: str = CHILD) -> list[str]:
    return [sys.executable, "-c", code]


async def test_two_processes_speak_fall_silent_and_add_up():
    async with started([command(), command()]) as fleet:
        assert (await fleet.reading())["play"]["published"] == {}
        await fleet.speak_up(rate=500)
        with anyio.fail_after(60):
            while (await fleet.reading())["play"]["published"].get("tasks.load.a", 0) < 50:  # noqa: ASYNC110  another process
                await anyio.sleep(0.05)
        await fleet.fall_silent()
        found = await fleet.reading()
    assert found["agents"] == 10
    assert found["play"]["published"] == found["play"]["delivered"]
    assert found["host"]["received"]["delivered"] == found["play"]["delivered"]["tasks.load.a"]


async def test_a_child_that_cannot_begin_is_an_error_and_takes_the_others_with_it():
    began = time.monotonic()
    with pytest.raises(ConnectionLostError):
        async with started([command(), command("raise SystemExit(3)")]):
            pytest.fail("it should not have begun")
    assert time.monotonic() - began < 60


async def test_a_child_that_dies_is_noticed_when_it_is_asked():
    die = "import sys\nprint('{\"agents\": 0}', flush=True)\nsys.stdin.readline()\n"
    async with started([command(die)]) as fleet:
        with pytest.raises(ConnectionLostError):
            await fleet.speak_up(rate=1)


@pytest.mark.both_loops  # who is cancelled differs between them
async def test_whoever_is_cancelled_while_it_asks_leaves_its_answer_to_nobody():
    later = """
import json, sys
print('{"agents": 1}', flush=True)
asked = [json.loads(sys.stdin.readline()) for _ in range(2)]  # the first answer comes after the second question
for question in asked:
    print(json.dumps({"number": question["number"], "reading": {"agents": question["number"]}}), flush=True)
sys.stdin.read()
"""
    async with started([command(later)]) as fleet:
        with anyio.move_on_after(0.01) as given_up:
            await fleet.speak_up(rate=1)
        assert given_up.cancelled_caught
        assert (await fleet.reading())["agents"] == 2


async def test_one_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(children, "END_SECONDS", 0.2)
    stuck = "import os, time\nprint('{\"agents\": %d}' % os.getpid(), flush=True)\ntime.sleep(600)\n"
    began = time.monotonic()
    async with started([command(stuck)]):
        pass
    assert time.monotonic() - began < 60


ORPHAN = """
import sys, anyio, os
from bus.fleet.children import started

async def main():
    async with started([[sys.executable, "-c", sys.argv[1]]]) as fleet:
        print((await fleet.reading())["agents"] and fleet._children[0]._process.pid, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_a_child_ends_with_its_parent_even_if_that_is_killed():
    async with await anyio.open_process([sys.executable, "-c", ORPHAN, CHILD], stderr=None) as parent:
        pid = int(await parent.stdout.receive())
        parent.send_signal(signal.SIGKILL)
        await parent.wait()
    with anyio.fail_after(60):
        while exists(pid):  # noqa: ASYNC110  another process
            await anyio.sleep(0.05)


def exists(pid: int) -> bool:
    """Alive, and not just waiting to be buried by whoever inherited it."""
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as status:  # noqa: PTH123  a test may block, and pathlib would say so no better
            return status.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False
