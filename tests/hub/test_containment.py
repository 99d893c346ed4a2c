"""What a contained process may do, and what it may not: asked of the kernel by programs that try."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONTAINED = """
import sys
from pathlib import Path
from bus.hub.containment import contain, needed_to_run
print(sorted(contain(read=[*needed_to_run(), Path(sys.argv[1])], write=[Path(sys.argv[2])])))
exec(sys.argv[3])
print("went on")
"""
FORBIDDEN = {
    "read what is not listed": "open('{outside}/secret').read()",
    "write what is only to be read": "open('{read}/new', 'w')",
    "write what is not listed": "open('{outside}/new', 'w')",
    "connect to a socket": "import socket; socket.socket(socket.AF_UNIX).connect('{outside}/socket')",
    "connect to the network": "import socket; socket.socket().connect(('127.0.0.1', 9))",
    "start a program": "import os; os.execv('/bin/true', ['true'])",
    "look into its parent": "import os; open('/proc/%d/mem' % os.getppid(), 'rb')",
}
ALLOWED = {
    "read what is listed": "open('{read}/public').read()",
    "write where it may": "open('{write}/new', 'w').write('x')",
    "serve at a socket": "import socket; s = socket.socket(socket.AF_UNIX); s.bind('{write}/s'); s.listen()",
    "keep a database": "import sqlite3; sqlite3.connect('{write}/db').execute('PRAGMA journal_mode=WAL')",
    "import late": "import http.client",
}


def contained(tmp_path: Path, what: str) -> tuple[int, str]:
    places = {name: tmp_path / name for name in ("read", "write", "outside")}
    for place in places.values():
        place.mkdir()
    (places["read"] / "public").write_text("public")
    (places["outside"] / "secret").write_text("secret")
    command = [sys.executable, "-c", CONTAINED, str(places["read"]), str(places["write"]), what.format(**places)]
    result = subprocess.run(command, capture_output=True, check=False, timeout=60)
    return result.returncode, result.stdout.decode()


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_contained_process_may_not(what, tmp_path):
    code, said = contained(tmp_path, FORBIDDEN[what])
    assert said.startswith("['calls', 'files']")
    assert (code, "went on" in said) == (1, False)


@pytest.mark.parametrize("what", ALLOWED)
def test_a_contained_process_may(what, tmp_path):
    code, said = contained(tmp_path, ALLOWED[what])
    assert (code, "went on" in said) == (0, True)
