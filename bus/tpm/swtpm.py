"""A software TPM of our own: made once per state folder, started as a child, stopped in order, started again when it dies.

It gives no hardware security: whoever can read its folder has its keys. Its endorsement certificates come from a CA that is
made beside it, so that nothing but this state folder's own trust rests on them.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bus.errors import TpmUnavailableError

_log = logging.getLogger(__name__)

SETUP_SECONDS: Final = 60.0
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 5.0
ANSWER_SECONDS: Final = 5.0
MAX_SOCKET_PATH: Final = 107 - len(".ctrl")
"""A Unix socket's path has 108 bytes with its end; the control socket's name is the longer one."""

_CTRL_CAPABILITIES: Final = (1).to_bytes(4, "big")
_CTRL_SHUTDOWN: Final = (3).to_bytes(4, "big")
_GET_RANDOM: Final = bytes.fromhex("8001 0000000c 0000017b 0001")
_PR_SET_PDEATHSIG: Final = 1
_MISSING: Final = (
    "swtpm is not installed: `apt-get install swtpm swtpm-tools` (Fedora: dnf install swtpm swtpm-tools; Arch: pacman -S swtpm; "
    "macOS: brew install swtpm), or name another TPM with TPMBUS_TPM"
)


def is_installed() -> bool:
    return shutil.which("swtpm") is not None and shutil.which("swtpm_setup") is not None


def manufacture(folder: Path) -> None:
    """Make the TPM's state in `folder/state` and its CA in `folder/ca`, unless they are there.

    All of it is made in a folder beside and renamed into place: a process that is killed here leaves no half-made TPM, and the
    next one removes what it left. One makes at a time; who waited finds it made. Raises TpmUnavailableError("swtpm_setup").
    """
    if (folder / "state").is_dir():
        return
    if not is_installed():
        raise TpmUnavailableError("no_swtpm", _MISSING)
    try:
        with _alone_at(folder):
            if not (folder / "state").is_dir():
                _manufacture(folder)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TpmUnavailableError("swtpm_setup", f"no software TPM can be made in {folder}: {error}") from error


def _manufacture(folder: Path) -> None:
    making = folder.with_name(f"{folder.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    try:
        _set_up(making, at=folder)
        making.rename(folder)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise


def _set_up(making: Path, *, at: Path) -> None:
    for place in (making, making / "state", making / "ca"):
        place.mkdir(mode=0o700)
    _write_configuration(making, at=making)
    command = ["swtpm_setup", "--tpm2", "--config", str(making / "setup.conf"), "--tpmstate", str(making / "state")]
    command += ["--create-ek-cert", "--create-platform-cert", "--lock-nvram", "--overwrite"]
    done = subprocess.run(  # noqa: S603  fixed program, own paths
        command, capture_output=True, text=True, timeout=SETUP_SECONDS, check=False, preexec_fn=_die_with_parent
    )
    if done.returncode:
        raise TpmUnavailableError("swtpm_setup", f"swtpm_setup failed with exit code {done.returncode}: {_last_lines(done)}")
    _write_configuration(making, at=at)


@contextmanager
def _alone_at(folder: Path) -> Iterator[None]:
    """Exclude others who make this one, by a lock that the kernel gives back when a process dies: on a file of our own."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(
        folder.with_name(f".{folder.name}.making.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write_configuration(making: Path, *, at: Path) -> None:
    """What swtpm_setup and its CA read: with the paths of the folder as it will be `at`."""
    ca = at / "ca"
    files: dict[str, dict[str, object]] = {
        "setup.conf": {
            "create_certs_tool": "swtpm_localca",
            "create_certs_tool_config": at / "localca.conf",
            "create_certs_tool_options": at / "localca.options",
            "active_pcr_banks": "sha256,sha384",
        },
        "localca.conf": {
            "statedir": ca,
            "signingkey": ca / "signkey.pem",
            "issuercert": ca / "issuercert.pem",
            "certserial": ca / "certserial",
        },
    }
    for name, settings in files.items():
        (making / name).write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    (making / "localca.options").write_text("--platform-manufacturer tpmbus\n--platform-version 1\n--platform-model swtpm\n")


class Swtpm:
    """The running process. `tcti` is what to open; after a crash, `start` brings it back with the same keys.

    It ends with the thread that started it, so that nothing is left behind by a process that was killed.
    """

    def __init__(self, folder: Path, *, socket_path: Path) -> None:
        if len(os.fsencode(socket_path)) > MAX_SOCKET_PATH:
            raise TpmUnavailableError(
                "path_too_long", f"{socket_path} is too long for a Unix socket: choose a shorter runtime folder"
            )
        self._folder, self._socket = folder.absolute(), socket_path.absolute()
        if "," in f"{self._folder}{self._socket}":
            raise TpmUnavailableError(
                "path_with_comma", f"swtpm takes no path with a comma ({self._folder}): choose another folder"
            )
        self._process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self._socket}"

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it if it does not run, and wait until it listens. One that runs and does not answer is replaced."""
        if self.is_running() and _answers(self._socket):
            return
        self.stop()  # it was killed, and is alive a moment longer than its sockets
        manufacture(self._folder)
        self._stop_leftover()
        log = self._folder / "swtpm.log"
        log.write_bytes(b"")
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._folder / 'state'},mode=0600"]
        command += ["--server", f"type=unixio,path={self._socket},mode=0600"]
        command += ["--ctrl", f"type=unixio,path={self._control},mode=0600"]
        command += ["--flags", "not-need-init,startup-clear", "--log", f"level=1,file={log}"]
        try:
            self._process = subprocess.Popen(  # noqa: S603  fixed program, own paths
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  it only makes a system call
            )
        except OSError as error:
            raise TpmUnavailableError("no_swtpm", f"swtpm cannot be run ({error}); {_MISSING}") from error
        self.starts += 1
        self._wait_until_it_listens()

    def stop(self) -> None:
        """In order: SIGTERM lets it write its state and tell the TPM, which counts disorderly ends."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    @property
    def _control(self) -> Path:
        return self._socket.with_name(self._socket.name + ".ctrl")

    def _wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if not self.is_running():
                break
            if _listens(self._socket) and _is_up(self._control):
                return
            time.sleep(0.005)
        tail = (self._folder / "swtpm.log").read_text(errors="replace")[-400:].strip()
        self.stop()
        raise TpmUnavailableError("swtpm_start", f"swtpm does not start: {tail or 'it says nothing'}")

    def _stop_leftover(self) -> None:
        """A process of ours that was killed may have left its swtpm running: it holds the state's lock, so it must go first."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as control:
            control.settimeout(STOP_SECONDS)
            control.connect(str(self._control))
            _log.warning("stopping a software TPM that an earlier process left behind")
            control.sendall(_CTRL_SHUTDOWN)
            while control.recv(16):
                pass
        for path in (self._socket, self._control):
            path.unlink(missing_ok=True)


def _listens(path: Path) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
        return True
    return False


def _is_up(control: Path) -> bool:
    """Whether it has begun to work: it listens before it has its state, and ends if another one has that."""
    return _replies(control, _CTRL_CAPABILITIES)


def _answers(path: Path) -> bool:
    """Whether the TPM itself answers: a process that is being killed may still let us connect."""
    return _replies(path, _GET_RANDOM)


def _replies(path: Path, request: bytes) -> bool:
    with suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(ANSWER_SECONDS)
        probe.connect(str(path))
        probe.sendall(request)
        return len(probe.recv(64)) > 0
    return False


def _die_with_parent() -> None:
    """In the child, before exec: when the parent is gone, end in order too."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_lines(done: subprocess.CompletedProcess[str]) -> str:
    return " | ".join((done.stdout + done.stderr).strip().splitlines()[-3:])
