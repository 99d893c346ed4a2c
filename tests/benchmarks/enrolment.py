"""76 agents of one host enrolled at once, from the request to the certificates, on a software TPM; keys are made before.

python tests/benchmarks/enrolment.py [RUNS]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from pathlib import Path

import anyio
import anyio.to_thread
from targets import Row, show

sys.path.insert(0, str(Path(__file__).parent.parent / "identity"))

from enrolling_world import engine_of, roots_of, wish, world_of

from bus.protocol.suites import IDENTITY_SUITES
from bus.tpm.swtpm import Swtpm
from bus.trust.enrolment_list import EVERY_NAME
from bus.trust.enrolment_messages import LOCAL

NAMES = [f"AGENT{number}" for number in range(76)]
POLICY = f"""
version: 1
domain: tpmbus.test
agents: {{{", ".join(f"{name}: all" for name in NAMES)}}}
roles: {{all: {{key: ecc256/sha256, inbox: x25519}}}}
"""


async def enrolling(base: Path, runs: int) -> list[Row]:
    swtpm = Swtpm(base / "swtpm", socket_path=base / "tpm.sock")
    swtpm.start()
    whole, authority = [], []
    try:
        async with (
            engine_of(swtpm, base / "vault") as engine,
            world_of(engine, base / "trust", roots_of(base / "swtpm"), text=POLICY) as world,
        ):
            world.uid = 0
            await anyio.to_thread.run_sync(world.desk.list_uid, EVERY_NAME, 0)
            for name in NAMES:
                await engine.create(name, IDENTITY_SUITES["ecc256/sha256"])
            ask = world.ask

            async def timed(message: bytes) -> bytes:
                begun = time.perf_counter()
                answer = await ask(message)
                authority[-1] += time.perf_counter() - begun
                return answer

            world.ask = timed
            for _ in range(runs):
                authority.append(0.0)
                wishes = [wish(name, LOCAL) for name in NAMES]
                begun = time.perf_counter()
                await world.enroll(*wishes)
                whole.append(time.perf_counter() - begun)
    finally:
        swtpm.stop()
    each = 1000 / len(NAMES)
    print(f"\nof which the authority {statistics.median(authority) * each:.1f} ms an agent: an RSA-4096 signature, and its journal")
    return [Row("76 agents enrolled at once, each, with everything", statistics.median(whole) * each, "ms", 30)]


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="tb", dir="/tmp") as folder:
        show("Enrolment", anyio.run(enrolling, Path(folder), runs))


if __name__ == "__main__":
    main()
