"""Rooms and arrows: which part of the package may know which, and which packages of others. What is not in these tables fails.

The tables are the design (docs/explanation has the reasons); a new arrow is a decision, and this is the place where it shows.
Every import counts: late ones in functions, those for types alone, and names of modules in strings (`"bus.cli.main"`).
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bus"

# ---- the tables ----------------------------------------------------------------------------------------------------------------

FOR_EVERYONE = {"errors", "clock", "protocol"}

LIBRARY = {"agent", "backbone", "broker", "flow", "hub", "identity", "policy", "shipped", "tpm", "transport", "trust", "metrics"}

ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "shipped": set(),
    "protocol": set(),
    "flow": set(),
    "policy": set(),
    "metrics": set(),
    "trust": {"flow", "policy"},
    "transport": {"flow"},
    "tpm": {"policy", "transport"},
    "backbone": {"flow", "policy", "transport"},
    "identity": {"flow", "policy", "trust", "tpm"},
    "agent": {"flow", "policy", "trust", "transport", "identity"},
    "broker": {"flow", "policy", "trust", "transport", "identity", "backbone"},
    "hub": {"agent", "broker", "backbone", "transport", "tpm", "identity", "policy", "trust", "shipped", "metrics"},
    "fleet": {"hub", "agent", "policy", "metrics", "shipped"},
    "http": {"hub", "metrics", "trust"},
    "bench": {"hub", "agent", "tpm", "metrics", "fleet", "policy", "shipped"},
    "cli": LIBRARY | {"fleet", "http", "bench"},
    "testing": LIBRARY,
    "__init__": LIBRARY | {"fleet", "http"},  # names, imported on first use
}

ARROWS_OF_FILES: dict[str, set[str]] = {
    "policy/files.py": {"shipped"},  # a policy can be given by the name of a shipped one
}

PROGRAMS: dict[str, set[str]] = {
    "hub/tpm_process.py": {"bus.cli.main"},  # starts `tpmbus tpm serve` in a process of its own: a command line, not an import
}
"""Modules that a file may name in a string although it may not import them."""

PURE = {"protocol", "flow", "policy", "trust"}
PURE_FOLDERS = ("identity/envelopes/",)
"""Sealing and receiving: functions of bytes, one snapshot, the time and random bytes, in a room that also does things."""

SHELL_OF_A_PURE_ROOM = {"policy/files.py"}
"""The one file of a pure room that reads files, so that the rest need not."""

PACKAGES: dict[str, set[str]] = {
    "errors": set(),
    "clock": {"anyio"},
    "shipped": set(),
    "__init__": set(),
    "protocol": {"cryptography", "msgpack", "nacl"},
    "flow": set(),
    "policy": {"pydantic", "pydantic_core", "yaml"},
    "metrics": set(),
    "trust": {"cryptography"},
    "transport": {"anyio"},
    "tpm": {"anyio", "cryptography"},
    "backbone": {"anyio"},
    "identity": {"anyio", "cryptography"},
    "agent": {"anyio"},
    "broker": {"anyio"},
    "hub": {"anyio", "cryptography"},
    "fleet": {"anyio"},
    "http": {"anyio"},
    "bench": {"anyio"},
    "cli": {"anyio", "click", "rich"},
    "testing": {"anyio", "cryptography"},
}
"""Third-party packages of each room. What only one file may know stands in the next table."""

PACKAGES_OF_FILES: dict[str, set[str]] = {
    "identity/host/host_keys.py": {"nacl"},  # the host key signs as the protocol verifies: with libsodium
    "agent/bodies.py": {"msgpack"},  # what applications put into messages; the protocol's own bytes have their codec
    "tpm/esapi*.py": {"tpm2_pytss"},  # heavy, and not everywhere: nothing else may need it
    "agent/tracing.py": {"opentelemetry"},  # an extra: imported late, and only where the program has
    "agent/decoding.py": {"msgspec", "pydantic"},  # when a subscription names a class of theirs
    "agent/message.py": {"typing_extensions"},  # for type checkers alone: a body is Any where nothing else is said
    "backbone/nats/connection.py": {"nats"},  # an extra, imported late
    "backbone/nats/nkeys.py": {"nacl"},  # NATS's form of an Ed25519 key
    "backbone/nats/sealing.py": {"cryptography"},  # a link between gateways is sealed; nothing else there has secrets
    "bench/peers/nats.py": {"nats"},  # other buses, each imported late in the worker that measures it
    "bench/peers/zenoh.py": {"zenoh"},
    "bench/peers/pyzmq.py": {"zmq"},
    "bench/peers/slim.py": {"slim_bindings"},
    "bench/peers/agentmesh.py": {"amb_core"},
    "transport/soon.py": {"sniffio"},  # tells anyio which loop runs, in callbacks of programs that anyio did not start
    "fleet/live_table.py": {"rich"},  # what a person looks at; the rest of the room gives numbers
    "transport/trio_link.py": {"trio"},  # a task without a block to live in; where asyncio runs, nobody needs trio
    "testing/steps.py": {"trio"},  # an instrument that sees every step of every task
    "transport/apart.py": {"trio"},  # a task that no task group holds is what anyio has no word for
}

_TIME_AND_CHANCE = {"random", "secrets", "time", "uuid"}
_LOOPS_AND_THREADS = {"anyio", "asyncio", "concurrent", "contextvars", "multiprocessing", "queue", "sniffio", "threading", "trio"}
_FILES = {"fcntl", "glob", "io", "mmap", "shutil", "sqlite3", "tempfile"}
_NETWORK = {"http", "select", "selectors", "socket", "ssl", "urllib"}
_PROCESS = {"atexit", "getpass", "logging", "os", "platform", "signal", "subprocess", "sys", "warnings"}
WORLD = _TIME_AND_CHANCE | _LOOPS_AND_THREADS | _FILES | _NETWORK | _PROCESS
"""Modules that do things or know the time; a pure room gets what it needs as arguments."""

PURE_NAMES = {"pathlib": {"PurePath", "PurePosixPath"}, "datetime": {"timedelta", "UTC", "timezone", "datetime", "date"}}
"""Modules of which a pure room may have these names alone."""

IMPURE_CALLS = {"open", "print", "input", "breakpoint", "exec", "eval", "__import__"}
IMPURE_METHODS = {"now", "utcnow", "today"}

MAX_LINES = 400
LONG_FILES: dict[str, str] = {}
"""File -> why it may be longer."""

BINDERS = {"Agent", "Broker", "Hub", "Engine", "TpmEngine", "Keyring"}
MAX_BINDER_LINES = 250

EMPTY_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc"}

# ---- the checker ---------------------------------------------------------------------------------------------------------------


def room_of(name: str) -> str:
    """The room of a file (`tpm/esapi.py`) or of a dotted name (`bus.tpm.esapi`)."""
    parts = name.removesuffix(".py").split("/") if "/" in name or name.endswith(".py") else name.split(".")[1:]
    return parts[0] if parts else "__init__"


def imports(tree: ast.Module, file: str) -> Iterator[tuple[int, str]]:
    """Every module that the file names: (line, dotted name). `from x import y` is x.y, which serves for modules and names alike."""
    package = ["bus", *file.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            for alias in node.names:
                yield node.lineno, ".".join([*above, *([node.module] if node.module else []), alias.name])


def named(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Every string that is the dotted name of a module of ours."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"bus(\.[a-z_]\w*)+", node.value):
            yield node.lineno, node.value


def outside(name: str) -> bool:
    top = name.split(".", maxsplit=1)[0]
    return top != "bus" and top not in sys.stdlib_module_names


def arrow_faults(file: str, tree: ast.Module) -> Iterator[str]:
    room = room_of(file)
    if room not in ARROWS:
        yield f"{file}: the room {room!r} is not in the table"
        return
    packages = PACKAGES[room].union(*(more for pattern, more in PACKAGES_OF_FILES.items() if fnmatch(file, pattern)))
    rooms = {room, "__init__"} | FOR_EVERYONE | ARROWS[room] | ARROWS_OF_FILES.get(file, set())
    strings = [(line, name) for line, name in named(tree) if name not in PROGRAMS.get(file, set())]
    for line, name in [*imports(tree, file), *strings]:
        top = name.split(".")[0]
        if outside(name) and top not in packages:
            yield f"{file}:{line}: {room} may not use the package {top}"
        if top != "bus" or name == "bus":
            continue
        target = room_of(name)
        if target not in ARROWS and (PACKAGE / target).exists():
            yield f"{file}:{line}: the room {target!r} is not in the table"
        elif target in ARROWS and target not in rooms:
            yield f"{file}:{line}: {room} may not know {target}"


def purity_faults(file: str, tree: ast.Module) -> Iterator[str]:
    if (room_of(file) not in PURE and not file.startswith(PURE_FOLDERS)) or file in SHELL_OF_A_PURE_ROOM:
        return
    for line, name in imports(tree, file):
        top, _, rest = name.partition(".")
        if top in WORLD or (top in PURE_NAMES and rest not in PURE_NAMES[top]):
            yield f"{file}:{line}: a pure room may not use {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith):
            yield f"{file}:{node.lineno}: a pure room does not wait"
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
                yield f"{file}:{node.lineno}: a pure room does not call {node.func.id}()"
            if isinstance(node.func, ast.Attribute) and node.func.attr in IMPURE_METHODS:
                yield f"{file}:{node.lineno}: a pure room is told the time; it does not call {node.func.attr}()"


def docstrings(tree: ast.Module) -> set[int]:
    """The ids of all constants that stand alone as statements."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)}


