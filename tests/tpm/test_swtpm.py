"""A software TPM's life: made once and whole, started, found dead, started again, and never left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bus.errors import TpmError, TpmUnavailableError
from bus.tpm.swtpm import MAX_SOCKET_PATH, Swtpm, manufacture

PROGRAM = """
import sys, time
from pathlib import Path
from bus.tpm.swtpm import Swtpm
process = Swtpm(Path(sys.argv[1]), socket_path=Path(sys.argv[2]))
process.start()
print(process.pid, flush=True)
sys.stdin.read()
"""


def alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


@pytest.fixture
def holder(swtpm_folder, runtime):
    """A process that has this test's software TPM, and what it said its TPM's process is."""
    command = [sys.executable, "-c", PROGRAM, str(swtpm_folder), str(runtime / "tpm.sock")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        process.swtpm = int(process.stdout.readline())
        yield process
    finally:
        process.kill()
        process.communicate()
        with suppress(OSError):
            os.kill(process.swtpm, signal.SIGKILL)


# ---- the process ---------------------------------------------------------------------------------------------------------------


def test_it_starts_once_and_stops_in_order(swtpm, swtpm_folder):
    pid = swtpm.pid
    swtpm.start()
    assert (swtpm.pid, swtpm.starts, swtpm.is_running()) == (pid, 1, True)
    swtpm.stop()
    swtpm.stop()
    assert not alive(pid)
    assert (swtpm.pid, swtpm.is_running()) == (None, False)
    swtpm.start()
    assert swtpm.starts == 2


def test_one_that_lives_but_answers_nobody_is_replaced(swtpm, runtime):
    """One that was killed is alive a moment longer than its sockets, and who asks it to start then would find nobody there."""
    pid = swtpm.pid
    for path in (runtime / "tpm.sock", runtime / "tpm.sock.ctrl"):
        path.unlink()
    swtpm.start()
    assert not alive(pid)
    assert (swtpm.starts, swtpm.is_running()) == (2, True)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(runtime / "tpm.sock"))


def test_nobody_else_can_reach_it(swtpm, swtpm_folder, runtime):
    for path in (runtime / "tpm.sock", runtime / "tpm.sock.ctrl"):
        assert path.stat().st_mode & 0o077 == 0
    for folder in (swtpm_folder, swtpm_folder / "state", swtpm_folder / "ca"):
        assert folder.stat().st_mode & 0o077 == 0


def test_after_a_crash_it_starts_again_with_the_same_keys(swtpm):
    from bus.tpm.esapi import EsapiTpm

    def primary_name():
        chip = EsapiTpm(swtpm.tcti)
        try:
            return chip.facts().primary_name
        finally:
            chip.close()

    before = primary_name()
    os.kill(swtpm.pid, signal.SIGKILL)
    until(lambda: not swtpm.is_running())
    swtpm.start()
    assert swtpm.starts == 2
    assert primary_name() == before


def test_it_dies_with_its_parent(holder):
    assert alive(holder.swtpm)
    holder.kill()
    until(lambda: not alive(holder.swtpm))


def test_one_that_a_killed_process_left_behind_is_stopped_and_replaced(swtpm_folder, runtime):
    """As where the kernel does not end it with its parent."""
    state, path = swtpm_folder / "state", runtime / "tpm.sock"
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={path}"]
    command += ["--ctrl", f"type=unixio,path={path}.ctrl", "--flags", "not-need-init,startup-clear"]
    leftover = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    ours = Swtpm(swtpm_folder, socket_path=path)
    try:
        until(lambda: Path(f"{path}.ctrl").exists() or leftover.poll() is not None)
        ours.start()
        assert ours.is_running()
        assert leftover.wait(10) == 0
    finally:
        ours.stop()
        leftover.kill()
        leftover.wait()


def test_it_starts_while_the_one_of_a_killed_process_is_still_ending(holder, swtpm_folder, runtime):
    """It holds the lock of the TPM's state a moment longer than its sockets."""
    ours = Swtpm(swtpm_folder, socket_path=runtime / "tpm.sock")
    try:
        holder.kill()
        ours.start()
        assert ours.is_running()
        until(lambda: not alive(holder.swtpm))
        assert ours.is_running()
    finally:
        ours.stop()


