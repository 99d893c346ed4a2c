"""`tpmbus` itself: what it lists, how it ends, how quickly it answers."""

from __future__ import annotations

import importlib
import json
import resource
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import click
import pytest

from bus import errors
from bus.cli.main import _COMMANDS, EXIT_CODES, cli
from bus.cli.output import exit_code


def test_help_lists_every_command_and_every_exit_code(tpmbus):
    done = tpmbus("--help")
    assert done.returncode == 0
    listed = {line.split()[0] for line in done.stdout.splitlines() if line.startswith("  ")}
    assert set(_COMMANDS) <= listed
    assert {str(code) for code in EXIT_CODES} <= listed


def test_version(tpmbus):
    assert tpmbus("--version").stdout == f"tpmbus, version {version('tpmbus')}\n"


@pytest.mark.parametrize("name", _COMMANDS)
def test_every_command_exists_and_explains_itself(name):
    module, attribute, text = _COMMANDS[name]
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert text.endswith(".")
    assert command.help


def every_command() -> list[tuple[str, click.Command]]:
    found = []
    ahead: list[tuple[str, click.Command]] = [(name, cli.get_command(click.Context(cli), name)) for name in _COMMANDS]
    while ahead:
        name, command = ahead.pop()
        found.append((name, command))
        if isinstance(command, click.Group):
            ahead += [(f"{name} {sub}", child) for sub, child in command.commands.items()]
    return found


NO_DOCUMENT = {
    "completion": "prints a script for a shell",
    "tpm serve": "answers on a socket, not on stdout",
}


def test_every_command_has_json():
    """One document on stdout, for programs; a command without it is here with its reason."""
    without = [
        name
        for name, command in every_command()
        if not isinstance(command, click.Group) and not any("--json" in parameter.opts for parameter in command.params)
    ]
    assert set(without) <= set(NO_DOCUMENT)


@pytest.mark.parametrize(("typed", "meant"), [("polcy", "policy"), ("provison", "provision"), ("key", "keys"), ("doctr", "doctor")])
def test_a_near_miss_is_suggested(tpmbus, typed, meant):
    done = tpmbus(typed)
    assert done.returncode == 2
    assert f"Did you mean {meant}?" in done.stderr
    assert done.stdout == ""


def test_a_far_miss_is_only_refused(tpmbus):
    done = tpmbus("fly")
    assert done.returncode == 2
    assert "No such command 'fly'" in done.stderr
    assert "Did you mean" not in done.stderr


@pytest.mark.parametrize("arguments", [["--frobnicate"], ["policy", "lint", "--frobnicate"], ["policy", "explain"]])
def test_wrong_usage_is_2_and_on_stderr(tpmbus, arguments):
    done = tpmbus(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("Usage: tpmbus")


def test_every_error_ends_with_a_documented_code():
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.BusError)]
    assert {exit_code(kind.__new__(kind)) for kind in kinds} <= set(EXIT_CODES)


STOPPED = """
import os, signal, sys, time, types
import click
from bus.cli import main

@click.command()
def wait():
    os.kill(os.getpid(), signal.{signal})
    time.sleep(60)

@click.command()
def ask():
    click.confirm("Really?", abort=True)

sys.modules["extra"] = types.SimpleNamespace(wait=wait, ask=ask)
main._COMMANDS |= {{"wait": ("extra", "wait", ""), "ask": ("extra", "ask", "")}}
main.main()
"""


def run(code: str, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:  # noqa: A002  as in subprocess
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], input=input, capture_output=True, text=True, timeout=50, check=False
    )


def test_ctrl_c_is_130():
    done = run(STOPPED.format(signal="SIGINT"), "wait")
    assert done.returncode == 130
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("answer", ["n\n", ""], ids=["no", "nobody there"])
def test_a_question_that_is_not_answered_with_yes_is_1(answer):
    done = run(STOPPED.format(signal="SIGINT"), "ask", input=answer)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_a_reader_that_leaves_early_is_no_traceback(tmp_path):
    command = [sys.executable, "-c", "from bus.cli.main import main; main()", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", ["--help", "--version", "policy lint", "policy lint --json", "doctor"])
def test_output_that_cannot_be_written_is_1_and_said_in_one_line(arguments, bare_fleet):
    """In its own folder, with keys in files: doctor would make a software TPM for whoever runs tests, and leave a service."""
    environ = bare_fleet.environ | {"TPMBUS_TPM": "software"}
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-c", "from bus.cli.main import main; main()", *arguments.split()]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=50, check=False, env=environ)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tpmbus: what this command says cannot be written")
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


CLOSED = """
import os, socket, sys
from bus.cli.main import open_what_is_closed

open_what_is_closed()
other = socket.socket()
print("nobody hears this", flush=True)
print("nor this", file=sys.stderr, flush=True)
with open(sys.argv[1], "w") as file:
    file.write(f"{other.fileno() > 2} {sys.stdin.read()!r} {sys.stdin.buffer.read()!r}")
"""


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
def test_what_a_shell_has_closed_is_nothing_and_no_socket(closed, tmp_path):
    shell = " ".join(f"{number}>&-" for number in closed)
    command = ["sh", "-c", f'exec "$@" {shell}', "sh", sys.executable, "-c", CLOSED, str(tmp_path / "found")]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, (tmp_path / "found").read_text()) == (0, "True '' b''")


def test_a_command_begins_with_that():
    program = [sys.executable, "-c", "from bus.cli.main import main; main()", "policy", "lint"]
    command = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *program]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def busy_children() -> float:
    """For how many seconds those that ended have worked, whatever else the machine does."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_imports_no_room():
    begun, used = time.perf_counter(), busy_children()
    code = (
        "import json, sys\nfrom bus.cli.main import cli\ntry: cli.main(['--help'])\nfinally: print(json.dumps(sorted(sys.modules)))"
    )
    done = run(code)
    print(f"tpmbus --help: {(time.perf_counter() - begun) * 1000:.0f} ms (target: 150 ms on an idle machine)")
    loaded = json.loads(done.stdout.splitlines()[-1])
    ours = {name for name in loaded if name.split(".")[0] == "bus"}
    assert ours == {"bus", "bus.errors", "bus.cli", "bus.cli.main", "bus.cli.output"}
    assert not {"anyio", "pydantic", "yaml", "rich", "cryptography", "tpm2_pytss"} & set(loaded)
    assert busy_children() - used < 3
