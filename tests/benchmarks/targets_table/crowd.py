"""The row about growth: ../scale.py in a process of its own, whose lines are figures as soon as they are there."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

from targets_table.figure import Figure
from targets_table.running import Run

PROGRAM = Path(__file__).parent.parent / "scale.py"
TARGET = 1.2
END_SECONDS = 10


async def scale(run: Run) -> None:
    run.outcome.notes.append(
        "1,000 pairs at 1,000 a second, the rest idle. Real: broker, hosts, sockets, sessions, signatures, encryption, policy. "
        "Not real: keys are ready-made and in no TPM, nobody is enrolled, a hundred idle agents share a host"
    )
    command = [sys.executable, "-P", str(PROGRAM), "--json", *(["--quick"] if run.quick else [])]
    process = await anyio.open_process(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=None)
    if process.stdout is None:
        raise ValueError("it is started with a pipe")
    lines = BufferedByteReceiveStream(process.stdout)
    run.told("starting the smallest bus, and the first that grows")
    try:
        while True:
            _take(run, json.loads(await lines.receive_until(b"\n", 1 << 20)))
    except (anyio.IncompleteRead, anyio.EndOfStream):
        if code := await process.wait():
            raise RuntimeError(f"scale.py ended with code {code}; what it said is above") from None
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.terminate()
            with anyio.move_on_after(END_SECONDS):
                await process.wait()
            await process.aclose()


def _take(run: Run, found: dict) -> None:
    size = f"{found['agents']:,} agents, {found['subscriptions']:,} subscriptions"
    values, broker = tuple(found["ratios"]), statistics.median(found["broker_ratios"])
    run.outcome.figures.append(Figure(f"{size} / 76 and 10", "x", TARGET, values, more_is_better=False, by_processor=values))
    together, beside = (statistics.median(found[name]) for name in ("together", "smallest_together"))
    cost = f"{statistics.median(found['message_us']):,.0f} us a message ({statistics.median(found['smallest_us']):,.0f} beside it)"
    idle = f"the idle ones take {statistics.median(found['idle_percent']):.1f} % of a processor"
    turns = f"messages a turn: {together:.2f}, beside it {beside:.2f} (where these differ, the machine was busy)"
    memory = f"the broker has {found['broker_mib']:,.0f} MiB, and took {found['setup_seconds']:,.0f} s to grow"
    run.outcome.notes.append(f"{size}: {cost}, the broker's part {broker:.2f} times; {idle}; {turns}; {memory}")
    run.told(f"{size}: {cost}")