SLOW_STARTER = """#!{python}
import socket, sys, time
places = {{word.partition("path=")[2].partition(",")[0] for word in sys.argv if "path=" in word}}
control, = (place for place in places if place.endswith(".ctrl"))
data, = places - {{control}}
listening = []
for place in (control, data):
    listening.append(socket.socket(socket.AF_UNIX))
    listening[-1].bind(place)
    listening[-1].listen()
    time.sleep(0.3)
while True:
    asking, _ = listening[0].accept()
    asking.recv(16)
    asking.sendall(bytes(4))
"""


def test_it_has_started_when_both_of_its_sockets_answer(swtpm_folder, runtime, tmp_path, monkeypatch):
    """It listens on the control channel first; who came between found nobody on the other."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "swtpm"
    program.write_text(SLOW_STARTER.format(python=sys.executable))
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    ours = Swtpm(swtpm_folder, socket_path=runtime / "tpm.sock")
    ours.start()
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(runtime / "tpm.sock"))
    finally:
        ours.stop()


def test_one_that_does_not_start_says_why(swtpm, swtpm_folder, runtime):
    """Two cannot have one state."""
    second = Swtpm(swtpm_folder, socket_path=runtime / "second.sock")
    with pytest.raises(TpmUnavailableError) as caught:
        second.start()
    assert caught.value.code == "swtpm_start"
    assert not second.is_running()
    assert swtpm.is_running()


def test_one_whose_state_is_damaged_is_refused_when_it_is_opened(swtpm_folder, runtime):
    from bus.tpm.esapi import EsapiTpm

    (swtpm_folder / "state" / "tpm2-00.permall").write_bytes(b"no state of a TPM")
    damaged = Swtpm(swtpm_folder, socket_path=runtime / "tpm.sock")
    try:
        with pytest.raises(TpmError):  # noqa: PT012  which of both finds out depends on its version
            damaged.start()
            EsapiTpm(damaged.tcti)
    finally:
        damaged.stop()


def test_a_hung_one_is_stopped_too(swtpm):
    pid = swtpm.pid
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    swtpm.stop()
    assert not alive(pid)
    assert time.monotonic() - begun < 30


def test_a_path_that_no_socket_can_have_is_refused(tmp_path):
    longest = Path("/" + "x" * (MAX_SOCKET_PATH - 1))
    Swtpm(tmp_path, socket_path=longest)
    with pytest.raises(TpmUnavailableError) as caught:
        Swtpm(tmp_path, socket_path=Path(str(longest) + "x"))
    assert caught.value.code == "path_too_long"
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(FileNotFoundError):
        probe.connect(str(longest) + ".ctrl")  # the kernel agrees that it fits


def test_without_swtpm_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TpmUnavailableError) as caught:
        manufacture(tmp_path / "swtpm")
    assert caught.value.code == "no_swtpm"
    assert list(tmp_path.iterdir()) == []


# ---- how it is made ------------------------------------------------------------------------------------------------------------


def test_its_endorsement_certificates_come_from_the_folders_own_ca(swtpm, swtpm_folder, tmp_path):
    from tpm2_pytss import ESAPI, utils

    ca, kinds = swtpm_folder / "ca", {}
    with ESAPI(swtpm.tcti) as esys:
        for kind in ("EK-RSA2048", "EK-HIGH-ECC384"):
            kinds[kind], _ = utils.create_ek_template(kind, utils.NVReadEK(esys))
    for kind, certificate in kinds.items():
        (tmp_path / f"{kind}.der").write_bytes(certificate)
        subprocess.run(
            ["openssl", "x509", "-inform", "der", "-in", f"{kind}.der", "-out", f"{kind}.pem"], cwd=tmp_path, check=True, timeout=30
        )
        done = subprocess.run(
            ["openssl", "verify", "-x509_strict", "-CAfile", str(ca / "swtpm-localca-rootca-cert.pem"),
             "-untrusted", str(ca / "issuercert.pem"), f"{kind}.pem"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        lenient = subprocess.run(
            ["openssl", "verify", "-ignore_critical", "-CAfile", str(ca / "swtpm-localca-rootca-cert.pem"),
             "-untrusted", str(ca / "issuercert.pem"), f"{kind}.pem"],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=30,
        )  # fmt: skip
        # An endorsement certificate of an empty subject has a critical alternative name, which OpenSSL does not look into.
        assert done.returncode == 0 or lenient.returncode == 0, done.stderr + lenient.stderr
        alone = subprocess.run(
            ["openssl", "verify", "-ignore_critical", f"{kind}.pem"], cwd=tmp_path, capture_output=True, check=False, timeout=30
        )
        assert alone.returncode != 0


def test_the_ca_of_one_folder_vouches_for_nobody_elses_tpm(made_swtpm, tmp_path):
    manufacture(tmp_path / "another")
    first, second = (folder / "ca" / "issuercert.pem" for folder in (made_swtpm, tmp_path / "another"))
    assert first.read_bytes() != second.read_bytes()


def test_manufacturing_again_changes_nothing(swtpm_folder):
    before = {path: path.read_bytes() for path in swtpm_folder.rglob("*") if path.is_file()}
    manufacture(swtpm_folder)
    assert {path: path.read_bytes() for path in swtpm_folder.rglob("*") if path.is_file()} == before


MAKE = "import sys; from pathlib import Path; from bus.tpm.swtpm import manufacture; manufacture(Path(sys.argv[1]))"


def test_processes_that_manufacture_at_once_get_one_tpm(tmp_path):
    folder = tmp_path / "swtpm"
    processes = [subprocess.Popen([sys.executable, "-c", MAKE, str(folder)]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.name != ".swtpm.making.lock"] == ["swtpm"]
    assert (folder / "state" / "tpm2-00.permall").stat().st_size > 0


def test_threads_that_manufacture_at_once_get_one_tpm(tmp_path):
    folder, failed = tmp_path / "swtpm", []

    def make():
        try:
            manufacture(folder)
        except Exception as error:  # noqa: BLE001  a thread's error would be lost
            failed.append(error)

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert not any(thread.is_alive() for thread in threads)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".swtpm.making.lock"] == ["swtpm"]
    assert (folder / "state" / "tpm2-00.permall").stat().st_size > 0


@pytest.mark.parametrize("seconds", [0.3, 0.7, 1.1])
def test_manufacturing_that_was_killed_leaves_nothing_half_made(tmp_path, seconds, runtime):
    folder = tmp_path / "swtpm"
    process = subprocess.Popen([sys.executable, "-c", MAKE, str(folder)], start_new_session=True)
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not folder.exists() or (folder / "state" / "tpm2-00.permall").exists()
    manufacture(folder)
    assert [path.name for path in tmp_path.iterdir() if path.name != ".swtpm.making.lock"] == ["swtpm"], (
        "what the killed one began lies there for ever"
    )
    ours = Swtpm(folder, socket_path=runtime / "tpm.sock")
    ours.start()
    ours.stop()


def test_a_tpm_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "swtpm").write_bytes(b"a file where the folder should be")
    with pytest.raises(TpmUnavailableError) as caught:
        manufacture(tmp_path / "swtpm")
    assert caught.value.code == "swtpm_setup"
    assert [path.name for path in tmp_path.iterdir() if path.name != ".swtpm.making.lock"] == ["swtpm"]
