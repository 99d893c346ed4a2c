"""How a signal ends what a command waits for, and what the next one does."""

from __future__ import annotations

import subprocess
import sys

TWICE = """
import os, signal
import anyio
from bus.cli.loop import run, until_stopped

async def main():
    before = signal.getsignal(signal.SIGINT)
    async with until_stopped() as stopped:
        os.kill(os.getpid(), signal.SIGINT)
        await anyio.sleep_forever()
    print(stopped.exit_code, signal.getsignal(signal.SIGINT) is before, flush=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        print("goes on to where it can be cancelled", flush=True)
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0)
            print("closed in order", flush=True)

try:
    run(main)
except KeyboardInterrupt:
    print("stopped", flush=True)
"""


def test_a_second_ctrl_c_cancels_and_interrupts_nobody_in_the_middle():
    """The loop's own receiver leaves behind who raises KeyboardInterrupt wherever it is. In the middle of a cancellation that broke
    everybody's scopes, and a traceback was the last that was seen.
    """
    done = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, timeout=50, check=False)
    assert done.stdout.splitlines() == ["130 True", "goes on to where it can be cancelled", "closed in order", "stopped"]
    assert done.stderr == ""
