"""A server that the system keeps off a plain user's PATH is found all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.bench import programs
from bus.bench.programs import NATS_SERVER, program


@pytest.fixture
def folders(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """What PATH names, and the system's own."""
    on_path, system = tmp_path / "bin", tmp_path / "sbin"
    on_path.mkdir()
    system.mkdir()
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setattr(programs, "SYSTEM", (str(system),))
    return on_path, system


def put(folder: Path) -> str:
    made = folder / NATS_SERVER
    made.write_text("#!/bin/sh\n")
    made.chmod(0o755)
    return str(made)


def test_a_program_of_the_systems_own_folder_is_found_by_anybody(folders):
    assert program(NATS_SERVER) is None
    made = put(folders[1])
    assert program(NATS_SERVER) == made


def test_what_is_on_the_path_comes_first(folders):
    put(folders[1])
    first = put(folders[0])
    assert program(NATS_SERVER) == first
