"""What the README and the how-to guides say is run here, and their links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.bench.peers.running import names_of_others
from bus.cli.bench_peers import peers

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOT_HERE = ("TPMBUS_TPM=", "make ", ". .venv/")
"""Lines of shell that a test cannot run: with other TPMs than the one that is there, and what sets up the checkout itself."""


RUN_BY = {
    "README.md": "tests/test_docs.py",
    "docs/explanation/scale.md": "tests/docs/test_pages.py",
    "docs/explanation/the-model.md": "tests/model/test_model.py",
    "docs/how-to/another-machine.md": "tests/docs/test_pages.py",
    "docs/how-to/compare-with-other-buses.md": "tests/test_docs.py",
    "docs/how-to/embed-the-bus.md": "tests/docs/test_pages.py",
    "docs/how-to/look-after-keys.md": "tests/test_docs.py",
    "docs/how-to/measure.md": "tests/docs/test_pages.py",
    "docs/how-to/nats.md": "tests/backbone/test_nats_page.py",
    "docs/how-to/run-a-fleet.md": "tests/docs/test_pages.py",
    "docs/how-to/several-brokers.md": "tests/docs/test_pages.py",
    "docs/how-to/test-your-agents.md": "tests/testing/test_docs.py",
    "docs/how-to/write-a-policy.md": "tests/policy/test_docs.py",
    "docs/how-to/write-an-agent.md": "tests/docs/test_pages.py",
    "docs/reference/tpm-service.md": "tests/tpm/test_service_reference.py",
    "docs/reference/trust.md": "tests/test_docs.py",
    "docs/spec/02-encoding.md": "tests/second_reader/test_worked_examples.py",
    "docs/spec/03-envelope.md": "tests/second_reader/test_worked_examples.py",
    "docs/spec/05-epochs-and-grants.md": "tests/second_reader/test_worked_examples.py",
    "docs/spec/06-receiving.md": "tests/second_reader/test_worked_examples.py",
    "docs/spec/07-trust.md": "tests/second_reader/test_worked_examples.py",
    "docs/spec/08-link.md": "tests/second_reader/test_worked_examples.py",
    "docs/spec/handshake.md": "tests/protocol/test_handshake.py",
    "docs/tutorial/two-agents.md": "tests/docs/test_pages.py",
}
"""Pages with blocks of code, and the test that runs them."""
SHOWN = {"docs/how-to/several-brokers.md": {"mv", "nats-server", "pip", "rm", "tpmbus"}}
"""Lines of `sh` that no test runs, by how they begin: other machines. The end of the page does the same on one machine, and there a
test does it; what `tpmbus` is given here is parsed by `test_advice`."""
OF_THE_CHECKOUT = {".", "make", "scripts/bench-targets"}
NO_MAKE = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
"""As somebody types it, where `make test` did not start these tests."""


def test_every_block_of_code_is_run_by_a_test():
    """A page that gets its first block gets a line above; those who run it say themselves what they do not know."""
    with_blocks = {str(page.relative_to(ROOT)) for page in PAGES if re.search(r"^```[a-z]+\n", page.read_text(), re.MULTILINE)}
    assert with_blocks == {*RUN_BY, *SHOWN}
    for page, test in RUN_BY.items():
        known = (
            "docs/spec" if page.startswith("docs/spec/0") else Path(page).name
        )  # the parts of the specification are read together
        assert known in (ROOT / test).read_text(), f"{test} knows nothing of {page}"


@pytest.mark.parametrize("page", sorted({page for page, test in RUN_BY.items() if test == "tests/docs/test_pages.py"} | {*SHOWN}))
def test_lines_that_no_test_runs_are_of_the_kinds_that_none_can(page):
    lines = commands(ROOT / page, left_out=())
    assert {line.split()[0] for line in lines if not line.startswith("#")} - OF_THE_CHECKOUT == SHOWN.get(page, set())


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def commands(page: Path, *, left_out: tuple[str, ...] = NOT_HERE) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(page, "sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(left_out)]


def of_the_checkout(*begins: str) -> list[str]:
    """Lines of all pages, each once."""
    return sorted({line for page in PAGES for line in commands(page, left_out=()) if line.startswith(begins)})


@pytest.mark.parametrize("line", of_the_checkout("make ", "scripts/"))
def test_what_a_page_has_the_checkout_do_is_there_and_takes_these_arguments(line):
    """Up to there: it would measure for minutes, beside other buses, or install what is missing. Rows are only listed."""
    words = shlex.split(line)
    if words[0] == "make":
        planned = subprocess.run(
            ["make", "-n", *words[1:]], cwd=ROOT, env=NO_MAKE, capture_output=True, text=True, check=True
        ).stdout
        words = shlex.split(planned.splitlines()[-1])
    assert (ROOT / words[0]).exists()
    if words[0] == "scripts/bench-targets":
        done = subprocess.run([*words, "--list"], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
        assert done.returncode == 0, done.stderr
        assert "one-to-one" in done.stdout
    elif words[0] == "scripts/bench-peers":
        given = peers.make_context("peers", words[1:]).params
        assert names_of_others(given["only"].split(",") if given["only"] else [])


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial/two-agents.md"])
def test_a_shell_is_set_up_by_the_line_for_it(page, tmp_path):
    """In a folder with the environment of this interpreter, as `make run` makes one in a clone."""
    here = Path(sys.prefix).resolve()
    if not (here / "bin/activate").exists():
        pytest.skip("this interpreter is not in a virtual environment")
    (tmp_path / ".venv").symlink_to(here)
    [line] = [line for line in commands(ROOT / page, left_out=()) if line.startswith(". ")]
    script = f"{line} && command -v python && command -v tpmbus"
    done = subprocess.run(
        ["/bin/sh", "-c", script], cwd=tmp_path, env={"PATH": os.defpath}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{here}/bin/python", f"{here}/bin/tpmbus"]


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
