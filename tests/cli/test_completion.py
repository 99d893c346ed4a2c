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
from click.shell_completion import ShellComplete

from bus.cli.main import cli

COMMAND_FOLDER = str(Path(sys.executable).parent)
ENVIRONMENT = os.environ | {"PATH": f"{COMMAND_FOLDER}:{os.environ['PATH']}"}

pytestmark = pytest.mark.skipif(not (Path(COMMAND_FOLDER) / "tpmbus").exists(), reason="the command is not installed beside Python")
needs_bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


def complete(*words: str, **environ: str) -> list[str]:
    """What bash would offer for the last of these words."""
    script = f"""
        eval "$(tpmbus completion bash)"
        compopt() {{ :; }}
        COMP_WORDS=({shlex.join(words)})
        COMP_CWORD={len(words) - 1}
        _tpmbus_completion tpmbus
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, timeout=50, check=True, env=ENVIRONMENT | environ
    )
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


NAMES = {
    "sub tasks.> --as MON": ["MONITOR"],
    "sub tasks.> --as mon": ["MONITOR"],
    "pub tasks.build --as DIR": ["DIRECTOR"],
    "request questions.count --as DIR": ["DIRECTOR"],
    "agents DIRECTOR DIRE": [],
    "agents MONITOR DIR": ["DIRECTOR"],
    "subscriptions DIR": ["DIRECTOR"],
    "rollout DIR": ["DIRECTOR"],
    "provision DIR": ["DIRECTOR"],
    "policy explain DIR": ["DIRECTOR"],
    "keys show DIR": ["DIRECTOR"],
    "keys rotate DIR": ["DIRECTOR"],
    "keys export DIR": ["DIRECTOR"],
    "keys inbox DIR": ["DIRECTOR"],
    "host join DIR": ["DIRECTOR"],
    "consumers remove DIR": ["DIRECTOR"],
    "trust revoke DIR": ["DIRECTOR"],
    "trust enroll --token DIR": ["DIRECTOR"],
    "agents --state nowhere DIR": ["DIRECTOR"],
    "rollout --policy tutorial PA": ["PAINTER"],
    "rollout --policy no-such-policy DIR": [],
}


def offered(line: str) -> list[str]:
    """As a shell asks, in this process: what a line is offered for its last word."""
    *words, incomplete = shlex.split(line)
    return [item.value for item in ShellComplete(cli, {}, "tpmbus", "_TPMBUS_COMPLETE").get_completions(words, incomplete)]


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A state folder that is not there."""
    monkeypatch.setenv("TPMBUS_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("TPMBUS_POLICY", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "state"


@pytest.mark.parametrize("line", NAMES)
def test_agents_are_offered_wherever_a_command_takes_one(nowhere, line):
    assert offered(line) == NAMES[line]
    assert not nowhere.exists(), "a TAB makes nothing"


def test_who_has_papers_in_the_state_folder_is_offered_in_place_of_the_policy(nowhere):
    folder = nowhere / "trust" / "public" / "certificates"
    folder.mkdir(parents=True)
    (folder / "ROBOT.pem").touch()
    assert offered("agents R") == ["ROBOT"]
    assert offered("sub tasks.> --as R") == ["ROBOT"]
    assert "DIRECTOR" in offered("rollout --policy default D")
    folder.chmod(0)
    assert "--json" in offered("agents --j"), "what cannot be read keeps nothing from working"


@pytest.mark.parametrize(
    ("line", "topics"),
    [
        ("pub pla", ["plans.", "plans.review"]),
        ("sub tas", ["tasks."]),
        ("request --as DIRECTOR ques", ["questions."]),
        ("pub --as DIRECTOR telemetry.d", []),
        ("pub --as NOBODY tas", []),
    ],
    ids=["publish", "hear", "ask", "not-permitted", "nobody"],
)
def test_topics_are_offered_up_to_their_first_wildcard(nowhere, line, topics):
    assert offered(line) == topics


def test_names_are_offered_quickly(nowhere):
    """Beside its imports a TAB costs a listing of a folder: no key, no socket, no policy is opened."""
    folder = nowhere / "trust" / "public" / "certificates"
    folder.mkdir(parents=True)
    for number in range(1_000):
        (folder / f"AGENT{number}.pem").touch()
    offered("agents A")
    began = time.process_time()
    assert len(offered("agents A")) == 1_000
    assert time.process_time() - began < 0.15


@needs_bash
def test_bash_is_offered_agents(tmp_path):
    assert complete("tpmbus", "sub", "tasks.build", "--as", "MON", TPMBUS_STATE=str(tmp_path)) == ["MONITOR"]


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
            os.write(ours, b"explain DIRECT\t")
            assert "DIRECTOR " in read_until(ours, "DIRECTOR ")
            os.write(ours, b"\x15tpmbus pub annou\t'X")
            assert "announcements.'X" in read_until(ours, "'X"), "a topic is gone on with, so no blank comes after it"
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
