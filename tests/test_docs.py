"""What the README and the how-to guides say is run here, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_HERE = ("TPMBUS_TPM=", "make ", ". .venv/")
"""Lines of shell that a test cannot run: with other TPMs than the one that is there, and what sets up the checkout itself."""


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(NOT_HERE)]


def test_every_link_in_the_documentation_leads_somewhere():
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if not target.startswith("https:") and not (page.parent / target).exists()
    ]
    assert broken == []


def test_the_python_of_the_readme_runs(fleet):
    [script] = blocks(ROOT / "README.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", script], env=fleet.environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "DIRECTOR tasks.build {'ref': 'main'} session\n"


@pytest.mark.parametrize("line", commands(ROOT / "README.md"))
def test_the_commands_of_the_readme_run(line, provisioned):
    done = in_shell(line, provisioned)
    assert done.returncode == 0, done.stderr


def test_the_commands_of_looking_after_keys_run_in_their_order(own_provisioned):
    lines = commands(ROOT / "docs/how-to/look-after-keys.md")
    assert len(lines) >= 7
    for line in lines:
        done = typed_at(line, own_provisioned, typed="y\n")
        assert done.returncode == 0, f"{line}: {done.stderr}"


def test_the_commands_of_the_trust_reference_run_in_their_order(fleet):
    lines = commands(ROOT / "docs/reference/trust.md")
    assert len(lines) >= 12
    for line in lines:
        done = typed_at(line, fleet)
        assert done.returncode == 0, f"{line}: {done.stderr}"


def typed_at(line: str, fleet, *, typed: str = "") -> subprocess.CompletedProcess[str]:
    """A command that needs no shell is forked from a process that knows its imports: many pages of them take half a second each."""
    words = shlex.split(line)
    if words[0] == "tpmbus" and not set(line) & set("|&;<>()$`*?"):
        return fleet.run(*words[1:], typed=typed)
    return in_shell(line, fleet, typed=typed)


def in_shell(line: str, fleet, *, typed: str = "") -> subprocess.CompletedProcess[str]:
    tpmbus = f"{shlex.quote(sys.executable)} -c 'from bus.cli.main import main; main()'"
    script = re.sub(r"^tpmbus\b", tpmbus, line)
    return subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=ROOT,
        env=fleet.environ,
        input=typed,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