def context_faults(file: str, tree: ast.Module) -> Iterator[str]:
    if file == "protocol/contexts.py":
        return
    prose = docstrings(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes) and id(node) not in prose:
            text = node.value if isinstance(node.value, bytes) else node.value.encode(errors="replace")
            if text.startswith(b"tpmbus/"):
                yield f"{file}:{node.lineno}: context strings stand in protocol/contexts.py alone"


def words(name: str) -> set[str]:
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)}


def size_and_name_faults(file: str, text: str, tree: ast.Module) -> Iterator[str]:
    lines = len(text.splitlines())
    if lines > MAX_LINES and file not in LONG_FILES:
        yield f"{file}: {lines} lines; a file is one idea, and at most {MAX_LINES}"
    for part in file.removesuffix(".py").split("/"):
        if words(part) & EMPTY_NAMES:
            yield f"{file}: {part!r} names no idea"
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            if words(node.name) & EMPTY_NAMES:
                yield f"{file}:{node.lineno}: {node.name!r} names no idea"
            if node.name in BINDERS and (length := (node.end_lineno or 0) - node.lineno + 1) > MAX_BINDER_LINES:
                yield f"{file}:{node.lineno}: {node.name} has {length} lines; what binds rooms together owns no algorithm"


def faults(package: Path) -> list[str]:
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        if file.startswith("shipped_data/"):
            continue
        text = path.read_text()
        tree = ast.parse(text)
        for check in (arrow_faults, purity_faults, context_faults):
            found.extend(check(file, tree))
        found.extend(size_and_name_faults(file, text, tree))
    return found


