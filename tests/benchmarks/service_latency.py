"""What a P-256 signature costs through `tpmbus tpm serve`, on an idle machine and while every core is busy with something else.

    python tests/benchmarks/service_latency.py [SECONDS]

Real processes: the service, its swtpm, and this one as the caller. The load is one process a core that never sleeps.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
from targets import Row, percentile, show

from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.remote import RemoteEngine

SUITE = IDENTITY_SUITES["ecc256/sha256"]


def burn() -> None:
    while True:
        hashlib.sha256(bytes(1_000)).digest()


@contextmanager
def busy_cores() -> Iterator[None]:
    burners = [multiprocessing.get_context("spawn").Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 2)]
    for burner in burners:
        burner.start()
    time.sleep(0.5)
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.join()


@contextmanager
def service(folder: Path) -> Iterator[Path]:
    read, write = os.pipe()
    socket = folder / "run" / "tpm.sock"
    command = [sys.executable, "-m", "bus.cli.main", "tpm", "serve", "--state", str(folder / "state"), "--socket", str(socket)]
    process = subprocess.Popen([*command, "--policy", "minimal", "--ready-fd", str(write)], pass_fds=(write,))
    os.close(write)
    try:
        assert os.read(read, 16) == b"ready\n"
        yield socket
    finally:
        os.close(read)
        process.terminate()
        process.wait(20)


async def signatures(socket: Path, seconds: float) -> list[float]:
    times = []
    async with await RemoteEngine.connect(socket) as engine:
        await engine.create("LATENCY", SUITE)
        for number in range(50):
            await engine.sign_many("LATENCY", Purpose.ENVELOPE, [hashlib.sha256(bytes([number])).digest()])
        until = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < until:
            await engine.sign_many("LATENCY", Purpose.ENVELOPE, [hashlib.sha256(str(begun).encode()).digest()])
            times.append((time.perf_counter() - begun) * 1000)
            await anyio.sleep(0.002)
    return times


async def throughput(socket: Path, seconds: float) -> float:
    """A hundred callers that each sign one content after the other, over one connection."""
    signed = 0

    async def caller(engine: RemoteEngine, until: float) -> None:
        nonlocal signed
        while time.perf_counter() < until:
            await engine.sign_many("LATENCY", Purpose.ENVELOPE, [hashlib.sha256(str(signed).encode()).digest()])
            signed += 1

    async with await RemoteEngine.connect(socket) as engine:
        begun = time.perf_counter()
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(caller, engine, begun + seconds)
        return signed / (time.perf_counter() - begun)


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp") as folder, service(Path(folder)) as socket:
        idle = anyio.run(signatures, socket, seconds)
        rate = anyio.run(throughput, socket, seconds)
        with busy_cores():
            busy = anyio.run(signatures, socket, seconds)
            busy_rate = anyio.run(throughput, socket, seconds)
    cores = os.cpu_count()
    print(f"\n{len(idle)} signatures on an idle machine, {len(busy)} while {cores} processes keep {cores} cores busy")
    rows = [
        Row("idle: p50 of a signature through the service", percentile(idle, 50), "ms", 2),
        Row("idle: p99", percentile(idle, 99), "ms", 10),
        Row("all cores busy: p50", percentile(busy, 50), "ms", 5),
        Row("all cores busy: p99", percentile(busy, 99), "ms", 50),
        Row("idle: contents a second, 100 callers of one connection", rate, "/s", 5_000, more_is_better=True),
        Row("all cores busy: the same", busy_rate, "/s", 1_000, more_is_better=True),
    ]
    show("The TPM service", rows)


if __name__ == "__main__":
    os.environ.pop("TPMBUS_TPM", None)
    main()
