"""A journal's files need nothing but their own folder: the broker's process may write nowhere else."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys, tempfile
from pathlib import Path
from bus.backbone.grants_file import GrantsFile
from bus.backbone.interface import Grant
from bus.hub.containment import contain, needed_to_run

folder = Path(sys.argv[1])
contain(read=needed_to_run(), write=[folder])
file = GrantsFile(folder / "grants.db")
grants = [Grant(bytes([number % 256]) * 32, f"READER{number}", "SENDER", bytes(16), 1, bytes(2_000)) for number in range(2_000)]
file.write(grants, [])
file.drop(2)
print(file.kept())
"""


def test_grants_are_kept_and_counted_where_nothing_else_may_be_written(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, tmp_path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout.strip(), done.returncode) == ("{}", 0), done.stderr
