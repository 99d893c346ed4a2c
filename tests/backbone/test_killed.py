"""A process that writes a journal is killed: at any moment under load, and at one system call after the other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from journal_world import WRITING, look, said

ENVIRON = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
MOMENTS = {
    "pwrite64": [1, 2, 3, 5, 8, 13, 21, 34, 55],
    "fdatasync": [1, 2, 3, 5, 8, 13, 21],
    "fsync": [1, 2, 3],
    "rename": [1, 2, 3],
    "unlink": [1, 2, 3],
    "ftruncate": [1],
}
"""System call -> which one of a thread is its last."""


def writing(*arguments: object) -> list[str]:
    return [sys.executable, str(WRITING), *map(str, arguments)]


def test_nothing_that_was_acknowledged_is_lost_when_it_is_killed_under_load(tmp_path):
    dice = random.Random(7)
    stored: dict[int, int] = {}
    settled: set[int] = set()
    for turn in range(5):
        child = subprocess.Popen(
            writing(tmp_path / "journal", turn * 1_000_000, 1_000_000, 300_000), stdout=subprocess.PIPE, text=True, env=ENVIRON
        )
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(dice.randrange(1, 400))]
        child.send_signal(signal.SIGKILL)
        rest = child.stdout.read()
        child.wait()
        child.stdout.close()
        more, done = said("".join(lines) + rest)
        assert more
        stored |= more
        settled |= done
    anyio.run(look, tmp_path / "journal", stored, settled)


@pytest.mark.slow
@pytest.mark.parametrize("call", MOMENTS)
def test_nothing_that_was_acknowledged_is_lost_at_whichever_system_call_it_is_killed(tmp_path, call):
    """In one folder, so that each finds what the last one left."""
    stored: dict[int, int] = {}
    settled: set[int] = set()
    killed = 0
    for turn, moment in enumerate(MOMENTS[call]):
        inject = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={call}"]
        inject += ["-e", f"inject={call}:signal=KILL:when={moment}"]
        command = [*inject, *writing(tmp_path / "journal", turn * 1_000, 12, 40_000)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=False, env=ENVIRON)
        assert done.returncode in (0, -signal.SIGKILL, 128 + signal.SIGKILL)
        killed += done.returncode != 0
        more, gone = said(done.stdout)
        stored |= more
        settled |= gone
    assert killed >= len(MOMENTS[call]) // 2, "it was hardly ever killed"
    anyio.run(look, tmp_path / "journal", stored, settled)
