"""`tpmbus run` with the whole fleet: in one process and in several, its books, its table, and its ends."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bus import shipped

sys.path.insert(0, str(Path(__file__).parent))

from running_hub import COMMAND, SECONDS, Running

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def first(home):
    """The first run in this state folder: what it said, and how long it took."""
    began = time.monotonic()
    document = home.json("run", "--seconds", "1", "--rate", "100")
    return document | {"wall": time.monotonic() - began}


def books(document: dict) -> dict:
    found = document["books"]
    dropped, refused = sum(found["dropped"].values()), sum(found["refused"].values())
    assert found["published"] == found["delivered"] + dropped + refused + found["unaccounted"]
    assert found["unaccounted"] == 0
    return found


def test_the_first_run_makes_everything_and_its_books_add_up(first):
    document = first
    assert (document["agents"], document["processes"], document["lost"]) == (76, 1, {})
    assert books(document)["messages"] > 50
    assert document["tpm"]["signatures"] >= 76
    assert document["latency"]["count"] == document["books"]["delivered"]
    print(f"from nothing to the end of a run of one second: {document['wall']:.1f} s (target: first message within 30 s)")


def test_several_processes_are_one_fleet(home):
    document = home.json("run", "--seconds", "2", "--rate", "100", "--processes", "3")
    assert (document["agents"], document["processes"], document["lost"]) == (76, 4, {})
    assert books(document)["messages"] > 100
    assert document["broker"]["links_open"] == 3
    assert document["hosts"]["agents"] == 76, "each process tells of its own"
    assert {row["from"] for row in document["talk"]} >= {"operations", "command"}


@pytest.fixture
def begin(home):
    """Starts a command that goes on, and kills what is left of it."""
    begun: list[Running] = []

    def start(*arguments: str) -> Running:
        begun.append(Running(home, *arguments))
        return begun[-1]

    yield start
    for command in begun:
        command.end(signal.SIGKILL)


# ---- with a few agents, which is quicker -----------------------------------------------------------------------------------------


@pytest.fixture
def few(tmp_path):
    """A roster file, and the options that name it."""
    roster = tmp_path / "roster.yaml"
    agents = (
        "DIRECTOR: command, ARCHITECT: architecture, PAINTER: development, KEEPER: data, MONITOR: operations, ALERTER: operations"
    )
    roster.write_text(f"version: 1\nagents: {{{agents}}}\n")
    return "--fleet", str(roster)


def test_a_fleet_of_my_own_plays_its_part_of_the_traffic(home, few):
    document = home.json("run", *few, "--seconds", "1", "--rate", "100")
    assert document["agents"] == 6
    assert books(document)["messages"] > 20
    Path(few[1]).write_text("version: 1\nagents: {PAINTER: nobody}\n")
    assert home.run("run", *few, "--seconds", "1", "--json").returncode == 3


def test_another_traffic_and_none(home, few, tmp_path):
    mix = tmp_path / "mix.yaml"
    row = "{who: [command], topics: [tasks.load.a], share: 1000, bytes: [64B, 128B]}"
    mix.write_text(f"version: 1\nsends: [{row}]\nhears: [{{who: [MONITOR], topics: [tasks.load.a]}}]\n")
    document = home.json("run", *few, "--seconds", "1", "--rate", "50", "--mix", str(mix))
    assert books(document)["published"] == document["books"]["messages"] > 10
    assert "books" not in home.json("run", *few, "--seconds", "0.2", "--mix", "none")
    mix.write_text("version: 1\nsends: []\nhears: []\n")
    assert home.run("run", *few, "--seconds", "1", "--json", "--mix", str(mix)).returncode == 3


def test_ctrl_c_ends_all_processes_in_order(begin, few):
    fleet = begin("run", *few, "--rate", "100", "--processes", "2")
    fleet.until("6 agents listen")
    children = {int(pid) for pid in Path(f"/proc/{fleet.process.pid}/task/{fleet.process.pid}/children").read_text().split()}
    assert len(children) == 3, "two with agents, and the broker"
    assert fleet.end(signal.SIGINT) == 0, fleet.noted
    assert "0 unaccounted for" in fleet.said
    assert "Traceback" not in fleet.noted
    assert not any(Path(f"/proc/{pid}").exists() for pid in children)


def test_who_uses_an_agent_of_a_fleet_is_told_and_who_takes_it_over_does(home, begin, few):
    fleet = begin("run", *few, "--rate", "0")
    fleet.until("6 agents listen")
    assert home.run("pub", "telemetry.notice", "hi", "--as", "MONITOR").returncode == 4
    assert home.run("pub", "telemetry.notice", "hi", "--as", "MONITOR", "--take-over").returncode == 0
    assert fleet.end(signal.SIGTERM) == 0, fleet.noted
    assert "MONITOR ended before the others" in fleet.noted
    assert "Traceback" not in fleet.noted


def test_on_a_terminal_it_draws_a_table(home, few):
    ours, theirs = pty.openpty()
    environ = home.environ | {"TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
    with subprocess.Popen([*COMMAND, "run", *few, "--seconds", "2"], stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        shown = b""
        try:
            while more := os.read(ours, 65_536):
                shown += more
        except OSError:  # the end of a terminal
            pass
        os.close(ours)
        assert process.wait(SECONDS) == 0, shown.decode(errors="replace")
    text = shown.decode(errors="replace")
    for expected in (
        "6 agents in 1 process",
        "published",
        "contents a signature",
        "verified before",
        "who talks to whom",
        "operations",
    ):
        assert expected in text


@pytest.fixture
def on_a_terminal(home):
    """Starts a command on a terminal of its own; gives the command, our end of the terminal, and what it shows until a text."""
    begun: list[tuple[subprocess.Popen, int]] = []
    program = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from bus.cli.main import main; main()"

    def start(*arguments: str, rows: int = 24, columns: int = 80):
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environ = {name: value for name, value in home.environ.items() if name not in ("COLUMNS", "LINES")} | {"TERM": "xterm"}
        command = [sys.executable, "-c", program, *arguments]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True)
        os.close(theirs)
        begun.append((process, ours))
        return process, ours

    yield start
    for process, _ in begun:
        process.kill()
        process.wait(SECONDS)


def shown_until(ours: int, text: str) -> str:
    """What it writes until there is this text, or its end."""
    shown, deadline = b"", time.monotonic() + SECONDS
    while text.encode() not in shown and time.monotonic() < deadline:
        if select.select([ours], [], [], 1.0)[0]:
            try:
                more = os.read(ours, 65_536)
            except OSError:  # the end of a terminal
                break
            shown += more
    assert text.encode() in shown, shown.decode(errors="replace")
    return shown.decode(errors="replace")


def test_a_hub_whose_terminal_is_closed_ends_and_one_that_is_told_by_hand_reloads(home, on_a_terminal):
    process, ours = on_a_terminal("run", "--fleet", "none")
    shown_until(ours, "0 agents listen")
    process.send_signal(signal.SIGHUP)
    shown_until(ours, "what it said before")
    os.close(ours)
    assert process.wait(SECONDS) == 0
    assert home.run("status", "--json").returncode != 0, "no hub is left"


def test_a_fleet_says_that_it_ends_and_its_last_table_is_its_report(on_a_terminal, few):
    process, ours = on_a_terminal("run", *few, "--rate", "100")
    shown_until(ours, "who talks to whom")
    os.write(ours, b"\x03")
    said = shown_until(ours, "Ended after")
    assert "ending: " in said
    assert process.wait(SECONDS) == 0
    os.close(ours)
    lines = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).strip() for line in said.replace("\r", "\n").split("\n")]
    [published] = [line.split()[0] for line in lines if "published in all" in line]
    last = [line for line in lines if line.startswith("published ")][-1]
    assert last.split()[2] == published
    assert max(map(len, lines)) <= 80


def test_on_a_terminal_nothing_is_waited_for_in_silence(on_a_terminal):
    """Before there is a table, and before there is a key to count: a first start takes many seconds."""
    process, ours = on_a_terminal("provision", "WEB")
    assert "The TPM begins" in shown_until(ours, "agents have their certificates")
    process.wait(SECONDS)
    os.close(ours)
    process, ours = on_a_terminal("run", "--rate", "0")
    assert "The hub begins" in shown_until(ours, "The bus listens")
    assert "The agents begin" in shown_until(ours, "agents listen")
    os.close(ours)
    assert process.wait(SECONDS) == 0


def test_a_hub_alone_is_one_document_and_nothing_else(home):
    done = home.run("run", "--fleet", "none", "--seconds", "0.2", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["agents"] == 0


UNIT = Path(__file__).parents[2] / "docs/how-to/tpmbus.service"


def test_systemd_hears_from_the_hub_alone_when_it_is_ready_and_when_it_ends(home):
    """The unit's own command; its TPM service starts with it, and says nothing to systemd."""
    home.stop()
    [start] = re.findall("^ExecStart=/usr/bin/env tpmbus (.+)$", UNIT.read_text(), re.MULTILINE)
    address = home.folder / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        systemd.bind(str(address))
        systemd.settimeout(SECONDS)
        notifying = SimpleNamespace(
            folder=home.folder, commands=home.commands, environ=home.environ | {"NOTIFY_SOCKET": str(address)}
        )
        hub = Running(notifying, *start.split())
        try:
            assert told(systemd) == (b"READY=1", hub.process.pid)
            assert home.json("status")["pid"] == hub.process.pid
        finally:
            ended = hub.end(signal.SIGTERM)
        assert told(systemd) == (b"STOPPING=1", hub.process.pid)
    assert ended == 0, hub.noted


def told(systemd: socket.socket) -> tuple[bytes, int]:
    """What, and by which process."""
    text, [(_, _, sender)], *_ = systemd.recvmsg(100, 100)
    return text, struct.unpack("iii", sender)[0]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_the_unit_for_systemd_is_one(tmp_path):
    shutil.copy(UNIT, tmp_path)
    command = ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if UNIT.name in line]) == (0, [])
    assert "ExecReload=/bin/kill -HUP $MAINPID" in UNIT.read_text().splitlines()


def test_sighup_reloads_the_policy(begin, tmp_path):
    for name in ("policies", "agents"):
        shutil.copytree(shipped.folder(name), tmp_path / name)
    hub = begin("run", "--fleet", "none", "--policy", str(tmp_path / "policies"))
    hub.until("0 agents listen")
    topics = tmp_path / "policies" / "topics.yaml"
    topics.write_text(topics.read_text().replace("ttl: 10s", "ttl: 20s"))
    hub.process.send_signal(signal.SIGHUP)
    hub.until("The policy")
    topics.write_text("version: 2\n")
    hub.process.send_signal(signal.SIGHUP)
    hub.until("The old policy stays")
    assert hub.end(signal.SIGTERM) == 0, hub.noted
