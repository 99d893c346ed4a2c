"""The real buses, as far as they are installed, in real processes, for a moment each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest

from bus.bench import programs
from bus.bench.peers import nats_synced
from bus.bench.peers.catalogue import CONTENDERS, VARIANTS
from bus.bench.peers.comparison import measured
from bus.bench.peers.crew import CrewError, Settings, crew
from bus.bench.peers.running import able, names_of_others
from bus.bench.peers.worker import Lines, Worker
from bus.errors import ConnectError

pytestmark = pytest.mark.slow

OTHERS = names_of_others()


@pytest.fixture(scope="module")
def in_turns(tmp_path_factory) -> Iterator[subprocess.Popen[str]]:
    """Begun before the others are played, which mostly wait: whoever wants it finds it nearly done."""
    command = ["bench", "peers", "--only", "nats", "--workload", "reqrep", "--pairs", "1", "--seconds", "0.2", "--warm", "0.05"]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TPMBUS_")}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bus.cli.main", *command, "--json"],
        env=environ | {"XDG_RUNTIME_DIR": str(tmp_path_factory.mktemp("run"))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        if process.poll() is None:
            process.terminate()


def moment(workload: str, **words: Any) -> Settings:
    return Settings(workload, seconds=0.1, warm_seconds=0.05, **words)


async def played(bus: str, folder: Path, *settings: Settings) -> list[dict[str, Any]]:
    async with crew(CONTENDERS[bus], folder / bus) as one:
        return [await one.run(each) for each in settings]


def play(bus: str, folder: Path, *settings: Settings) -> list[dict[str, Any]]:
    return anyio.run(played, bus, folder, *settings)


def assert_all_came(said: Mapping[str, Any], readers: int = 1, *, in_order: bool = True) -> None:
    assert said["sent"] > 0
    assert (said["delivered"], said["lost"], said["duplicated"]) == (said["sent"] * readers, 0, 0)
    assert said["reordered"] == 0 or not in_order
    assert said["cpu_seconds"] > 0


async def all_played(folder: Path, wanted: Mapping[str, Sequence[Settings]]) -> dict[str, list[dict[str, Any]]]:
    """A few at a time: mostly they wait for a process to start, or for a window to end."""
    found, few = {}, anyio.CapacityLimiter(3)

    async def one(bus: str) -> None:
        async with few:
            found[bus] = await played(bus, folder, *wanted[bus])

    async with anyio.create_task_group() as group:
        for bus in wanted:
            group.start_soon(one, bus)
    return found


@pytest.mark.timeout(200)
@pytest.mark.usefixtures("in_turns")
def test_every_bus_that_is_installed_carries_everything_that_is_asked_of_it(tmp_path):
    wanted = {
        "nats": [moment("1to1"), moment("1to1", rate=2_000.0), moment("reqrep"), moment("durable")],
        "zmq": [moment("1to75"), moment("reqrep")],
        "zmq-curve": [moment("1to1", size=64)],
        **{bus: [moment("1to1")] for bus in able(["zenoh", "slim-mls", "slim", "agentmesh"], "1to1")[0]},
    }
    found = anyio.run(all_played, tmp_path, wanted)

    once, by_the_clock, asked, kept = found.pop("nats")
    for said in (once, by_the_clock, kept):
        assert_all_came(said)
    assert by_the_clock["sent"] == 300
    assert 0 < measured("nats", 1, by_the_clock, by_the_clock=True).latency.p50 < 1_000
    assert (asked["asked"] > 0, asked["wrong"]) == (True, 0)

    spread, asked = found.pop("zmq")
    assert_all_came(spread, 75)
    assert (asked["asked"] > 0, asked["wrong"]) == (True, 0)

    for [said] in found.values():
        assert_all_came(said)


def test_what_a_server_spends_is_counted_once_however_many_workers_know_it():
    told = {"bus": "nats", "address": {"pids": [4_711]}}
    of_each = [Worker(told | {"roles": [role]}).served_by for role in ("serve", "answer", "ask", "read", "send")]
    assert [pid for pids in of_each for pid in pids] == [4_711]


@pytest.fixture
def on_disk(tmp_path) -> Iterator[Path]:
    """Where files can be written synchronously, which memory cannot."""
    with TemporaryDirectory(dir="/var/tmp") as disk:
        for place in (tmp_path, Path(disk)):
            (place / "tried").mkdir()
            with suppress(ConnectError):
                nats_synced.write_synchronously(place / "tried")
                yield place
                return
        pytest.skip("no file system here has the attribute S")


def test_a_place_that_cannot_sync_says_what_can(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.ioctl", refuse)
    with pytest.raises(ConnectError, match=r"2\.10 or later, or TMPDIR on ext4"):
        nats_synced.write_synchronously(tmp_path)


@pytest.mark.timeout(200)
def test_both_units_of_durable_topics_and_jetstream_that_syncs_lose_nothing(tmp_path, on_disk):
    async def both_units() -> list[dict[str, Any]]:
        async with crew(VARIANTS["tpmbus-unit-record"], tmp_path / "tpmbus") as one:
            return [await one.run(moment("durable"), VARIANTS[f"tpmbus-unit-{unit}"]) for unit in ("record", "envelope")]

    async def synced() -> dict[str, Any]:
        async with crew(VARIANTS["nats-synced"], on_disk / "nats") as one:
            return await one.run(moment("durable"))

    for said in [*anyio.run(both_units), anyio.run(synced)]:
        assert_all_came(
            said, in_order=False
        )  # on a full machine a key takes longer than two seconds: what waits is put off, and comes later
    kept = list((on_disk / "nats").rglob("*.blk"))
    assert kept, "what JetStream acknowledged is in files"
    if nats_synced.version_of(programs.program(programs.NATS_SERVER) or "") < nats_synced.HAS_A_WORD:
        assert all(nats_synced.is_written_synchronously(file) for file in kept)


def test_the_version_of_a_server_says_whether_it_has_a_word(tmp_path):
    server = tmp_path / "nats-server"
    for said, has_a_word in (("v2.9.10", False), ("v2.10.0", True), ("v2.11.0-RC.1", True), ("v3.0.0", True), ("?", False)):
        server.write_text(f"#!/bin/sh\necho 'nats-server: {said}'\n")
        server.chmod(0o755)
        assert (nats_synced.version_of(str(server)) >= nats_synced.HAS_A_WORD) == has_a_word


@pytest.mark.parametrize("bus", ["zenoh", "slim-mls", "slim", "agentmesh"])
def test_a_bus_that_is_not_installed_is_named(bus, monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    [one] = able([bus], "1to1")[1]
    assert (one.bus, one.reason) == (bus, "not_installed")
    assert CONTENDERS[bus].install in one.detail


def test_what_the_tests_install_takes_part():
    taking_part, _ = able(OTHERS, "1to1")
    assert {"nats", "zmq", "zmq-curve"} <= set(taking_part)


def test_nobody_who_is_asked_for_is_left_out(monkeypatch):
    for workload in ("1to1", "reqrep", "1to75", "durable"):
        taking_part, absent = able(OTHERS, workload)
        assert sorted([*taking_part, *(one.bus for one in absent)]) == sorted(OTHERS)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(programs, "SYSTEM", ())
    [one] = able(["nats"], "1to1")[1]
    assert one.reason == "not_installed"
    assert one.detail.startswith("without nats-server")
    assert able(["nats"], "reqrep")[0] == []
    assert able(["zmq"], "durable")[1][0].reason == "cannot"


def test_a_name_that_nobody_has_is_refused():
    with pytest.raises(ValueError, match="rabbit"):
        names_of_others(["nats", "rabbit"])


def test_a_process_that_fails_says_what_it_said(tmp_path, monkeypatch):
    broken = tmp_path / "nats-server"
    broken.write_bytes(b"\0")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CrewError) as failure:
        play("nats", tmp_path, moment("1to1"))
    assert failure.value.said.startswith("bus.errors.ConnectError: ")


@pytest.mark.anyio
async def test_lines_come_whole_however_they_were_written():
    reading, writing = os.pipe()
    lines = Lines(reading)
    os.write(writing, b'{"a": 0}\n{"a": 1}\n{"b"')
    assert [await lines.next(), await lines.next()] == [{"a": 0}, {"a": 1}]
    os.write(writing, b": 2}\n")
    assert await lines.next() == {"b": 2}
    os.close(writing)
    assert await lines.next() is None
    os.close(reading)


@pytest.mark.timeout(300)
def test_this_bus_and_another_in_turns(in_turns):
    said, complaints = in_turns.communicate(timeout=250)
    assert in_turns.returncode == 0, complaints
    found = json.loads(said)
    ours, theirs = found["rows"]
    assert (ours["bus"], theirs["bus"], found["absent"]) == ("tpmbus", "nats", [])
    [ratio] = theirs["ratios"]
    assert ratio["ours"] == "tpmbus"
    assert ratio["figure"][0] == pytest.approx(ours["figure"][0] / theirs["figure"][0])
    assert set(found["versions"]) == {"tpmbus", "nats"}
