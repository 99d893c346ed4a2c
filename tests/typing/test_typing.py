"""Type checkers are quiet about typical programs and about every example, and know what each thing is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import bus

HERE = Path(__file__).parent
EXAMPLES = HERE.parent.parent / "examples"
PACKAGE = Path(bus.__file__).parent
PROGRAMS = [HERE / "typical_use.py", *sorted(EXAMPLES.glob("*.py"))]
"""In one run each: most of its time a checker reads what they all import."""


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Where no configuration of this project is, as with a user: the programs, the examples, and the package that is tested."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for path in PROGRAMS:
        (programs / path.name).write_text(path.read_text())
    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "bus").symlink_to(PACKAGE)
    return programs


@pytest.mark.slow
def test_mypy_is_quiet(copied: Path):
    environment = os.environ | {"MYPYPATH": str(copied.parent / "installed")}
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--cache-dir",
        str(copied / "cache"),
        str(copied),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, env=environment, cwd=copied)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_pyright_is_quiet(copied: Path):
    settings = {
        "typeCheckingMode": "strict",
        "pythonVersion": "3.11",
        "extraPaths": [str(copied.parent / "installed")],
        "include": ["."],
        "reportUnusedFunction": False,
    }
    (copied / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", str(copied)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False, cwd=copied)
    said = json.loads(done.stdout)
    wrong = said["generalDiagnostics"]
    found = [f"{Path(one['file']).name}:{one['range']['start']['line'] + 1}: {one['message']}" for one in wrong]
    assert found == []
    assert said["summary"]["filesAnalyzed"] == len(PROGRAMS) > 10
