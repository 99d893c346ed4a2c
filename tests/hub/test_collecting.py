"""What a process of ours made while it began is not looked at again, and the rest not as often."""

from __future__ import annotations

import subprocess
import sys

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
