"""Processes that are killed: the hub, and the TPM service. What they held is free, and whoever is left goes on."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio import to_thread
from anyio.abc import Process
from homes import Home

from bus.hub.state import holder_of

pytestmark = pytest.mark.anyio

HUB = """
import sys, anyio, bus
async def main(policy, state):
    async with bus.open(policy=policy, state=state, tpm="software") as hub, hub.agent("LEAD") as lead:
        async with lead.subscribe("results.>") as results:
            print("ready", end="", flush=True)
            async for result in results:
                await lead.publish("tasks.paint", result.body)
anyio.run(main, *sys.argv[1:])
"""


@asynccontextmanager
async def another_hub(home: Home) -> AsyncIterator[Process]:
    """In a process of its own: what somebody says about results comes back as a task."""
    command = [sys.executable, "-c", HUB, str(home.policy), str(home.folder)]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        with anyio.fail_after(60):
            assert await process.stdout.receive() == b"ready"
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def test_an_agent_elsewhere_goes_on_with_the_next_hub(home):
    async with (
        another_hub(home) as first,
        home.connect(f"unix://{home.state.bus_socket}", agent="PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await painter.publish("results.x", 1)
        assert (await anext(tasks)).body == 1
        first.kill()
        await first.wait()
        async with another_hub(home):
            with anyio.fail_after(30):
                await painter.publish("results.x", 2)
                assert (await anext(tasks)).body == 2


async def test_the_folder_of_a_killed_hub_is_free(home):
    async with another_hub(home) as killed:
        assert (await to_thread.run_sync(holder_of, home.state.hub_lock))["pid"] == killed.pid
        killed.kill()
        await killed.wait()
    async with home.open() as hub, hub.agent("LEAD") as lead:
        await lead.publish("tasks.x", b"")


async def test_a_hub_that_is_told_to_end_leaves_nothing_behind(home):
    async with another_hub(home) as hub:
        hub.send_signal(signal.SIGINT)
        await hub.wait()
    assert not home.state.bus_socket.exists()


async def test_a_tpm_service_that_is_killed_is_started_again(home):
    async with home.open() as hub, hub.agent("LEAD") as lead:
        service = (await to_thread.run_sync(holder_of, home.state.tpm_lock))["pid"]
        os.kill(service, signal.SIGKILL)
        async with hub.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", b"the door")
            assert (await anext(tasks)).body == b"the door"
        assert (await to_thread.run_sync(holder_of, home.state.tpm_lock))["pid"] != service
