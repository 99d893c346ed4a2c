"""A disk without room, and one that fails: nothing that was stored is lost, and it goes on when it can."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from journal_world import look, said

FILLING = Path(__file__).with_name("filling_journal.py")


def filling(tmp_path, *arguments, inject=None):
    command = [sys.executable, str(FILLING), str(tmp_path / "journal"), *map(str, arguments)]
    if inject is not None:
        filling(tmp_path, 0)  # the files are there: what fails is writing, not opening
        call = inject.split(":", maxsplit=1)[0]
        command = ["strace", "-f", "-qq", "-o", str(tmp_path / "trace"), "-e", f"trace={call}", "-e", f"inject={inject}", *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    failed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("failed")]
    stored, settled = said("".join(f"{line}\n" for line in done.stdout.splitlines() if not line.startswith("failed")))
    return failed, stored, settled


@pytest.mark.parametrize("when", ["20..30", "31..60", "61..63", "90..99"])
def test_a_disk_without_room_is_said_and_lasts_no_longer_than_it_must(tmp_path, when):
    failed, stored, settled = filling(tmp_path, 30, inject=f"pwrite64:error=ENOSPC:when={when}")
    assert "disk_full" in failed
    assert set(failed) <= {"disk_full", "disk"}, "where shared memory finds no room, SQLite says no more than that it failed"
    assert len(stored) == 30
    anyio.run(look, tmp_path / "journal", stored, settled)


@pytest.mark.parametrize(("call", "error"), [("fdatasync", "EIO"), ("pwrite64", "EIO")])
def test_a_disk_that_fails_is_said_and_what_comes_later_goes_elsewhere(tmp_path, call, error):
    failed, stored, settled = filling(tmp_path, 30, inject=f"{call}:error={error}:when=30..33")
    assert failed
    assert set(failed) == {"disk"}
    assert len(stored) == 30
    anyio.run(look, tmp_path / "journal", stored, settled)


def test_a_file_that_may_not_grow_is_left_as_it_is(tmp_path):
    failed, stored, settled = filling(tmp_path, 40, 60_000)
    assert set(failed) == {"disk"}
    assert len(stored) == 40
    anyio.run(look, tmp_path / "journal", stored, settled)
