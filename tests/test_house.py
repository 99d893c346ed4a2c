"""The house around the code: what ships, what the README promises, what must not be in any file, and that the locks are whole."""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import bus
from bus import errors, shipped

ROOT = Path(__file__).parent.parent
WHEEL = os.environ.get("TPMBUS_TEST_WHEEL")


def tracked() -> list[Path]:
    """The files of this version, but for raw input of the fuzzers; without git (an unpacked archive), all that look like them."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    if listed.returncode == 0:
        names = [name for name in listed.stdout.split("\0") if name and not name.startswith("tests/fuzz/corpus/")]
        return [ROOT / name for name in names if (ROOT / name).is_file()]
    return [
        path
        for path in ROOT.rglob("*")
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
    ]


def texts() -> Iterator[tuple[str, str]]:
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content and "corpus" not in path.parts:
            yield path.relative_to(ROOT).as_posix(), content.decode(errors="replace")


# ---- what is tested, and what ships ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(WHEEL is None, reason="plain pytest tests the checkout; make test tests the wheel")
def test_the_installed_wheel_is_tested_and_not_the_checkout():
    place = Path(str(WHEEL)) / "bus"
    assert Path(bus.__file__) == place / "__init__.py"
    assert shipped.folder("policies") == place / "shipped_data" / "policies"
    code = "import bus; print(bus.__file__)"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=50, check=True)
    assert child.stdout.strip() == bus.__file__, "a child process of a test must not fall back to the checkout"


def test_agents_and_policies_ship_whole():
    for name in ("agents", "policies"):
        ours, theirs = (
            {path.relative_to(folder): path.read_bytes() for kind in ("*.yaml", "*.py") for path in folder.rglob(kind)}
            for folder in (ROOT / name, shipped.folder(name))
        )
        assert ours, f"no files in {name}/"
        assert theirs == ours


def test_the_package_says_that_it_is_typed():
    assert (Path(bus.__file__).parent / "py.typed").is_file()


def test_the_version_is_the_projects():
    assert bus.__version__ == project()["version"]


# ---- what somebody reads first ---------------------------------------------------------------------------------------------------


def commands_in(text: str) -> set[tuple[str, ...]]:
    """`make x` and `tpmbus x y` in code blocks and in inline code."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL) + re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)
    blocks += re.findall(r"(?:^(?:    |\t).*\n)+", text, flags=re.MULTILINE)
    found = re.findall(r"^\s*(?:\$ )?(make|tpmbus)((?: +[a-z][a-z-]*)*)", "\n".join(blocks), flags=re.MULTILINE)
    return {(program, *rest.split()) for program, rest in found}


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def test_the_readme_shows_commands_that_exist():
    import click

    from bus.cli.main import cli

    shown = commands_in((ROOT / "README.md").read_text())
    assert {("make", "run"), ("make", "test")} <= shown
    for program, *words in shown:
        if program == "make":
            assert set(words) <= targets()
            continue
        command: click.Command = cli
        for word in words:
            if not isinstance(command, click.Group):
                break  # an argument
            found = command.get_command(click.Context(command), word)
            assert found is not None, f"the README shows `tpmbus {' '.join(words)}`"
            command = found


def test_every_target_has_its_line_of_help():
    command = ["make", "--no-print-directory", "help"]  # this may itself run under make
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True).stdout
    assert {line.split()[1] for line in listed.splitlines()} == targets()


def test_the_changelog_tells_about_this_version():
    text = (ROOT / "CHANGELOG.md").read_text()
    parts = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert parts, "no entry"
    newest = parts[0]
    assert project()["version"] in newest.splitlines()[0] or "nreleased" in newest.splitlines()[0]
    assert re.search(r"^- \S", newest, flags=re.MULTILINE), "the entry is empty"


def test_every_document_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text()
    documents = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")} - {"README.md"}
    listed = {name for name in documents if f"({name})" in index or f"({name.split('/')[0]}/)" in index}
    assert sorted(documents - listed) == []


def test_decisions_have_a_number_of_their_own_and_say_what_they_cost():
    records = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    numbers = [int(path.name[:4]) for path in records]
    assert numbers == sorted(set(numbers))
    assert [path.name for path in records if not path.read_text().startswith(f"# {int(path.name[:4])}. ")] == []
    assert [path.name for path in records if "**Negative consequences.**" not in path.read_text()] == []


# ---- what no file may hold -------------------------------------------------------------------------------------------------------

