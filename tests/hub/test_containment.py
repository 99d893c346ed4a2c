"""What a contained process may do, and what it may not: asked of the kernel by programs that try."""

from __future__ import annotations

import ast
import errno
import platform
import socket
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
    "see the memory that others share": "import os; os.listdir('/dev/shm')",
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


CALLS = {
    "look into another process": {"x86_64": 101, "aarch64": 117},  # ptrace(PTRACE_TRACEME)
    "read another process's memory": {"x86_64": 310, "aarch64": 270},  # process_vm_readv
    "write another process's memory": {"x86_64": 311, "aarch64": 271},  # process_vm_writev
    "start a program": {"x86_64": 59, "aarch64": 221},  # execve
    "start a program that is open": {"x86_64": 322, "aarch64": 281},  # execveat
    "open a file by its number on the disk": {"x86_64": 304, "aarch64": 265},  # open_by_handle_at
    "take a file that another process has open": {"x86_64": 438, "aarch64": 438},  # pidfd_getfd
    "have the kernel connect in its place": {"x86_64": 425, "aarch64": 425},  # io_uring_setup
    "connect": {"x86_64": 42, "aarch64": 203},
    "call by the numbers of another kind of program": {"x86_64": 0x40000000 + 39},  # x32's getpid
}
"""By the numbers that they have in the kernel's own headers."""
CALLING = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
print([(libc.syscall(number, 0, 0, 0, 0, 0, 0), ctypes.get_errno()) for number in {numbers}])
"""
OF_A_BROKER = """
import sys
from pathlib import Path
from bus.hub.broker_program import _contained
from bus.hub.state import State
state = State(Path(sys.argv[1]), Path(sys.argv[2]))
print(sorted(_contained(state, [f"unix://{state.bus_socket}"], None)))

def may(mode, file):
    try:
        open(file, mode).close()
    except PermissionError:
        return ""
    return mode

found = {name: state.folder / name for name in sys.argv[3:]}
print({name: may("r", place / "file") + may("w", place / "new") for name, place in found.items()})
"""
PLACES = {
    "trust/public": "r",
    "trust/private": "",
    "trust": "",
    "vault": "",
    "inbox": "",
    "cosign": "",
    "ledger": "",
    "tls": "",
    "broker": "rw",
    "journal": "rw",
    ".": "",
    "run": "",
    "run/broker": "rw",
}
"""Of a state folder: what a broker may read and write there."""


CONNECTING = """
import socket, sys
from pathlib import Path
from bus.hub.containment import contain, needed_to_run, no_more_local_sockets
port = int(sys.argv[3])
print(sorted(contain(read=[*needed_to_run(), Path(sys.argv[1])], write=[Path(sys.argv[2])], ports=[port])))
before = socket.socket(socket.AF_UNIX)
before.bind(sys.argv[2] + "/own")
before.listen()
print(no_more_local_sockets())
exec(sys.argv[4])
print("went on")
"""
REACHED = {
    "the port that it needs": ("socket.create_connection(('127.0.0.1', port))", True),
    "another port": ("socket.create_connection(('127.0.0.1', {other}))", False),
    "a socket of this machine": ("socket.socket(socket.AF_UNIX)", False),
    "that by one that listens already": ("before.connect('{socket}')", False),
    "a network with packets of its own making": ("socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)", False),
    "whoever knows names": ("socket.socket(type=socket.SOCK_DGRAM)", False),
    "the kernel's own ways": ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", False),
    "who comes to it": ("before.settimeout(0); [before.accept() for _ in ()]", True),
    "its own address": ("socket.create_server(('127.0.0.1', 0))", True),
}


@pytest.mark.parametrize("what", REACHED)
def test_who_needs_a_port_reaches_that_and_nothing_else(what, tmp_path, runtime):
    places = {name: tmp_path / name for name in ("read", "write", "outside")}
    for place in places.values():
        place.mkdir()
    program, goes = REACHED[what]
    with (
        socket.create_server(("127.0.0.1", 0)) as wanted,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.socket(socket.AF_UNIX) as local,
    ):
        local.bind(str(runtime / "s"))
        local.listen()
        program = program.format(socket=runtime / "s", other=other.getsockname()[1])
        port = str(wanted.getsockname()[1])
        command = [sys.executable, "-c", CONNECTING, str(places["read"]), str(places["write"]), port, program]
        result = subprocess.run(command, capture_output=True, check=False, timeout=60)
    said = result.stdout.decode().splitlines()
    assert said[:2] == ["['calls', 'files', 'ports']", "True"]
    assert ("went on" in said) is goes, result.stderr


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


def test_a_contained_process_may_not_call_what_it_does_not_need(tmp_path):
    """Asked with arguments that are none: it is refused before anybody looks at them."""
    numbers = {what: found[platform.machine()] for what, found in CALLS.items() if platform.machine() in found}
    code, said = contained(tmp_path, CALLING.format(numbers=[*numbers.values()]))
    answers = ast.literal_eval(said.splitlines()[1])
    assert (code, dict(zip(numbers, answers, strict=True))) == (0, dict.fromkeys(numbers, (-1, errno.EPERM)))


def test_a_contained_process_gets_no_privileges_and_leaves_no_memory(tmp_path):
    code, said = contained(
        tmp_path, "import ctypes; print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), *open('/proc/self/status').read().split())"
    )
    dumpable, *status = said.splitlines()[1].split()
    assert (code, dumpable, status[status.index("NoNewPrivs:") + 1]) == (0, "0", "1")


def test_a_broker_gets_at_its_own_and_at_what_is_public(tmp_path, runtime):
    (tmp_path / "run").symlink_to(runtime)
    for name in PLACES:
        (tmp_path / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / name / "file").touch()
    command = [sys.executable, "-c", OF_A_BROKER, str(tmp_path), str(runtime), *PLACES]
    result = subprocess.run(command, capture_output=True, check=False, timeout=60)
    held, found = result.stdout.decode().splitlines()
    assert held == "['calls', 'files']", result.stderr
    assert ast.literal_eval(found) == PLACES
