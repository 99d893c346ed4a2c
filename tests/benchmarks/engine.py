"""What the engine carries over a TPM as slow as real chips, and what it adds to a TPM that is quick.

python tests/benchmarks/engine.py
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

import anyio
from targets import Row, percentile, show

from bus.hub.state import State
from bus.hub.which_tpm import open_engine_here
from bus.policy import open_policy
from bus.protocol import proof, signatures
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import FakeTpm, SlowTpm
from bus.tpm.engine import Engine
from bus.tpm.vault import MemoryVault

SUITE = IDENTITY_SUITES["ecc256/sha256"]
SECONDS = 3.0


def content(number: int) -> bytes:
    return hashlib.sha256(number.to_bytes(8, "big")).digest()


async def one_slow_key() -> list[Row]:
    """Callers that each sign one content after the other: nobody hands over a list."""
    signed = 0
    waits: list[float] = []

    async def caller(engine: Engine, number: int, until: float) -> None:
        nonlocal signed
        while time.perf_counter() < until:
            begun = time.perf_counter()
            await engine.sign_many("SLOW", Purpose.ENVELOPE, [content(number)])
            waits.append(time.perf_counter() - begun)
            signed += 1

    async with Engine(lambda: SlowTpm(FakeTpm()), MemoryVault()) as engine:
        await engine.create("SLOW", SUITE)
        begun = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for number in range(1_000):
                tasks.start_soon(caller, engine, number, begun + SECONDS)
        took = time.perf_counter() - begun
        before = await engine.statistics()
        lists = 0
        begun = time.perf_counter()
        while time.perf_counter() < begun + SECONDS:
            lists += len(await engine.sign_many("SLOW", Purpose.ENVELOPE, [content(number) for number in range(1_000)]))
        in_lists = lists / (time.perf_counter() - begun)
    print(f"\none key of 40 ms: {before.signatures} signatures for {signed} contents, largest batch {before.largest_batch}")
    return [
        Row("SlowTpm 40 ms, one key: contents a second, 1,000 callers", signed / took, "/s", 8_000, more_is_better=True),
        Row("SlowTpm 40 ms, one key: contents a second, lists of 1,000", in_lists, "/s", 8_000, more_is_better=True),
        Row("the same, p50 of a caller's wait", percentile(waits, 50) * 1000, "ms", 100),
    ]


async def all_keys_at_once() -> list[Row]:
    """76 keys that all wait: the last one is served after 76 operations, not later."""
    waits: dict[int, list[float]] = {number: [] for number in range(76)}

    async def caller(engine: Engine, number: int, until: float) -> None:
        while time.perf_counter() < until:
            begun = time.perf_counter()
            await engine.sign_many(f"KEY{number}", Purpose.ENVELOPE, [content(number)])
            waits[number].append(time.perf_counter() - begun)

    async with Engine(lambda: SlowTpm(FakeTpm(), ecc_seconds=0.004), MemoryVault()) as engine:
        for number in range(76):
            await engine.create(f"KEY{number}", SUITE)
        async with anyio.create_task_group() as tasks:
            for number in range(76):
                for _ in range(4):
                    tasks.start_soon(caller, engine, number, time.perf_counter() + SECONDS)
    served = [len(times) for times in waits.values()]
    longest = max(max(times) for times in waits.values())
    fair = 76 * (0.004 + 0.001) * 1000
    return [
        Row("76 keys at once (4 ms each): longest wait", longest * 1000, "ms", 2.5 * fair),
        Row("76 keys at once: most served key / least served", max(served) / min(served), "x", 1.5),
    ]


@asynccontextmanager
async def swtpm_engine():
    with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp") as folder:
        state = State(Path(folder) / "state", Path(folder) / "run")
        state.folder.mkdir()
        state.runtime.mkdir()
        async with open_engine_here(state, open_policy()) as engine:
            yield engine


async def overhead() -> list[Row]:
    """A signature through the engine against the bare chip, alternating; the check in software is counted apart."""
    through, bare, checks = [], [], []
    async with swtpm_engine() as engine:
        await engine.create("IDLE", SUITE)
        keyring, chip = engine._keyring, engine._executor.tpm
        assert chip is not None
        key = keyring.open("IDLE")
        for number in range(400):
            begun = time.perf_counter()
            await engine.sign_many("IDLE", Purpose.ENVELOPE, [content(number)])
            through.append(time.perf_counter() - begun)
            # The engine's thread is idle now, so this thread may use the chip.
            batch = proof.batch(SUITE, key.signer, [(Purpose.ENVELOPE, content(number))])
            tbs = batch.tbs
            begun = time.perf_counter()
            signature = chip.sign(key.wrapped, SUITE, SUITE.digest(tbs), auth=key.auth)
            bare.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            signatures.verify(SUITE, key.public, tbs, signature)
            checks.append(time.perf_counter() - begun)
    added = statistics.median(a - b for a, b in zip(through, bare, strict=True)) * 1e6
    beside = statistics.median(a - b - c for a, b, c in zip(through, bare, checks, strict=True)) * 1e6
    medians = [round(statistics.median(times) * 1e6) for times in (bare, through)]
    print(f"\nswtpm P-256, medians: bare {medians[0]} us, through the engine {medians[1]} us")
    return [
        Row("the engine adds to an idle swtpm signature and its check", beside, "us", 150),
        Row("the same, with the check in software counted as added too", added, "us", 150),
    ]


async def main() -> None:
    rows = [*await one_slow_key(), *await all_keys_at_once(), *await overhead()]
    show("The TPM engine", rows)


if __name__ == "__main__":
    os.environ.pop("TPMBUS_TPM", None)
    # The targets are uvloop's.
    anyio.run(main, backend_options={"use_uvloop": find_spec("uvloop") is not None})
