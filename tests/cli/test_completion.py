"""Completion, in the shell that is on every machine of ours; of the other two, that the script is theirs."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMMAND_FOLDER = str(Path(sys.executable).parent)
ENVIRONMENT = os.environ | {"PATH": f"{COMMAND_FOLDER}:{os.environ['PATH']}"}

pytestmark = pytest.mark.skipif(not (Path(COMMAND_FOLDER) / "tpmbus").exists(), reason="the command is not installed beside Python")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def complete(*words: str) -> list[str]:
    """What bash would offer for the last of these words."""
    script = f"""
        eval "$(tpmbus completion bash)"
        compopt() {{ :; }}
        COMP_WORDS=({shlex.join(words)})
        COMP_CWORD={len(words) - 1}
        _tpmbus_completion tpmbus
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=50, check=True, env=ENVIRONMENT)
    assert done.stderr == ""
    return sorted(done.stdout.split())


@needs_bash
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tpmbus", "pol"], ["policy"]),
        (["tpmbus", "p"], ["policy", "provision", "pub"]),
        (["tpmbus", "policy", "l"], ["lint"]),
        (["tpmbus", "policy", "explain", "DIRECTOR", "pub"], ["publish"]),
        (["tpmbus", "policy", "lint", "--js"], ["--json"]),
        (["tpmbus", "completion", "z"], ["zsh"]),
        (["tpmbus", "nonsense", "x"], []),
    ],
    ids=" ".join,
)
def test_bash_is_offered(words, offered):
    assert complete(*words) == offered


@needs_bash
def test_the_tab_key_in_a_real_terminal():
    """Typed, not called: an interactive bash on a terminal of its own writes the rest of the word."""
    ours, theirs = pty.openpty()
    command = ["bash", "--norc", "--noprofile", "-i"]
    environment = ENVIRONMENT | {"PS1": "$ ", "TERM": "dumb", "INPUTRC": "/dev/null", "HISTFILE": ""}
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True) as bash:
        os.close(theirs)
        try:
            os.write(ours, b'eval "$(tpmbus completion bash)"; echo re""ady\n')
            assert "ready" in read_until(ours, "\nready")
            os.write(ours, b"tpmbus pol\t")
            assert "tpmbus policy " in read_until(ours, "tpmbus policy ")
        finally:
            bash.kill()
            os.close(ours)


def read_until(terminal: int, text: str, *, seconds: float = 20) -> str:
    seen, deadline = "", time.monotonic() + seconds
    while text not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace").replace("\r", "")
    return seen


@pytest.mark.parametrize(
    ("shell", "line"), [("zsh", "compdef _tpmbus_completion tpmbus"), ("fish", "complete --no-files --command tpmbus")]
)
def test_the_other_shells_get_their_script(tpmbus, shell, line):
    done = tpmbus("completion", shell)
    assert done.returncode == 0
    assert line in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True, timeout=20)


def test_an_unknown_shell_is_wrong_usage(tpmbus):
    assert tpmbus("completion", "csh").returncode == 2
