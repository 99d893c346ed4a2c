"""A fleet in several processes: the hub listens on a Unix socket, and each worker is a process of its own that connects to it.

The workers' keys are in the same TPM, behind the TPM service that all processes of a state folder share.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
import anyio.to_thread

import bus

WORKERS = ("PYTHON", "RUST")


async def work(name: str, url: str) -> None:
    async with bus.connect(url, agent=name) as agent:
        async with agent.subscribe("work.build.shared", group="builders", durable="shared", start="all") as jobs:
            async for job in jobs:
                await agent.publish("results.build", {"number": job.body["number"], "by": name})
                await job.ack()


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"unix://{Path(folder) / 'bus.sock'}"
        async with bus.open(listen=[url]) as hub, hub.agent("ARCHITECT") as architect, hub.agent("COORDINATOR") as coordinator:
            async with coordinator.subscribe("results.build") as results:
                workers = [subprocess.Popen([sys.executable, __file__, name, url]) for name in WORKERS]  # noqa: S603, ASYNC220  our own program
                for number in range(4):
                    await architect.publish("work.build.shared", {"number": number})
                done = sorted([(await anext(results)).body["number"] for _ in range(4)])
                print(f"done: {done}")
            for worker in workers:
                worker.terminate()
                await anyio.to_thread.run_sync(worker.wait)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        anyio.run(work, sys.argv[1], sys.argv[2])
    else:
        anyio.run(main)
