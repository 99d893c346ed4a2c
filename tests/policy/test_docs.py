"""The how-to for policy authors does what it says: its files are written, its commands run, their output compared.

A comment `file: PATH` before a block writes it there; `exit: N` before a block is the exit code of its last command; `...` in
output stands for anything.
"""

from __future__ import annotations

import doctest
import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from bus.cli.main import cli
from bus.policy.loader import lint

DOCS = Path(__file__).parents[2] / "docs"
HOW_TO = DOCS / "how-to/write-a-policy.md"
BLOCK = re.compile(r"(?:<!-- (?P<name>file|exit): (?P<value>\S+) -->\n)?```(?P<kind>\w+)\n(?P<text>.*?)```", re.DOTALL)


def test_every_step_of_the_how_to_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("TPM_ENABLED", "TPM_ENABLE_PERCENT", "TPM_SAMPLE_RATE", "TPMBUS_POLICY"):
        monkeypatch.delenv(name, raising=False)
    ran = 0
    for block in BLOCK.finditer(HOW_TO.read_text()):
        if block["kind"] == "yaml":
            path = tmp_path / block["value"]
            path.parent.mkdir(exist_ok=True)
            path.write_text(block["text"])
        else:
            assert block["kind"] == "console"
            ran += run_block(block["text"], int(block["value"] or 0) if block["name"] == "exit" else 0)
    assert ran >= 8


def run_block(text: str, exit_code: int) -> int:
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE)
    for number, (command, expected) in enumerate(commands, 1):
        program, *arguments = shlex.split(command)
        assert program == "tpmbus"
        result = CliRunner().invoke(cli, arguments)
        checker = doctest.OutputChecker()
        assert checker.check_output(expected, result.output, doctest.ELLIPSIS), f"$ {command}\n{result.output}"
        assert result.exit_code == (exit_code if number == len(commands) else 0), command
    return len(commands)


@pytest.mark.parametrize("page", ["how-to/write-a-policy.md", "reference/policy.md"])
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (DOCS / page).read_text())
    assert targets
    assert all((DOCS / page).parent.joinpath(target).exists() for target in targets)


def test_indented_examples_are_words_of_the_language():
    found = re.findall(
        r"(?:^ {4}\S.*\n)(?:^ {4}.*\n)*", re.sub(r"```.*?```", "", HOW_TO.read_text(), flags=re.DOTALL), re.MULTILINE
    )
    role = "version: 1\nroles:\n  x:\n    key: ecc256/sha256\n    "
    blocks = [re.sub(r"^ {4}", "", block, flags=re.MULTILINE) for block in found]
    words = [text for text in blocks if not text.startswith("tpmbus ")]  # commands are read by tests/test_advice.py
    assert len(words) == 2
    for text in words:
        whole = f"version: 1\n{text}" if text.startswith("rollout") else role + text
        assert lint({"p": whole}).problems == ()
