"""Processes that are killed while they make keys, and processes that make the same keys at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("killed_provisioning.py")


def test_provisioning_may_be_killed_at_every_moment_at_which_it_touches_the_disk(tmp_path):
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(tmp_path), "1"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["moments"] > 25


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
