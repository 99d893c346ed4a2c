"""What several TPMs of 40 ms an operation carry together, against one: signatures, and making many keys.

python tests/benchmarks/several_tpms.py [SECONDS] [--swtpm]

The pause is slept in each TPM's own thread, as a chip makes it wait. Behind it are software keys in this process, so that
two cores are no limit; with `--swtpm`, a software TPM of the state folder each, as `--tpm swtpm*N` has them, which computes on
the same cores. The vault lies on the disk. Alternating runs, medians.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import anyio
from targets import Row, show

from bus.hub.state import State
from bus.hub.which_tpm import open_engine_here
from bus.policy import open_policy
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm
from bus.tpm.engine import Engine
from bus.tpm.interface import TpmEngine
from bus.tpm.several import SeveralTpms
from bus.tpm.slow import SlowTpm
from bus.tpm.vault import FolderVault

SUITE = IDENTITY_SUITES["ecc256/sha256"]
KEYS, CALLERS = 48, 8
TPMS = (1, 2, 4)
RUNS = 3


@dataclass(frozen=True)
class Run:
    contents: float
    """A second."""
    signatures: float
    making: float
    share: float
    """Of the keys, in the TPM that has most."""


@asynccontextmanager
async def engine_of(tpms: int, *, swtpm: bool) -> AsyncIterator[tuple[TpmEngine, Path]]:
    with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp") as folder:
        state = State(Path(folder) / "state", Path(folder) / "run")
        for place in (state.runtime, *(state.folder / name / "state" for name in ("swtpm", "swtpm-2", "swtpm-3", "swtpm-4"))):
            place.mkdir(parents=True)  # TPMs without endorsement certificates, which take two seconds each
        if swtpm:
            async with open_engine_here(state, open_policy(), tpm=f"swtpm*{tpms}", around=SlowTpm) as engine:
                yield engine, state.vault
            return
        vault = FolderVault(state.vault)
        fakes = {f"tpm {number}": partial(_slow_fake, number) for number in range(tpms)}
        async with Engine(fakes["tpm 0"], vault, name="tpm 0") if tpms == 1 else SeveralTpms(fakes, vault) as engine:
            yield engine, state.vault


def _slow_fake(number: int) -> SlowTpm:
    return SlowTpm(FakeTpm(number=number))


async def make_keys(engine: TpmEngine) -> float:
    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for number in range(KEYS):
            tasks.start_soon(engine.create, f"KEY{number}", SUITE)
    return time.perf_counter() - begun


async def sign(engine: TpmEngine, seconds: float) -> tuple[float, float]:
    """Contents a second, and signatures a second: of each key a few callers, who each sign one content after the other."""
    signed = 0

    async def caller(key: int, number: int, until: float) -> None:
        nonlocal signed
        content = hashlib.sha256(b"%d of %d" % (number, key)).digest()
        while time.perf_counter() < until:
            await engine.sign_many(f"KEY{key}", Purpose.ENVELOPE, [content])
            signed += 1

    before = await engine.statistics()
    begun = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for key in range(KEYS):
            for number in range(CALLERS):
                tasks.start_soon(caller, key, number, begun + seconds)
    took = time.perf_counter() - begun
    return signed / took, ((await engine.statistics()).signatures - before.signatures) / took


async def main(seconds: float, *, swtpm: bool) -> None:
    found: dict[int, list[Run]] = {tpms: [] for tpms in TPMS}
    for _ in range(RUNS):
        for tpms in TPMS:
            async with engine_of(tpms, swtpm=swtpm) as (engine, vault):
                making = await make_keys(engine)
                homes = Counter(entry.tpm for entry in FolderVault(vault).entries())
                found[tpms].append(Run(*await sign(engine, seconds), making, max(homes.values()) / KEYS))
    for tpms, runs in found.items():
        print(
            f"{tpms} x 40 ms: {middle(runs, 'contents'):,.0f} contents a second in {middle(runs, 'signatures'):.1f} signatures; "
            f"{KEYS} keys made in {middle(runs, 'making'):.2f} s, {max(run.share for run in runs):.0%} of them in one TPM"
        )
    rows = []
    for tpms in TPMS[1:]:
        signing, making = (
            statistics.median(getattr(many, what) / getattr(one, what) for one, many in zip(found[1], found[tpms], strict=True))
            for what in ("contents", "making")
        )
        rows += [
            Row(f"{tpms} TPMs: signed contents a second, times one's", signing, "x", 0.85 * tpms, more_is_better=True),
            Row(
                f"{tpms} TPMs: time of making {KEYS} keys, part of one's", making, "x", 1.2 * max(run.share for run in found[tpms])
            ),
        ]
    show("Several TPMs", rows)


def middle(runs: list[Run], what: str) -> float:
    return statistics.median(getattr(run, what) for run in runs)


if __name__ == "__main__":
    os.environ.pop("TPMBUS_TPM", None)
    given = [word for word in sys.argv[1:] if word != "--swtpm"]
    uvloop = {"use_uvloop": find_spec("uvloop") is not None}
    anyio.run(partial(main, swtpm="--swtpm" in sys.argv), float(given[0]) if given else 2.0, backend_options=uvloop)
