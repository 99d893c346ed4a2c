"""`scripts/setup` on machines that lack something: it says what, in the words of that machine, and nothing is half-done.

Each test gives it a copy of the files that it reads, in a folder with a space in its name, and a `PATH` with exactly the programs
that the machine has. The package managers are the machine's, so they are played by scripts of three lines.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = ["awk", "cat", "grep", "head", "sed", "sha256sum", "sort", "tail", "tr"]
FILES = ["chmod", "cp", "dirname", "ln", "mktemp", "mv", "readlink", "rm", "touch"]
SYSTEM = ["bash", "dpkg-query", "env", "flock", "id", "uname"]
NEEDED = ["swtpm", "swtpm_setup", "gcc", "pkg-config", "python3"]

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the machines here are Linux")


class Machine:
    def __init__(self, folder: Path) -> None:
        self.checkout, self.programs, self.log = folder / "a checkout", folder / "bin", folder / "log"
        (self.checkout / "scripts").mkdir(parents=True)
        self.system = folder / "sbin"  # of servers, and on nobody's PATH
        self.programs.mkdir()
        self.system.mkdir()
        for name in ("scripts/setup", "scripts/build.lock", "scripts/installer.lock", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in TEXT + FILES + SYSTEM:
            if found := shutil.which(name):
                (self.programs / name).symlink_to(found)
        for name in NEEDED:
            self.play(name, "exit 0")
        # A Python that is new enough and whole, and then makes nothing: whoever gets as far as that has passed.
        self.play_python("python3")

    def play_python(self, name: str, *cases: str, version: str = "3.11") -> None:
        """What it is asked that none of the cases is for is well."""
        answers = ('*version_info*) echo "$0"', f"*--version*) echo Python {version}", '*"-m venv"*) exit 7', "*) exit 0")
        self.play(name, f'case "$*" in {" ;; ".join((*cases, *answers))} ;; esac')

    def play(self, name: str, script: str) -> None:
        program = self.programs / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)

    def lacks(self, *names: str) -> None:
        for name in names:
            (self.programs / name).unlink()

    def set_up(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.checkout / "scripts/setup"), *arguments],
            env={
                "PATH": str(self.programs),
                "SBIN": str(self.system),
                "SYSTEM_PYTHON": str(self.programs / "system-python3"),
                "HOME": str(self.checkout),
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_that_has_everything_comes_to_making_the_environment(machine):
    done = machine.set_up()
    assert done.returncode == 2
    assert "could not make a virtual environment" in done.stderr
    assert "missing" not in done.stderr


APT = f"""echo "apt-get $*" >> "$LOG"
case "$*" in *install*) for name in $GIVES; do ln -s {shutil.which("true")} "$BIN/$name"; done ;; esac"""


def test_root_gets_what_is_missing_and_nothing_else(machine):
    machine.lacks("swtpm", "gcc")
    machine.play("apt-get", APT)
    machine.play("id", "echo 0")
    done = machine.set_up(LOG=str(machine.log), BIN=str(machine.programs), GIVES="swtpm gcc")
    update, install = machine.log.read_text().splitlines()
    assert update.endswith(" update")
    assert install.endswith(" install --no-install-recommends gcc libc6-dev swtpm")
    assert "could not make a virtual environment" in done.stderr, "it should have gone on"


def test_somebody_with_sudo_gets_it_through_sudo(machine):
    machine.lacks("swtpm")
    machine.play("apt-get", APT)
    machine.play("sudo", 'echo sudo >> "$LOG"; [ "$1" != -n ] || shift; exec "$@"')
    machine.play("id", "echo 1000")
    machine.play("true", "exit 0")
    machine.set_up(LOG=str(machine.log), BIN=str(machine.programs), GIVES="swtpm")
    assert machine.log.read_text().splitlines()[1:] == [
        "sudo",
        "apt-get --yes -o DPkg::Lock::Timeout=120 update",
        "sudo",
        "apt-get --yes -o DPkg::Lock::Timeout=120 install --no-install-recommends swtpm",
    ]


@pytest.mark.parametrize(
    ("sudo", "line"),
    [
        ("exit 1", "sudo apt-get update && sudo apt-get install --yes --no-install-recommends swtpm swtpm-tools"),
        (None, "su -c 'apt-get update && apt-get install --yes --no-install-recommends swtpm swtpm-tools'"),
    ],
    ids=["sudo would ask, and nobody is there", "no sudo"],
)
def test_somebody_who_may_not_gets_the_line_to_type(machine, sudo, line):
    machine.lacks("swtpm", "swtpm_setup")
    machine.play("apt-get", 'echo "apt-get $*" >> "$LOG"')
    machine.play("id", "echo 1000")
    if sudo:
        machine.play("sudo", sudo)
    done = machine.set_up(LOG=str(machine.log))
    assert done.returncode == 2
    assert [text.strip() for text in done.stderr.splitlines()][-1] == line
    assert not machine.log.exists()
    assert not (machine.checkout / ".venv").exists()


def test_what_is_still_missing_after_an_installation_is_named(machine):
    machine.lacks("gcc")
    machine.play("apt-get", APT)
    machine.play("id", "echo 0")
    done = machine.set_up(LOG=str(machine.log), BIN=str(machine.programs), GIVES="")
    assert done.returncode == 2
    assert "still missing after the installation: compiler" in done.stderr


def test_an_apt_get_that_fails_is_quoted(machine):
    machine.lacks("gcc")
    machine.play("apt-get", 'echo "E: no such package"; exit 100')
    machine.play("id", "echo 0")
    done = machine.set_up()
    assert done.returncode == 2
    assert "E: no such package" in done.stderr


@pytest.mark.parametrize(
    ("manager", "line"),
    [
        ("dnf", "sudo dnf install gcc swtpm-tools"),
        ("pacman", "sudo pacman -S --needed gcc swtpm"),
    ],
)
def test_other_systems_are_told_their_packages(machine, manager, line):
    machine.lacks("gcc", "swtpm_setup")
    machine.play(manager, "exit 1")
    done = machine.set_up()
    assert done.returncode == 2
    assert line in done.stderr
    assert "apt-get install" not in done.stderr


def test_a_mac_is_told_that_the_software_keystore_remains(machine):
    machine.lacks("swtpm", "swtpm_setup", "gcc", "pkg-config")
    machine.play("uname", "echo Darwin")
    machine.play("brew", "exit 1")
    done = machine.set_up()
    assert "brew install swtpm\n" in done.stderr
    assert "software keystore" in done.stderr
    assert "could not make a virtual environment" in done.stderr, "swtpm is not essential there: it should have gone on"


def test_tests_need_more_than_running(machine):
    (machine.programs / "dpkg-query").unlink(missing_ok=True)  # it would tell of the real machine
    machine.play("apt-get", 'echo "apt-get $*" >> "$LOG"')
    machine.play("id", "echo 1000")
    assert "could not make a virtual environment" in machine.set_up(LOG="").stderr
    line = machine.set_up("test", LOG="").stderr.splitlines()[-1]
    assert line.split("--no-install-recommends ")[1] == "nats-server openssh-client openssl strace tpm2-openssl tpm2-tools'"


def test_a_server_that_is_not_on_the_path_is_found_where_the_system_keeps_it(machine):
    (machine.programs / "dpkg-query").unlink(missing_ok=True)
    machine.play("apt-get", "exit 1")
    machine.play("id", "echo 1000")
    (machine.system / "nats-server").write_text("#!/bin/bash\n")
    (machine.system / "nats-server").chmod(0o755)
    line = machine.set_up("test").stderr.splitlines()[-1]
    assert line.split("--no-install-recommends ")[1] == "openssh-client openssl strace tpm2-openssl tpm2-tools'"


@pytest.mark.parametrize("fails", ["pip", "uv"])
def test_a_download_that_fails_names_what_a_proxy_with_its_own_certificate_takes(machine, fails):
    """Pip believes what PIP_CERT names, and uv what the system does when it is told to."""
    made = 'mkdir -p .venv/bin; cp "$0" .venv/bin/python3; printf "#!/bin/bash\\nexit 1\\n" > .venv/bin/uv; chmod +x .venv/bin/uv'
    pip = "exit 1" if fails == "pip" else "exit 0"
    machine.play("mkdir", f'exec {shutil.which("mkdir")} "$@"')
    runs = (f'*"-m venv"*) {made}', f'*"-m pip"*) {pip}')
    machine.play_python("python3", *runs)
    done = machine.set_up()
    assert done.returncode == 2
    assert "UV_SYSTEM_CERTS=1" in done.stderr
    assert ("PIP_CERT=" in done.stderr) is (fails == "pip")


def test_the_pinned_uv_knows_the_variable_that_is_named():
    helped = subprocess.run(
        [shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv", "pip", "sync", "--help"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert "UV_SYSTEM_CERTS" in helped.stdout


def test_a_python_that_is_too_old_is_passed_over(machine):
    machine.play("python3.12", (machine.programs / "python3").read_text())
    machine.play("python3", "exit 1")
    done = machine.set_up()
    assert "making .venv with Python 3.11" in done.stderr
    machine.lacks("python3.12")
    done = machine.set_up()
    assert done.returncode == 2
    assert "python" in done.stderr


NOT_OPTIMIZED = "*CONFIG_ARGS*) exit 1"


def test_a_python_that_was_compiled_without_optimization_gives_way_to_the_systems(machine):
    machine.play_python("python3", NOT_OPTIMIZED)
    machine.play_python("system-python3", version="3.12")
    done = machine.set_up()
    assert f"taking {machine.programs}/system-python3: {machine.programs}/python3 was compiled" in done.stderr
    assert "making .venv with Python 3.12" in done.stderr


@pytest.mark.parametrize(
    ("pythons", "asked"),
    [
        ({"python3": (NOT_OPTIMIZED,)}, {}),
        ({"python3": (NOT_OPTIMIZED,), "system-python3": ("*version_info*) exit 1",)}, {}),
        ({"python3": (NOT_OPTIMIZED,), "system-python3": ("*ensurepip*) exit 1",)}, {}),
        ({"python3": (NOT_OPTIMIZED,), "system-python3": ("*Python.h*) exit 1",)}, {}),
        ({"python3": (NOT_OPTIMIZED,), "system-python3": ()}, {"PYTHON": "python3"}),
        ({"python3": (), "system-python3": ()}, {}),
    ],
    ids=["none there", "too old", "without venv", "without headers", "it was asked for", "it is optimized"],
)
def test_else_the_python_at_hand_is_taken(machine, pythons, asked):
    for name, cases in pythons.items():
        machine.play_python(name, *cases, version="3.12" if name == "system-python3" else "3.11")
    done = machine.set_up(**asked)
    assert "taking" not in done.stderr
    assert "making .venv with Python 3.11" in done.stderr


@pytest.mark.skipif("TPMBUS_TEST_WHEEL" not in os.environ, reason="only make test has just set up everything")
def test_a_second_time_is_silent_and_quick():
    before = os.times()
    done = subprocess.run(
        [str(ROOT / "scripts/setup"), "test"], capture_output=True, text=True, timeout=500, check=True, env=os.environ
    )
    after = os.times()  # of the processor: the machine may be busy
    took = after.children_user - before.children_user + after.children_system - before.children_system
    print(f"scripts/setup with nothing to do: {took * 1000:.0f} ms (target: 3 s)")
    assert (done.stdout, done.stderr) == ("", "")
    assert took < 3
