"""Cold starts: from the start of a process to the first message that an agent of it has, signed, sealed and verified.

The first of all makes everything (TPM, authority, keys) and is told apart; what is measured are those over a folder that was used
before. The TPM service runs on between them, as it does for whoever starts a program again.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import anyio
from anyio import to_thread

import bus
from bus.bench.crowd import POLICY, Delay, slow_tpm
from bus.bench.scenario import Scenario
from bus.bench.step import Latency, Moment, Step
from bus.errors import ConnectionLostError
from bus.hub.state import State
from bus.hub.tpm_process import stop_service
from bus.metrics.histogram import Histogram

_DELIVERED: Final = b"delivered\n"


async def measure(
    state: State, scenario: Scenario, *, tpm: str | None, delay: Delay | None, ended: Callable[[Step], None]
) -> tuple[list[Step], list[str]]:
    """One step of as many starts as begin in the window, and what is to be noted."""
    notes: list[str] = []
    async with AsyncExitStack() as stack:
        stack.push_async_callback(stop_service, state)
        if delay is not None:
            await stack.enter_async_context(slow_tpm(state, str(POLICY), delay, tpm=tpm))
        is_new = not await to_thread.run_sync((state.trust / "public").exists)
        first = await _one(state, tpm)
        if is_new:
            notes.append(f"with nothing on disk, the first message was there after {first:.2f} s")
        histogram, moments, began = Histogram(), list[Moment](), time.monotonic()
        while not histogram.count or time.monotonic() - began < scenario.seconds:
            at, took = time.monotonic() - began, await _one(state, tpm)
            histogram.add(took)
            moments.append(Moment(at, 1, took * 1e3, took * 1e3, took * 1e3))
        passed = time.monotonic() - began
    count = histogram.count
    step = Step(
        rate=scenario.rates[0], seconds=passed, size=scenario.size, sent=count, not_sent={}, due=count, delivered=count,
        in_time=count, lost=0, duplicated=0, reordered=0, sent_a_second=count / passed, delivered_a_second=count / passed,
        latency=Latency.of(histogram), over_time=tuple(moments),
    )  # fmt: skip
    ended(step)
    return [step], notes


async def _one(state: State, tpm: str | None) -> float:
    command = [sys.executable, "-P", "-m", "bus.bench.starting", str(state.folder), *([tpm] if tpm else [])]
    began = time.monotonic()
    process = await anyio.open_process(command, stdout=subprocess.PIPE, stderr=None)
    try:
        heard = b"" if process.stdout is None else await process.stdout.receive()
        took = time.monotonic() - began
        await process.wait()
    except anyio.EndOfStream:
        heard, took = b"", 0.0
    finally:
        with anyio.CancelScope(shield=True):
            await process.aclose()
    if heard != _DELIVERED:
        raise ConnectionLostError("the process that was to start delivered nothing; what it said is above")
    return took


async def start(folder: str, tpm: str | None) -> None:
    """What the process does that is started."""
    async with (
        bus.open(state=folder, policy=Path(POLICY), tpm=tpm) as hub,
        hub.agent("SENDER0") as sender,
        hub.agent("READER0") as reader,
        reader.subscribe("bench.live.>") as messages,
    ):
        await sender.publish("bench.live.start", {"is": "there"})
        await anext(messages)
        sys.stdout.write(_DELIVERED.decode())
        sys.stdout.flush()


if __name__ == "__main__":
    anyio.run(start, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
