"""The command line in a process of its own, by fork from one that has imported it: without half a second of imports each time.

It sees what it would see (arguments, environment, input, output, signals, a process id of its own), and what it leaves behind
goes on. Not tried here is that it finds its imports by itself: the pages of the documentation, `tpmbus run` and whatever else
goes on beside a test begin as interpreters that know nothing.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

SECONDS = 100
READY_MADE = (
    "bus.hub.open", "bus.hub.admin", "bus.hub.doctor", "bus.hub.fleet_papers", "bus.hub.tpm_process", "bus.hub.which_tpm",
    "bus.fleet.running", "bus.fleet.live_table", "bus.cli.loop", "bus.tpm.serving", "bus.tpm.esapi", "rich.table",
    "anyio._backends._asyncio", "uvloop",
)  # fmt: skip
"""What commands import when they run."""


class ForkedCommands:
    """Runs one command at a time."""

    def __init__(self) -> None:
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
        self._process = subprocess.Popen([sys.executable, __file__], stdin=theirs)
        theirs.close()

    def run(self, arguments: tuple[str, ...], *, typed: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as noted:
            given.write(typed)
            given.seek(0)
            order = json.dumps({"arguments": arguments, "environ": dict(environ), "folder": str(Path.cwd())})
            socket.send_fds(self._line, [order.encode()], [file.fileno() for file in (given, said, noted)])
            pid = int(self._line.recv(64))
            code = self._code(pid, arguments)
            return subprocess.CompletedProcess(arguments, code, read(said), read(noted))

    def _code(self, pid: int, arguments: tuple[str, ...]) -> int:
        self._line.settimeout(SECONDS)
        try:
            return int(self._line.recv(64))
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self._line.settimeout(None)
            self._line.recv(64)
            raise AssertionError(f"after {SECONDS} s it had not ended: tpmbus {' '.join(arguments)}") from None
        finally:
            self._line.settimeout(None)

    def close(self) -> None:
        self._line.close()
        self._process.wait(SECONDS)


def read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


# ---- the process that has imported it ------------------------------------------------------------------------------------------


def serve(line: socket.socket) -> None:
    from bus.cli.main import _COMMANDS

    for name in (*(module for module, _, _ in _COMMANDS.values()), *READY_MADE):
        importlib.import_module(name)
    gc.freeze()
    while True:
        order, descriptors, _, _ = socket.recv_fds(line, 1 << 18, 3)
        if not order:
            return
        child = os.fork()
        if child == 0:
            line.close()
            os._exit(play(json.loads(order), descriptors))
        for descriptor in descriptors:
            os.close(descriptor)
        line.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        line.send(str(os.waitstatus_to_exitcode(status)).encode())


def play(order: dict[str, Any], descriptors: list[int]) -> int:
    """Be the command. Gives the exit code, after what an interpreter does at its end."""
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["folder"])
    sys.argv = ["tpmbus", *order["arguments"]]
    try:
        from bus.cli.main import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  as an interpreter does
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    if not sys.flags.safe_path:
        del sys.path[0]  # the tests' folder: a command is run from somewhere else
    with socket.socket(fileno=os.dup(0)) as line:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        serve(line)
