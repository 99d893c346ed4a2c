"""The tutorial and the how-to guides do what they say, from top to bottom; the references are those of the code."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import api_reference
import cli_reference
from pages import BLOCK, PORT, Reader, on_free_ports

import bus

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "tutorial/two-agents.md": ("bare_fleet", 6),
    "how-to/write-an-agent.md": ("fleet", 6),
    "how-to/run-a-fleet.md": ("own_provisioned", 8),
    "how-to/embed-the-bus.md": ("fleet", 2),
    "how-to/another-machine.md": ("fleet", 10),
    "how-to/several-brokers.md": ("fleet", 7),
    "how-to/measure.md": ("fleet", 5),
    "explanation/scale.md": ("fleet", 1),
}
"""Each with what is there when one begins to read it, and the least number of its commands and programs: a page that is not
understood must not pass. From nothing begin the tutorial, and the tests of `tpmbus run`."""


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name, request, tmp_path):
    there, least = PAGES[name]
    fleet = request.getfixturevalue(there)
    programs = Path(sys.executable).parent
    environ = fleet.environ | {"PATH": f"{programs}:{fleet.environ['PATH']}", "COLUMNS": "120", "TPMBUS_AGENT": ""}
    environ.pop("TPMBUS_AGENT")
    assert Reader(tmp_path, environ, fleet.commands).read(DOCS / name) >= least


@pytest.mark.parametrize(("name", "named"), [("how-to/several-brokers.md", "47422"), ("how-to/another-machine.md", "17443")])
def test_a_page_is_read_on_ports_of_its_own(name, named):
    text = (DOCS / name).read_text()
    others = [on_free_ports(text) for _ in range(2)]
    assert named in text
    assert all(named not in other for other in others)
    ports = [{*PORT.findall(other)} for other in others]
    assert len({*PORT.findall(text)}) == len(ports[0]) == len(ports[1]) == 1
    assert others[0].replace(*ports[0], named) == text, "nothing else is changed"


def test_no_page_has_a_block_that_nobody_runs():
    """Of these pages: `sh` is for the checkout and for other machines, see `tests/test_docs.py`."""
    kinds = {(name, block["kind"]) for name in PAGES for block in BLOCK.finditer((DOCS / name).read_text())}
    assert {kind for _, kind in kinds} <= {"python", "console", "text", "sh", "yaml"}


def test_the_reference_of_commands_is_current():
    """Make it again with `python tests/docs/cli_reference.py > docs/reference/cli.md`."""
    assert (DOCS / "reference/cli.md").read_text() == cli_reference.page()


def test_the_reference_of_the_api_is_current():
    """Make it again with `python tests/docs/api_reference.py > docs/reference/api.md`."""
    assert (DOCS / "reference/api.md").read_text() == api_reference.page()


def test_every_public_name_is_in_the_reference():
    page = api_reference.page()
    assert [name for name in bus.__all__ if f"bus.{name}" not in page] == []
