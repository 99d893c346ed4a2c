"""The command line in a process of its own, by fork from one that has imported it: without half a second of imports each time.

    run              one command, to its end
    run_in           one in another folder, as in a terminal
    begin            one that goes on beside the test
    start_service    the TPM service of a state folder, which goes on as nobody's child, as when the library starts it

It sees what it would see (arguments, environment, input, output, signals, a process id of its own), and what it leaves behind
goes on. Not tried here is that it finds its imports by itself: the commands of the README, programs of the documentation and the
examples begin as interpreters that know nothing; that the library starts the service by itself, and in time, is what
`tests/hub/test_tpm_process.py` is about.

A command that needs the TPM service starts it as it always does, through `sys.executable`, and that is `quick_python` here: it has
the service forked from a twin of this process, which waits for that alone. Every other program begins as an interpreter. A test
that opens a hub in its own process may have that too (`lend`).

The RSA key of a root that a command makes was made before, of primes that lie in a file: to find such primes takes half a second of
a processor each time. The commands of the README and the examples find their own.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

SECONDS = 100
QUICK = Path(__file__).with_name("quick_python")
TWIN, PYTHON = "TPMBUS_TEST_TWIN", "TPMBUS_TEST_PYTHON"
"""What `quick_python` is told in its environment: where the twin listens, and the interpreter."""
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
        self._folder = tempfile.TemporaryDirectory(prefix="tpmbus-twin-")
        self._process = subprocess.Popen([sys.executable, __file__, self._twin], stdin=theirs)
        theirs.close()
        self._is_ready = False

    @property
    def _twin(self) -> str:
        return f"{self._folder.name}/sock"

    def lend(self, patch: pytest.MonkeyPatch) -> None:
        """The TPM services that this process starts are forked too, until the patch is taken back."""
        self._wait()
        patch.setenv(TWIN, self._twin)
        patch.setenv(PYTHON, sys.executable)
        patch.setattr(sys, "executable", str(QUICK))

    def run(self, arguments: tuple[str, ...], *, typed: str, environ: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as noted:
            given.write(typed)
            given.seek(0)
            self._order("run", arguments, environ, Path.cwd(), [file.fileno() for file in (given, said, noted)])
            pid = int(self._line.recv(64))
            code = self._code(pid, arguments)
            return subprocess.CompletedProcess(arguments, code, read(said), read(noted))

    def run_in(
        self, folder: Path, arguments: tuple[str, ...], *, typed: str, environ: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """As in a terminal: what it says and what it notes come as one text."""
        with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
            given.write(typed)
            given.seek(0)
            self._order("run", arguments, environ, folder, [given.fileno(), said.fileno(), said.fileno()])
            pid = int(self._line.recv(64))
            return subprocess.CompletedProcess(arguments, self._code(pid, arguments), read(said))

    def begin(
        self, arguments: tuple[str, ...], files: Sequence[int], *, environ: Mapping[str, str], folder: Path | None = None
    ) -> Begun:
        """`files`: its input, its output, its errors."""
        told, tell = os.pipe()
        self._order("begin", arguments, environ, folder or Path.cwd(), [*files, tell])
        os.close(tell)
        self._ended()
        return Begun(told)

    def start_service(self, state: Any, policy: str, *, tpm: str | None = None) -> None:
        """Comes back when it is ready. The words are those that the library would use."""
        from bus.hub.tpm_process import _command

        arguments = _command(state, policy, tpm)[4:]
        assert arguments[:2] == ["tpm", "serve"]
        ready, theirs = os.pipe()
        log = os.open(state.folder / "tpm-service.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        self._order("leave", tuple(arguments), os.environ, Path("/"), [nothing, theirs, log])
        for descriptor in (nothing, theirs, log):
            os.close(descriptor)
        self._ended()
        with os.fdopen(ready, "rb") as said:
            line = said.readline()
        assert line == b"ready\n", line

    def _order(self, how: str, arguments: tuple[str, ...], environ: Mapping[str, str], folder: Path, files: Sequence[int]) -> None:
        self._wait()
        order = json.dumps({"how": how, "arguments": arguments, "environ": dict(environ), "folder": str(folder)})
        socket.send_fds(self._line, [order.encode()], files)

    def _wait(self) -> None:
        """Until it has imported everything, and its twin listens."""
        if not self._is_ready:
            self._line.recv(64)
            self._is_ready = True

    def _ended(self) -> None:
        """The process between, which only makes another one."""
        self._line.recv(64)
        assert int(self._line.recv(64)) == 0

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
        self._folder.cleanup()


class Begun:
    """What `subprocess.Popen` would be, of a command that was begun by fork: it leads a process group of its own."""

    def __init__(self, told: int) -> None:
        self._told = os.fdopen(told, "rb", buffering=0)
        self.pid = int(self._told.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self._look(0)

    def wait(self, seconds: float) -> int:
        code = self._look(seconds)
        if code is None:
            raise subprocess.TimeoutExpired(str(self.pid), seconds)
        return code

    def _look(self, seconds: float) -> int | None:
        if self.returncode is None and select.select([self._told], [], [], seconds)[0]:
            self.returncode = int(self._told.readline())
            self._told.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def read(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


# ---- the process that has imported it ------------------------------------------------------------------------------------------


def serve(line: socket.socket, path: str) -> None:
    from bus.cli.main import _COMMANDS

    for name in (*(module for module, _, _ in _COMMANDS.values()), *READY_MADE):
        importlib.import_module(name)
    from ready_rsa import ROOT_BITS, pairs

    pairs(ROOT_BITS, 65_537)  # read once
    gc.freeze()
    commands = count()
    with twin(path, line) as held:
        line.send(b"ready")
        while True:
            data, descriptors, _, _ = socket.recv_fds(line, 1 << 18, 4)
            if not data:
                return
            number = next(commands)
            child = os.fork()
            if child == 0:
                line.close()
                os.close(held)
                have_roots_ready(number)
                order = json.loads(data)
                if order["how"] != "run":
                    os.setsid()
                    if os.fork():
                        os._exit(0)
                if order["how"] == "begin":
                    begin(descriptors)
                if order["how"] != "leave":
                    order["environ"] |= {TWIN: path, PYTHON: sys.executable}
                    sys.executable = str(QUICK)
                os._exit(play(order, descriptors))
            for descriptor in descriptors:
                os.close(descriptor)
            line.send(str(child).encode())
            _, status = os.waitpid(child, 0)
            line.send(str(os.waitstatus_to_exitcode(status)).encode())


def have_roots_ready(number: int) -> None:
    """In commands that follow each other they differ, and from those that tests make themselves (`ready_roots`)."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from ready_rsa import roots_of_many

    rsa.generate_private_key = roots_of_many(count(2 * number, 2).__next__)