NOWHERE = {
    "a package registry": "|".join(["pypi" + r"\.org", "pythonhosted" + r"\.org", "npmjs" + r"\.(com|org)", "crates" + r"\.io"]),
    "a path of one machine": r"(?<![\w./~$}-])/(root|work|home/(?!somebody)\w+|Users/\w+)/",
    "work left to do": r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b",
    "a private key": r"-----BEGIN (RSA |EC |OPENSSH )?PRIVATE KEY-----\n[A-Za-z0-9+/=]{40}",
    "a conflict left by a merge": "^(<<<<" + "<<<|>>>>" + ">>>) ",
}


@pytest.mark.parametrize("what", NOWHERE)
def test_no_file_holds(what):
    found = []
    for name, text in texts():
        matches = re.finditer(NOWHERE[what], text, flags=re.MULTILINE)
        found += [f"{name}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}" for match in matches]
    assert found == []


def test_every_file_ends_with_one_newline():
    assert [name for name, text in texts() if text and (not text.endswith("\n") or text.endswith("\n\n"))] == []


def test_scripts_can_be_run():
    for path in [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]:
        if path.suffix == "":
            assert os.access(path, os.X_OK), path.name
            assert path.read_text().splitlines()[0] == "#!/usr/bin/env bash"
            subprocess.run(["bash", "-n", str(path)], timeout=20, check=True)


# ---- the locks -------------------------------------------------------------------------------------------------------------------

LOCKS = ["requirements.lock", "scripts/build.lock", "scripts/installer.lock", "scripts/peers.lock"]
HEAVY = {"peers"}
"""Extras that are locked by themselves: nobody should have to fetch them to run the tests."""
HOW = "run `make lock`"


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: str) -> dict[str, tuple[Version, int, set[str]]]:
    """Name -> version, number of hashes, who wants it."""
    found: dict[str, tuple[Version, int, set[str]]] = {}
    name = ""
    for line in (ROOT / lock).read_text().splitlines():
        if pin := re.match(r"^([A-Za-z0-9._-]+)==([^ ;]+)", line):
            name = canonicalize_name(pin[1])
            assert name not in found, f"{lock}: {name} stands twice"
            found[name] = (Version(pin[2]), 0, set())
        elif "--hash=sha256:" in line:
            version, hashes, wanted_by = found[name]
            found[name] = (version, hashes + 1, wanted_by)
        elif via := re.match(r"^    #(?: via)? *(.*)$", line):
            found[name][2].update({via[1]} - {""})
    return found


