"""A whole measurement: runs, their steps, and in which order. What it finds it hands to whoever watches, and gives as a result.

The same rate is measured once in every run, the runs one after the other: what changes slowly on the machine then shows as the
spread of a row, and not as a difference between rows.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from anyio import to_thread

from bus.bench import starting
from bus.bench.crowd import Crowd, Delay, Look, gathered
from bus.bench.result import Result, Run
from bus.bench.scenario import Scenario
from bus.bench.search import Search, Tried
from bus.bench.step import Step
from bus.hub import interpreter
from bus.hub.state import State, open_state


@dataclass(frozen=True, slots=True)
class Wanted:
    """Besides the scenario."""

    is_search: bool = False
    state: Path | None = None
    """A folder that stays; without, one that goes."""
    tpm: str | None = None
    delay: Delay | None = None


class Watching(Protocol):
    """Whoever looks on."""

    def run_begins(self, run: int, runs: int) -> None: ...

    def looked(self, look: Look) -> None: ...

    def step_ended(self, step: Step) -> None: ...


async def measure(scenario: Scenario, wanted: Wanted, watching: Watching) -> Result:
    """Raises what keeps the bus, or one of the processes, from starting."""
    began, machine = datetime.now(UTC).isoformat(timespec="seconds"), await to_thread.run_sync(this_machine)
    runs: list[Run] = []
    notes: list[str] = []
    async with _folder(None if wanted.state is None else part_of(wanted.state, scenario)) as state:
        for number in range(scenario.runs):
            watching.run_begins(number + 1, scenario.runs)
            if scenario.kind == "start":
                steps, told = await starting.measure(state, scenario, tpm=wanted.tpm, delay=wanted.delay, ended=watching.step_ended)
                notes += told
            else:
                async with gathered(state, scenario, tpm=wanted.tpm, delay=wanted.delay) as crowd:
                    steps = (
                        await _search(crowd, scenario, watching) if wanted.is_search else await _rates(crowd, scenario, watching)
                    )
            runs.append(Run(tuple(steps)))
            if scenario.kill_broker:
                silence = max(step.longest_silence for step in steps)
                notes.append(f"run {number + 1}: the broker was killed, and a reader heard nothing for at most {silence:.2f} s")
    said: dict[str, Any] = {"tpm": wanted.tpm or os.environ.get("TPMBUS_TPM") or "swtpm"}
    said["tpm_delay"] = None if wanted.delay is None else asdict(wanted.delay)
    return Result(
        scenario.name, scenario.document() | said, machine, began, tuple(runs), is_search=wanted.is_search, notes=tuple(notes)
    )


async def _rates(crowd: Crowd, scenario: Scenario, watching: Watching) -> list[Step]:
    steps = []
    for rate in scenario.rates:
        steps.append(await crowd.step(rate, watching.looked))
        watching.step_ended(steps[-1])
    return steps


async def _search(crowd: Crowd, scenario: Scenario, watching: Watching) -> list[Step]:
    search, steps = Search(start=scenario.rates[0]), list[Step]()
    while (rate := search.next_rate([Tried(step.rate, step.kept) for step in steps])) is not None:
        steps.append(await crowd.step(rate, watching.looked))
        watching.step_ended(steps[-1])
    return steps


def part_of(kept: Path, scenario: Scenario) -> Path:
    """Of a folder that stays: the mix has another policy, and what is kept on NATS another place, so they cannot share it."""
    differs = [*(["mix"] if scenario.kind == "mix" else []), *(["nats"] if scenario.transport == "nats" else [])]
    return kept / "-".join(differs) if differs else kept


@asynccontextmanager
async def _folder(kept: Path | None) -> AsyncIterator[State]:
    """In /tmp, because a socket's path is short."""
    if kept is not None:
        yield await to_thread.run_sync(open_state, kept)
        return
    folder = Path(await to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="tpmbus-bench-", dir="/tmp")))
    try:
        state = await to_thread.run_sync(open_state, folder / "state")
        yield state
        await to_thread.run_sync(lambda: shutil.rmtree(state.runtime, ignore_errors=True))
    finally:
        await to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))


def this_machine() -> dict[str, Any]:
    """What a figure is worth depends on it."""
    models = [line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": models[0] if models else platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": interpreter.described(),
        "loop": f"uvloop {metadata.version('uvloop')}" if find_spec("uvloop") else "asyncio",
        "tpmbus": metadata.version("tpmbus"),
        "load": round(os.getloadavg()[0], 2),
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