@contextmanager
def twin(path: str, line: socket.socket) -> Iterator[int]:
    """A process that makes services, as nobody's children, for commands. It ends when nobody holds what this gives."""
    ours, held = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(64)
        child = os.fork()
        if child == 0:
            line.close()
            os.close(held)
            make_services(listener, ours)
            os._exit(0)
    os.close(ours)
    yield held
    os.close(held)
    os.waitpid(child, 0)


def make_services(listener: socket.socket, until: int) -> None:
    while listener in select.select([listener, until], [], [])[0]:
        asking, _ = listener.accept()
        with asking:
            data, descriptors, _, _ = socket.recv_fds(asking, 1 << 18, 3)
        child = os.fork()
        if child == 0:
            listener.close()
            os.close(until)
            os.setsid()
            os._exit(0 if os.fork() else play(json.loads(data), descriptors))
        for descriptor in descriptors:
            os.close(descriptor)
        os.waitpid(child, 0)


def begin(descriptors: list[int]) -> None:
    """Goes on in a child, whose process id and exit code its parent tells."""
    tell = descriptors.pop()
    child = os.fork()
    if child == 0:
        os.close(tell)
        os.setsid()
        return
    for descriptor in descriptors:
        os.close(descriptor)
    os.write(tell, b"%d\n" % child)
    _, status = os.waitpid(child, 0)
    os.write(tell, b"%d\n" % os.waitstatus_to_exitcode(status))
    os._exit(0)


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
    sys.path.append(str(Path(__file__).parent / "trust"))
    if not sys.flags.safe_path:
        del sys.path[0]  # the tests' folder: a command is run from somewhere else
    with socket.socket(fileno=os.dup(0)) as line:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        serve(line, sys.argv[1])
