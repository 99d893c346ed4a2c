"""Input that is guided by coverage: a target of this folder in a process of its own, with its committed corpus, for a while.

`make soak` says how long (`scripts/soak --seconds`). What fails is left in the test's folder, and its bytes are in the message.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = int(os.environ.get("TPMBUS_FUZZ_SECONDS", "1"))
HERE = Path(__file__).parent


def guided(folder: Path, script: str, *arguments: str, corpus: str) -> None:
    """Every input keeps the target's laws, takes less than ten seconds and no more memory than they allow."""
    pytest.importorskip("atheris")
    limits = [f"-max_total_time={SECONDS}", "-rss_limit_mb=1500", "-timeout=10", "-max_len=4096"]
    ran = subprocess.run(
        [sys.executable, HERE / script, *arguments, *limits, folder, HERE / "corpus" / corpus],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS + 90,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert "Done" in ran.stderr, "it has tried inputs until the time was up"
