"""What was acknowledged is on the disk, not only with the kernel: watched through its system calls.

kill -9 cannot show this, because the kernel keeps what a process wrote. So one test counts the syncs behind each acknowledgement,
and one takes away from every file what was not synced when the process died, as a loss of power may.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import anyio

sys.path.insert(0, str(Path(__file__).parent))

from journal_world import WRITING, look, said

ENVIRON = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
WRITE = re.compile(r"^\d+ +pwrite64\(\d+<(?P<path>[^>]+)>, .*, (?P<size>\d+), (?P<offset>\d+)\) += \d+$")
SYNC = re.compile(r"^\d+ +(?:fdatasync|fsync)\(\d+<(?P<path>[^>]+)>\) += 0$")
SAY = re.compile(r'^\d+ +write\(1<[^>]+>, "(?P<what>stored|settled) (?P<number>\d+)')


@dataclass
class Seen:
    """What a trace shows of one run."""

    synced: dict[str, int] = field(default_factory=dict)
    """File -> how far it was written when it was last synced."""
    written: dict[str, int] = field(default_factory=dict)
    unsynced: set[str] = field(default_factory=set)
    syncs: list[str] = field(default_factory=list)
    """Files that were synced, in order, with what was said in between."""

    def read(self, trace: str) -> Seen:
        for line in joined(trace):
            if found := WRITE.match(line):
                end = int(found["offset"]) + int(found["size"])
                self.written[found["path"]] = max(end, self.written.get(found["path"], 0))
                self.unsynced.add(found["path"])
            elif found := SYNC.match(line):
                self.synced[found["path"]] = self.written.get(found["path"], 0)
                self.unsynced.discard(found["path"])
                self.syncs.append(Path(found["path"]).name)
            elif found := SAY.match(line):
                wal = "segments/" if found["what"] == "stored" else "state.db"
                late = [path for path in self.unsynced if wal in path and path.endswith("-wal")]
                assert not late, f"{found['what']} {found['number']} was said before {late} was synced"
                self.syncs.append(found["what"])
        return self


def joined(trace: str) -> list[str]:
    """A call during which another thread made one stands in two lines; it happens when it ends."""
    begun: dict[str, str] = {}
    lines = []
    for line in trace.splitlines():
        thread = line.split(maxsplit=1)[0]
        if line.endswith("<unfinished ...>"):
            begun[thread] = line.removesuffix("<unfinished ...>").rstrip()
        elif " resumed>" in line:
            lines.append(begun.pop(thread) + line.split(" resumed>")[1])
        else:
            lines.append(line)
    return lines


def traced(tmp_path: Path, *more: str, count: int = 20) -> tuple[Seen, str]:
    trace = tmp_path / "trace"
    command = ["strace", "-f", "-y", "-qq", "-s", "40", "-o", str(trace), "-e", "trace=pwrite64,write,fdatasync,fsync", *more]
    program = [sys.executable, str(WRITING), str(tmp_path / "journal"), "1", str(count), "1000000"]
    done = subprocess.run([*command, *program], stdout=subprocess.PIPE, text=True, timeout=60, check=False, env=ENVIRON)
    return Seen().read(trace.read_text()), done.stdout


def test_a_commit_is_synced_before_it_is_acknowledged(tmp_path):
    seen, _ = traced(tmp_path)
    assert seen.syncs.count("stored") == 20
    assert seen.syncs.count("settled") >= 5
    segment = [what for what in seen.syncs if what in ("stored", "000000000001.db-wal")]
    for place, what in enumerate(segment):
        assert what != "stored" or segment[place - 1] == "000000000001.db-wal", (
            "each acknowledgement has a sync of its own before it"
        )


def test_what_was_acknowledged_is_there_when_all_that_was_not_synced_is_gone(tmp_path):
    """Killed as it begins to sync: what it has written is with the kernel alone."""
    seen, text = traced(tmp_path, "-e", "inject=fdatasync:signal=KILL:when=25", count=40)
    stored, settled = said(text)
    assert len(stored) >= 5
    lost = 0
    for name, size in seen.written.items():
        path = Path(name)
        if name.endswith("-wal") and path.exists():
            lost += size - seen.synced.get(name, 0)
            os.truncate(path, seen.synced.get(name, 0))
    assert lost > 0, "there was nothing to lose, so nothing was tried"
    anyio.run(look, tmp_path / "journal", stored, settled)