# ---- the house -----------------------------------------------------------------------------------------------------------------


def test_every_file_keeps_to_its_room():
    found = faults(PACKAGE)
    assert not found, "\n" + "\n".join(found)


def test_there_is_something_to_check():
    assert len(list(PACKAGE.rglob("*.py"))) > 20


def test_the_tables_know_the_same_rooms():
    assert set(ARROWS) == set(PACKAGES)
    assert set().union(*ARROWS.values()) <= set(ARROWS)
    assert [name for name in ARROWS if "testing" in ARROWS[name]] == []


def test_no_two_rooms_need_each_other():
    def reaches(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for room in ARROWS[ahead.pop()] - seen:
                seen.add(room)
                ahead.append(room)
        return seen

    assert [room for room in ARROWS if room in reaches(room)] == []


def test_only_files_that_exist_have_an_exception():
    assert [
        file for file in [*LONG_FILES, *SHELL_OF_A_PURE_ROOM, *ARROWS_OF_FILES, *PROGRAMS] if not (PACKAGE / file).is_file()
    ] == []


# ---- the checker can fail ------------------------------------------------------------------------------------------------------

GOOD = {
    "__init__.py": "from importlib import import_module\n_PLACES = {'BusError': 'bus.errors', 'open': 'bus.hub'}\n",
    "errors.py": "class BusError(Exception): ...\n",
    "protocol/a.py": "import msgpack\nfrom bus.errors import BusError\nfrom datetime import timedelta\n",
    "policy/__init__.py": "from bus.policy.model import Role\n",
    "policy/model.py": "import pydantic\nfrom bus.protocol import names\n",
    "policy/files.py": "import os\nfrom pathlib import Path\nopen('x')\n",
    "tpm/esapi.py": "def f():\n    import tpm2_pytss\n",
    "tpm/esapi_chip.py": "import tpm2_pytss\n",
    "tpm/engine.py": "import anyio\nfrom bus import errors\nfrom bus.policy import Role\nfrom .. import clock\n",
    "hub/open.py": "from bus.tpm.engine import TpmEngine\nfrom bus import shipped\n",
    "cli/x.py": "import click\nMODULE = 'bus.hub.open'\n",
    "testing/x.py": '"""tpmbus/1 in prose is no context string."""\nfrom bus.hub import open\n',
}

BAD = {
    "an unknown room": ("lobby/x.py", "", "lobby"),
    "an unknown file at the top": ("extra.py", "", "'extra' is not in the table"),
    "an arrow upwards": ("tpm/x.py", "from bus.hub import open", "tpm may not know hub"),
    "a late import": ("tpm/x.py", "def f():\n    import bus.hub.open", "tpm/x.py:2: tpm may not know hub"),
    "an import for types": ("policy/x.py", "if TYPE_CHECKING:\n    from bus.tpm import Key", "policy may not know tpm"),
    "an import in an exception handler": ("policy/x.py", "try: ...\nexcept E:\n    import bus.tpm", "policy may not know tpm"),
    "from the package itself": ("policy/x.py", "from bus import tpm", "policy may not know tpm"),
    "a relative import": ("policy/x.py", "from ..tpm import Key", "policy may not know tpm"),
    "a relative import of a room": ("policy/x.py", "from .. import tpm", "policy may not know tpm"),
    "a module named in a string": ("tpm/x.py", "import_module('bus.hub.open')", "tpm may not know hub"),
    "an arrow that one other file has": ("policy/x.py", "from bus import shipped", "policy may not know shipped"),
    "a program that one other file starts": ("hub/x.py", "run('-m', 'bus.cli.main')", "hub may not know cli"),
    "anyone knows testing": ("cli/x.py", "from bus.testing import FakeTpm", "cli may not know testing"),
    "agent knows broker": ("agent/x.py", "import bus.broker", "agent may not know broker"),
    "broker knows agent": ("broker/x.py", "import bus.agent", "broker may not know agent"),
    "errors know a room": ("errors.py", "from bus.policy import Role", "errors may not know policy"),
    "a package that nobody listed": ("hub/x.py", "import requests", "hub may not use the package requests"),
    "a package of another room": ("hub/x.py", "from yaml import load", "hub may not use the package yaml"),
    "the TPM library outside of its file": (
        "tpm/engine.py",
        "from tpm2_pytss.types import TPM2B",
        "tpm may not use the package tpm2_pytss",
    ),
    "the TPM library elsewhere, late": (
        "cli/doctor.py",
        "def f():\n    import tpm2_pytss",
        "cli may not use the package tpm2_pytss",
    ),
    "trio in general": ("hub/x.py", "import trio", "hub may not use the package trio"),
    "a clock in a pure room": ("protocol/x.py", "import time", "a pure room may not use time"),
    "randomness in a pure room": ("policy/x.py", "from os import urandom", "a pure room may not use os.urandom"),
    "an event loop in a pure room": ("flow/x.py", "import asyncio", "a pure room may not use asyncio"),
    "files in a pure room": ("policy/x.py", "from pathlib import Path", "a pure room may not use pathlib.Path"),
    "a whole module for its harmless part": ("policy/x.py", "import pathlib", "a pure room may not use pathlib"),
    "open in a pure room": ("trust/x.py", "open('x')", "does not call open()"),
    "now in a pure room": ("trust/x.py", "from datetime import datetime\ndatetime.now()", "does not call now()"),
    "waiting in a pure room": ("trust/x.py", "async def f(): ...", "does not wait"),
    "a context string in bytes": ("tpm/x.py", "X = b'tpmbus/1 leaf'", "context strings"),
    "a context string in text": ("tpm/x.py", "X = 'tpmbus/1 leaf'.encode()", "context strings"),
    "a context string of another version": ("tpm/x.py", "X = b'tpmbus/2 leaf'", "context strings"),
    "a long file": ("tpm/x.py", "\n" * 401, "401 lines"),
    "a fat binder": ("hub/x.py", "class Hub:\n" + "    x = 1\n" * 250, "Hub has 251 lines"),
    "a file that names no idea": ("tpm/key_utils.py", "", "'key_utils' names no idea"),
    "a room that names no idea": ("common/x.py", "", "'common' names no idea"),
    "a class that names no idea": ("tpm/x.py", "class KeyManager: ...", "'KeyManager' names no idea"),
    "a base class": ("tpm/x.py", "class BaseTpm: ...", "'BaseTpm' names no idea"),
}


def build(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def test_a_good_house_has_no_fault(tmp_path):
    assert faults(build(tmp_path, GOOD)) == []


@pytest.mark.parametrize("case", BAD)
def test_the_checker_sees(tmp_path, case):
    file, text, fault = BAD[case]
    found = faults(build(tmp_path, GOOD | {file: text}))
    assert any(fault in line for line in found), found


# ---- context strings -----------------------------------------------------------------------------------------------------------

PREFIX_ON_PURPOSE = {
    ("KEY", "KEY_AUTH"): "KEY is hashed before DER, which begins with 0x30; KEY_AUTH is the message of an HMAC with a secret key",
    ("ENROLL", "ENROLL_REQUEST"): "what follows ENROLL is an array of seven, which begins with 0x97",
    ("HELLO", "HELLO_BROKER"): "what follows HELLO is an array of three, which begins with 0x93",
    ("HELLO", "HELLO_AGENT"): "the same",
    ("HELLO", "HELLO_NEIGHBOUR"): "the same",
    ("SESSION", "SESSION_ID"): "a session id is a name that is only compared: nothing is signed or derived with it",
}
"""A context that another one begins with is safe only for a reason."""


def registry() -> dict[str, bytes]:
    from bus.protocol import contexts

    return {name: value for name, value in vars(contexts).items() if isinstance(value, bytes) and name != "PREFIX"}


def test_every_context_has_the_prefix_and_a_name():
    for name, value in registry().items():
        assert re.fullmatch(rb"tpmbus/1 [a-z0-9][a-z0-9 -]*[a-z0-9]", value), name


def test_no_context_stands_twice():
    assert len(set(registry().values())) == len(registry())


def test_no_context_begins_with_another_one_by_accident():
    found = registry()
    pairs = {(a, b) for a, one in found.items() for b, other in found.items() if a != b and other.startswith(one)}
    assert pairs == set(PREFIX_ON_PURPOSE)