def wanted() -> dict[str, list[Requirement]]:
    """What pyproject.toml asks for, by package: dependencies, extras and the development group."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = data["project"].get("optional-dependencies", {})
    lines = [*data["project"]["dependencies"], *data["dependency-groups"]["dev"]]
    lines += [line for name, extra in extras.items() if name not in HEAVY for line in extra]
    found: dict[str, list[Requirement]] = {}
    for line in lines:
        requirement = Requirement(line)
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def test_the_lock_holds_what_pyproject_asks_for():
    locked = pins("requirements.lock")
    for name, requirements in wanted().items():
        assert name in locked, f"{name} is not locked: {HOW}"
        for requirement in requirements:
            assert requirement.specifier.contains(locked[name][0], prereleases=True), f"{name} is locked elsewhere: {HOW}"


def test_the_lock_holds_nothing_that_nobody_asks_for_any_more():
    locked = pins("requirements.lock")
    ours = {name for name, (_, _, by) in locked.items() if any("pyproject.toml" in one for one in by)}
    assert ours == set(wanted()), HOW
    for name, (_, _, by) in locked.items():
        others = {canonicalize_name(one) for one in by if "pyproject.toml" not in one}
        assert by, f"{name} is wanted by nobody: {HOW}"
        assert others <= set(locked), f"{name} is wanted by what is not locked: {HOW}"


@pytest.mark.parametrize("lock", LOCKS)
def test_everything_is_pinned_by_its_hash_and_from_no_place(lock):
    locked = pins(lock)
    assert locked
    assert [name for name, (_, hashes, _) in locked.items() if not hashes] == []
    assert "://" not in (ROOT / lock).read_text()
    assert "index-url" not in (ROOT / lock).read_text()


def test_what_building_needs_is_pinned_to_what_runs_where_both_have_it():
    """A package that is compiled against one version and run with another is a long afternoon."""
    build, run = pins("scripts/build.lock"), pins("requirements.lock")
    assert {name: build[name][0] for name in build if name in run} == {name: run[name][0] for name in run if name in build}


def test_other_buses_are_locked_beside_what_runs_and_in_the_same_versions():
    locked, run = pins("scripts/peers.lock"), pins("requirements.lock")
    for line in project()["optional-dependencies"]["peers"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)][0]), f"{line} is not locked: {HOW}"
    assert {name: locked[name][0] for name in locked if name in run} == {name: run[name][0] for name in run if name in locked}


def test_the_installer_is_the_one_that_the_lock_script_names():
    (version, _, _) = pins("scripts/installer.lock")["uv"]
    assert f'installer="uv=={version}"' in (ROOT / "scripts" / "lock").read_text()


# ---- errors ----------------------------------------------------------------------------------------------------------------------

TREE = {
    "BusError": "Exception",
    "PolicyError": "BusError",
    "NotPermittedError": "BusError",
    "ProtocolError": "BusError",
    "LocalProtocolError": "ProtocolError",
    "RemoteProtocolError": "ProtocolError",
    "VerificationError": "BusError",
    "AttestationError": "VerificationError",
    "TpmError": "BusError",
    "TpmUnavailableError": "TpmError",
    "TpmRefusedError": "TpmError",
    "VaultError": "TpmRefusedError",
    "BackboneError": "BusError",
    "TransportError": "BusError",
    "ConnectError": "TransportError",
    "ConnectionLostError": "TransportError",
    "OverloadedError": "BusError",
    "SlowReaderError": "OverloadedError",
    "MessageTooLargeError": "BusError",
    "TrustStaleError": "VerificationError",
    "RequestError": "BusError",
    "NoRespondersError": "RequestError",
    "RequestTimeoutError": "RequestError",
    "RequestFailedError": "RequestError",
    "RevokedError": "BusError",
    "SessionReplacedError": "BusError",
    "Drop": "BusError",
    "StateInUseError": "BusError",
    "SessionEndedError": "BusError",
    "ClosedError": "BusError",
}
"""The tree of the house style, as far as it is built; a class that is not here has no place yet."""


def error_classes() -> dict[str, type[BaseException]]:
    found = inspect.getmembers(errors, inspect.isclass)
    return {name: value for name, value in found if issubclass(value, BaseException) and value.__module__ == "bus.errors"}


def test_the_error_tree_is_the_house_styles():
    assert {name: value.__mro__[1].__name__ for name, value in error_classes().items()} == TREE


def test_every_error_is_public():
    assert sorted(set(error_classes()) - set(bus.__all__)) == []


def test_every_error_says_what_it_means():
    assert [name for name, value in error_classes().items() if not value.__doc__] == []


def test_no_other_file_adds_to_the_tree():
    """A room may have an exception of its own that never leaves it; what leaves a room is in the tree."""
    kinds = "|".join(error_classes())
    package = Path(bus.__file__).parent
    found = []
    for path in package.rglob("*.py"):
        if path != package / "errors.py":
            classes = re.findall(rf"^class ([^_]\w*)\([^)]*\b(?:{kinds})\b", path.read_text(), flags=re.MULTILINE)
            found += [f"{path.relative_to(package)}: {name}" for name in classes]
    assert found == []


# ---- import ----------------------------------------------------------------------------------------------------------------------

PROBE = """
import sys, time
before = set(sys.modules)
begun = time.process_time()
import bus
took = time.process_time() - begun
import json
print(json.dumps({"ms": took * 1000, "modules": sorted(set(sys.modules) - before)}))
"""


def test_import_bus_is_quick_and_needs_no_other_package():
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=50, check=True)
    said = json.loads(done.stdout)
    print(f"import bus: {said['ms']:.0f} ms and {len(said['modules'])} modules (target: 150 ms on an idle machine)")
    foreign = {name.split(".")[0] for name in said["modules"]} - sys.stdlib_module_names - {"bus"}
    assert foreign == set()
    assert {name for name in said["modules"] if name.split(".")[0] == "bus"} == {"bus"}
    assert len(said["modules"]) < 150
    assert said["ms"] < 3_000


def test_every_public_name_can_be_had():
    for name in bus.__all__:
        assert getattr(bus, name) is not None
    assert set(bus.__all__) <= set(dir(bus))
    with pytest.raises(AttributeError):
        bus.no_such_name  # noqa: B018  to ask is the test


def test_every_module_imports_alone():
    """In one process for all: what is checked is that none of them fails, and none of them prints."""
    package = Path(bus.__file__).parent
    names = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        if "shipped_data" not in parts:
            names.append(".".join(parts).removesuffix(".__init__"))
    code = f"import importlib\nfor name in {names!r}: importlib.import_module(name)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_the_tpm_library_the_rest_works():
    """tpm2-pytss exists for Linux only, and must be built: where it is missing, only real TPMs are."""
    code = "import sys\nsys.modules['tpm2_pytss'] = None\nfrom bus.cli.main import main\nmain()"
    for arguments in (["--help"], ["policy", "lint"], ["rollout"]):
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
    importlib.import_module("bus.testing")
