"""Cold starts: from the start of a process to the first message that an agent of it has, signed, sealed and verified.

The first of all makes everything (TPM, authority, keys) and is told apart; what is measured are those over a folder that was used
before. The TPM service runs on between them, as it does for whoever starts a program again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

import anyio
from anyio import to_thread

import bus
from bus.bench.crowd import POLICY, Delay, slow_tpm
from bus.bench.figures import of_statistics
from bus.bench.part import FORBIDDEN
from bus.bench.place import host_statistics
from bus.bench.processes import memory_mib
from bus.bench.scenario import Scenario
from bus.bench.step import Latency, Moment, Process, Step
from bus.errors import ConnectionLostError, NotPermittedError
from bus.hub.state import State
from bus.hub.tpm_process import stop_service
from bus.metrics import sources as numbers
from bus.metrics.histogram import Histogram

_DELIVERED: Final = b"delivered\n"
_STARTED: Final = "started"
"""The process that is measured, in tables."""


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
        first, before = await _one(state, tpm)
        if is_new:
            notes.append(f"with nothing on disk, the first message was there after {first:.2f} s")
        histogram, moments, said, began = Histogram(), list[Moment](), list[Mapping[str, Any]](), time.monotonic()
        own = time.process_time()
        while not histogram.count or time.monotonic() - began < scenario.seconds:
            at = time.monotonic() - began
            took, told = await _one(state, tpm)
            said.append(told)
            histogram.add(took)
            moments.append(Moment(at, 1, took * 1e3, took * 1e3, took * 1e3))
        passed, spent = time.monotonic() - began, time.process_time() - own
        bench = Process("bench", spent, 100 * spent / passed, await to_thread.run_sync(memory_mib, os.getpid()))
    count = histogram.count
    step = Step(
        rate=scenario.rates[0], seconds=passed, size=scenario.size, sent=count, not_sent={}, due=count, delivered=count,
        in_time=count, lost=0, duplicated=0, reordered=0, sent_a_second=count / passed, delivered_a_second=count / passed,
        latency=Latency.of(histogram), over_time=tuple(moments), **_done(before, said, passed, bench),
    )  # fmt: skip
    ended(step)
    return [step], notes


def _done(before: Mapping[str, Any], said: Sequence[Mapping[str, Any]], seconds: float, bench: Process) -> dict[str, Any]:
    """What all the starts did, and what it took. The TPM service counts on between them, all else begins anew in each."""
    passed = {
        "hosts": numbers.added(told["hosts"] for told in said),
        "broker": numbers.added(told["hub"]["broker"] for told in said),
        "tpm": numbers.since(before["hub"]["tpm"], said[-1]["hub"]["tpm"]),
    }
    spent = sum(told["cpu"] for told in said)
    started = Process(_STARTED, spent, 100 * spent / seconds, max(told["memory_mib"] for told in said))
    refuses = min(told["refuses"] for told in said)
    return of_statistics(passed, messages=len(said), seconds=seconds, refuses=refuses) | {
        "processes": (started, bench),
        "costs": {_STARTED: spent / len(said) * 1e6},
    }


async def _one(state: State, tpm: str | None) -> tuple[float, dict[str, Any]]:
    """How long it took to the first message, and what the process then said of itself."""
    command = [sys.executable, "-P", "-m", "bus.bench.starting", str(state.folder), *([tpm] if tpm else [])]
    heard, took, began = b"", 0.0, time.monotonic()
    process = await anyio.open_process(command, stdout=subprocess.PIPE, stderr=None)
    try:
        heard = b"" if process.stdout is None else await process.stdout.receive()
        took = time.monotonic() - began
        while process.stdout is not None:
            heard += await process.stdout.receive()
    except anyio.EndOfStream:
        await process.wait()
    finally:
        with anyio.CancelScope(shield=True):
            await process.aclose()
    if not heard.startswith(_DELIVERED) or process.returncode:
        raise ConnectionLostError("the process that was to start delivered nothing; what it said is above")
    return took, json.loads(heard.removeprefix(_DELIVERED))


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
        hosts = numbers.plain(numbers.added(host_statistics({"SENDER0": sender, "READER0": reader})))
        told = {"hosts": hosts, "hub": numbers.plain(await hub.statistics()), "refuses": await _refuses(sender)}
        sys.stdout.write(json.dumps(told | {"cpu": time.process_time(), "memory_mib": memory_mib(os.getpid())}))


async def _refuses(agent: bus.Agent) -> int:
    """That policy is on is tried, not assumed."""
    try:
        await agent.publish(FORBIDDEN, b"")
    except NotPermittedError:
        return 1
    return 0


if __name__ == "__main__":
    anyio.run(start, sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None)
