"""Processes that are killed while they make keys, and processes that make the same keys at once."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("killed_provisioning.py")


def test_provisioning_may_be_killed_at_every_moment_at_which_it_touches_the_disk(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), "1"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["moments"] > 25


def test_provisioning_a_software_tpm_may_be_killed_at_any_instant(swtpm_folder, tmp_path, runtime):
    """With the chip's process left to its own end: state, locks, sockets and keys must be found in order each time."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice, state, told = random.Random(seed), swtpm_folder.parent, {}
    arguments = [sys.executable, str(PROGRAM), str(state), "20", "swtpm", str(runtime)]

    def run(kill_after):
        """Read what it says; kill it a moment after it has made so many more keys."""
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            for line in process.stdout:
                name, _, spki = line.strip().partition(" ")
                if spki:
                    assert told.setdefault(name, spki) == spki, f"{name} was made twice"
                if line.strip() == "open" or spki:
                    kill_after -= 1
                if kill_after == 0:
                    threading.Timer(dice.random() * 0.01, process.kill).start()
            assert process.wait(30) in (0, -signal.SIGKILL), process.stderr.read()
            return process.returncode == 0
        finally:
            process.kill()
            process.communicate()

    for _ in range(5):
        run(dice.randrange(1, 12))
    assert run(1_000)
    assert sorted(told) == sorted(f"AGENT{number}.1" for number in range(20))
    index = json.loads((state / "vault" / "index.json").read_bytes())
    assert [f"{line['name']}.{line['generation']}" for line in index["keys"]] == sorted(told)
    files = {path.name for path in (state / "vault").iterdir()}
    assert files - {"aside"} == {"lock", "secret", "index.json"} | {f"{key}.{kind}" for key in told for kind in ("pem", "pub")}


def test_processes_that_provision_one_vault_at_once_make_no_key_twice(tmp_path):
    programs = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(tmp_path / "vault"), "20", "share"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    try:
        for program in programs:
            assert program.stdout.readline() == "ready\n"
        for program in programs:
            program.stdin.write("go\n")
            program.stdin.flush()
        answers = [json.loads(program.communicate(timeout=60)[0]) for program in programs]
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert sorted(answers[0]) == sorted(f"AGENT{number}.1" for number in range(20))
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0].values())) == 20
    index = json.loads((tmp_path / "vault" / "index.json").read_bytes())
    assert len(index["keys"]) == 20
