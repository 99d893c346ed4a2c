"""What a process of ours made while it began is not looked at again, and the rest not as often."""

from __future__ import annotations

import os
import subprocess
import sys

from bus.hub.own_program import own_program

PROGRAM = """
import gc
from bus.hub.collecting import leave_what_is_here
made = [[number] for number in range(10_000)]
leave_what_is_here()
print(len(gc.get_objects()) < 5_000, gc.get_freeze_count() > 10_000, gc.isenabled(), gc.get_threshold() == (10_000, 2, 30))
"""


def test_the_collector_passes_over_what_was_there_at_the_beginning():
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.split() == ["True"] * 4


BEGINNING = """
import gc, sys
looks = []
gc.callbacks.append(lambda phase, _: looks.append(phase))
from bus.hub.own_program import main
sys.argv = ["own_program", "told"]
before = len(looks)
main()
print(looks[before:].count("start") < 5)
"""
TOLD = "import sys, bus.hub.broker_program; print(__name__, sys.argv[1:], bus.hub.broker_program.__name__ in sys.modules)"


def test_a_program_of_ours_looks_for_no_garbage_in_what_it_imports(tmp_path):
    (tmp_path / "told.py").write_text(TOLD)
    command = [sys.executable, "-c", f"import sys; sys.path.append({str(tmp_path)!r})\n{BEGINNING}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.splitlines() == ["__main__ [] True", "True"]


def test_a_program_of_ours_gets_its_words(tmp_path):
    (tmp_path / "told.py").write_text("import sys; print(__name__, sys.argv[1:])")
    environ = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    said = subprocess.run(own_program("told", "a", "b"), env=environ, capture_output=True, text=True, check=True, timeout=60).stdout
    assert said == "__main__ ['a', 'b']\n"


COMMAND = """
import atexit, gc, sys
looks = []
gc.callbacks.append(lambda phase, _: looks.append(phase))
from bus.cli.main import main
before = len(looks)
atexit.register(lambda: print(looks[before:].count("start") < 5, len(gc.get_objects()) < 5_000, gc.isenabled(), file=sys.stderr))
sys.argv = ["tpmbus", "policy", "lint"]
main()
"""


def test_a_command_looks_for_no_garbage_in_what_it_imports_nor_in_all_at_its_end():
    """It took a quarter of its time."""
    done = subprocess.run([sys.executable, "-c", COMMAND], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.split() == ["True"] * 3
