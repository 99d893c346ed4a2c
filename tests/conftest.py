"""What every test has: both event loops, a guard against blocking them, reproducible random input, and a software TPM.

made_swtpm      a folder with a software TPM, made once for the whole run; never start it, copy it
swtpm_folder    this test's copy
swtpm           it runs, until the test ends
runtime         a folder with a short path, for sockets
tpmbus          the command line, in a process of its own
bare_fleet      a state folder, the command line in it, and its TPM service, which ends with the test
fleet           one whose software TPM was made before
home            a bare one for all tests of a file
provisioned     one whose 76 agents have their keys; shared, only to look at
own_provisioned the same, to change
"""

from __future__ import annotations

import fcntl
import gc
import importlib
import json
import os
import pkgutil
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import count, islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

sys.path.insert(0, str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parent / "trust"))  # ready_rsa.py

from forked_command import ForkedCommands

REPOSITORY = Path(__file__).parent.parent
SHORT = tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp"
"""Where a folder may have sockets in it, whose paths end at 108 bytes. `scripts/test` points it at memory."""

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # so it is in the background of a script, and children inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

# ---- coverage, in the processes that run tests (scripts/test asks for it) -------------------------------------------------------

MEASURED = {REPOSITORY / "tests" / room for room in ("protocol", "policy", "flow", "trust")}
MEASURED_FILES = set((REPOSITORY / "tests" / "identity").glob("test_attacks_on_*.py"))
MEASURED_FILES |= {REPOSITORY / "tests" / "identity" / name for name in ("test_receive.py", "test_seal.py")}
NOT_MEASURED = {"test_hostile.py", "test_diff_bounds.py"}  # what is done in bounded time would be done in twice the time
"""Nor what hypothesis draws for: it would take three times as long, and what it reaches, tests with names must reach too."""

_coverage: Any = None
if "TPMBUS_TEST_COVERAGE" in os.environ and "PYTEST_XDIST_WORKER" in os.environ:
    import coverage

    _coverage = coverage.Coverage(config_file=str(REPOSITORY / os.environ.pop("TPMBUS_TEST_COVERAGE")))
    _coverage.start()
    for room in _coverage.get_option("run:source_pkgs"):  # here, so that thousands of tests are collected without it
        for _, module, _ in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
            importlib.import_module(module)
    _coverage.stop()


gc.disable()  # while thousands of tests are made, none of which is garbage


def pytest_collection_finish() -> None:
    gc.enable()
    gc.freeze()  # or each collection looks at all of them


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Only the tests of a pure room are slowed down, and only they count."""
    measured = (item.path.parent in MEASURED or item.path in MEASURED_FILES) and item.path.name not in NOT_MEASURED
    if _coverage is None or not measured or item.get_closest_marker("hypothesis"):
        return (yield)
    _coverage.start()
    try:
        return (yield)
    finally:
        _coverage.stop()


def pytest_sessionfinish() -> None:
    if _coverage is not None:
        _coverage.save()


# ---- programs ------------------------------------------------------------------------------------------------------------------

os.environ["PATH"] += f"{os.pathsep}/usr/local/sbin{os.pathsep}/usr/sbin{os.pathsep}/sbin"
"""Debian keeps nats-server there, off a plain user's PATH; `scripts/setup` and bus/bench/programs.py look there too."""

# ---- which, and in which order -------------------------------------------------------------------------------------------------

STARTS_PROCESSES = {"made_swtpm", "swtpms", "home", "nothing"}
"""Fixtures: what has one of them works with a software TPM, or with a whole hub and its TPM service."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "processes: starts processes, or a whole hub; runs on asyncio, and one of each file on trio")
    config.addinivalue_line("markers", "both_loops: of those, runs on trio whichever it is in its file")


@pytest.hookimpl(tryfirst=True)  # `-m processes` is judged after it
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if STARTS_PROCESSES & {*getattr(item, "fixturenames", ())}:
            item.add_marker("processes")
    if "TPMBUS_SOAK" not in os.environ and not any("::" in argument for argument in config.args):
        on_one_loop(config, items)
    dealt_out(items)


def on_one_loop(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What starts processes or a whole hub waits for others most of its time: of each file the first such test runs on trio too.

    Of what is to be seen on one loop and not on the other (who is cancelled, who waits for whom) each room has tests of its own,
    in memory and on both; `both_loops` marks the few that need the real thing for that. `make soak` runs all of them on both, and
    whoever asks for a test by its name gets it.
    """
    first: dict[Path, str] = {}
    left_out = []
    for item in items:
        if item.get_closest_marker("processes") and not item.get_closest_marker("both_loops") and runs_on_trio(item):
            name = item.name.split("[")[0]
            if first.setdefault(item.path, name) != name:
                left_out.append(item)
    config.hook.pytest_deselected(items=left_out)
    gone = {*map(id, left_out)}
    items[:] = [item for item in items if id(item) not in gone]


def runs_on_trio(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    return call is not None and call.params.get("anyio_backend") == "trio"


def dealt_out(items: list[pytest.Item]) -> None:
    """Files that take long come first, dealt out to the processes, each of which begins with an equal share of the list.

    What is left at the end is then short, and no process works on alone. A file stays together: it may have a fleet of its own.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    long = [
        path for path, those in files.items() if any(item.get_closest_marker(name) for item in those for name in ("slow", "soak"))
    ]
    others = iter([item for path, those in files.items() if path not in long for item in those])
    dealt: list[pytest.Item] = []
    for number in range(processes):
        mine = [item for path in long[number::processes] for item in files[path]]
        share = (len(items) - len(dealt)) // (processes - number)
        dealt += mine + list(islice(others, max(share - len(mine), 0)))
    items[:] = dealt + list(others)


# ---- random input --------------------------------------------------------------------------------------------------------------

# Nothing here depends on how long it takes to draw: the machine may be busy.
settings.register_profile("here", deadline=None, print_blob=True, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
# There the change is judged, not the dice; here and in `make soak` new input is tried each time, and what fails is printed.
settings.register_profile("ci", parent=settings.get_profile("here"), derandomize=True)
settings.register_profile("soak", parent=settings.get_profile("here"), max_examples=2_000, suppress_health_check=list(HealthCheck))
settings.load_profile("soak" if "TPMBUS_SOAK" in os.environ else "ci" if "CI" in os.environ else "here")

# ---- event loops ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Every test marked `anyio` runs on both."""
    backend: str = request.param
    return backend


@pytest.fixture(scope="session", autouse=True)
def no_blocking() -> Iterator[None]:
    """What blocks a running event loop from inside `bus` raises BlockingError. It sees asyncio only. Test code may block."""
    from blockbuster import blockbuster_ctx

    with blockbuster_ctx("bus"):
        yield


@pytest.fixture(scope="session", autouse=True)
def ready_roots() -> Iterator[None]:
    """The RSA key of a root is of primes that were found before, and another one each time: to find some takes half a second.

    What tests start as an interpreter of its own finds its own, and so do the commands of the README.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa
    from ready_rsa import roots_of_many

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rsa, "generate_private_key", roots_of_many(count(1, 2).__next__))
        yield


# ---- software TPMs -------------------------------------------------------------------------------------------------------------


@contextmanager
def made_once(tmp_path_factory: pytest.TempPathFactory, name: str) -> Iterator[Path]:
    """A place that all processes of this run share, for what the first of them makes, while the others wait for it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield shared / name


@pytest.fixture(scope="session")
def made_swtpm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """It takes two seconds."""
    from bus.tpm.swtpm import manufacture

    with made_once(tmp_path_factory, "swtpm") as made:
        manufacture(made)
        return made


@pytest.fixture
def swtpm_folder(made_swtpm: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "swtpm"
    shutil.copytree(made_swtpm, folder)
    return folder


@pytest.fixture
def runtime() -> Iterator[Path]:
    """Not below `tmp_path`, whose path is long."""
    folder = Path(tempfile.mkdtemp(prefix="tpmbus-", dir=SHORT))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # what a process that has just been told to end takes away itself meanwhile


@pytest.fixture
def swtpm(swtpm_folder: Path, runtime: Path) -> Iterator[Any]:
    from bus.tpm.swtpm import Swtpm

    process = Swtpm(swtpm_folder, socket_path=runtime / "tpm.sock")
    process.start()
    yield process
    process.stop()


# ---- the command line ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tpmbus(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run it with arguments, and environment variables as keywords. Its state is in this test's folder, unless told otherwise."""

    def run(*arguments: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[str]:  # noqa: A002  as in subprocess
        return subprocess.run(
            [sys.executable, "-c", "from bus.cli.main import main; main()", *arguments],
            input=input,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=os.environ | {"TPMBUS_STATE": str(tmp_path / "state")} | environment,
        )

    return run


# ---- fleets --------------------------------------------------------------------------------------------------------------------


class Fleet:
    """A state folder with its own runtime folder, and the command line in it."""

    def __init__(self, folder: Path, commands: ForkedCommands) -> None:
        self.folder, self.commands = folder, commands
        self.first: dict[str, Any] = {}
        self.environ = os.environ | {"TPMBUS_STATE": str(folder / "state"), "XDG_RUNTIME_DIR": str(folder)}
        for name in ("TPMBUS_TPM", "TPMBUS_POLICY", "TPM_ENABLED", "TPM_ENABLE_PERCENT", "TPM_SAMPLE_RATE"):
            self.environ.pop(name, None)

    @property
    def state(self) -> Any:
        from bus.hub.state import open_state

        return open_state(self.folder / "state", environ=self.environ)

    def run(self, *arguments: str, typed: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return self.commands.run(arguments, typed=typed, environ=self.environ | environment)

    def json(self, *arguments: str, **environment: str) -> dict[str, Any]:
        done = self.run(*arguments, "--json", **environment)
        assert done.returncode == 0, done.stderr + done.stdout
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def stop(self) -> None:
        import anyio

        from bus.hub.tpm_process import stop_service

        anyio.run(stop_service, self.state)


@pytest.fixture(scope="session")
def forked_commands() -> Iterator[ForkedCommands]:
    commands = ForkedCommands()
    yield commands
    commands.close()


@contextmanager
def make_fleet(commands: ForkedCommands) -> Iterator[Fleet]:
    folder = Path(tempfile.mkdtemp(prefix="tpmbus-", dir=SHORT))
    fleet = Fleet(folder, commands)
    yield fleet
    fleet.stop()
    shutil.rmtree(folder)


@pytest.fixture
def bare_fleet(forked_commands: ForkedCommands) -> Iterator[Fleet]:
    """Nothing is there."""
    with make_fleet(forked_commands) as fleet:
        yield fleet


@pytest.fixture
def fleet(bare_fleet: Fleet, made_swtpm: Path) -> Fleet:
    """No key made yet; its software TPM was made before, which saves two seconds."""
    shutil.copytree(made_swtpm, bare_fleet.state.swtpm)
    return bare_fleet


@pytest.fixture(scope="module")
def home(forked_commands: ForkedCommands) -> Iterator[Fleet]:
    """The same for all tests of a file. Nothing is there when it begins."""
    with make_fleet(forked_commands) as fleet:
        yield fleet


@pytest.fixture(scope="session")
def made_provisioned(forked_commands: ForkedCommands, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state folder of the reference fleet, all keys made, and what making them said. Copy it."""
    with made_once(tmp_path_factory, "provisioned") as made:
        if not made.exists():
            with make_fleet(forked_commands) as fleet:
                first = fleet.json("provision")
                fleet.stop()
                (fleet.state.folder / "first.json").write_text(json.dumps(first))
                shutil.copytree(fleet.state.folder, made, symlinks=True, ignore=shutil.ignore_patterns("run"))
        return made


@contextmanager
def copied_fleet(commands: ForkedCommands, made: Path) -> Iterator[Fleet]:
    with make_fleet(commands) as fleet:
        shutil.copytree(made, fleet.state.folder, symlinks=True, dirs_exist_ok=True)
        fleet.first = json.loads((fleet.state.folder / "first.json").read_text())
        yield fleet


@pytest.fixture(scope="session")
def provisioned(forked_commands: ForkedCommands, made_provisioned: Path) -> Iterator[Fleet]:
    """The reference fleet, all keys made. Only look at it. `first` is what making them said."""
    with copied_fleet(forked_commands, made_provisioned) as fleet:
        yield fleet


@pytest.fixture
def own_provisioned(forked_commands: ForkedCommands, made_provisioned: Path) -> Iterator[Fleet]:
    """A copy of it, to change."""
    with copied_fleet(forked_commands, made_provisioned) as fleet:
        yield fleet
