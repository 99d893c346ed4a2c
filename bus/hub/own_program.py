"""A program of ours in a process of its own, which begins without looking for garbage in what it has only just imported.

Python looks after each 700 objects that were made and not let go of, and again and again at all there are. Of the hundred
thousand that a program imports none is garbage, and to look took an eighth of the time until it could begin. `tpmbus` does the
same (`cli/main.py`); both say how often when they have begun (`collecting.py`).
"""

from __future__ import annotations

import gc
import sys
from runpy import run_module
from typing import Final

OBJECTS_UNTIL_COLLECTED: Final = 100_000


def own_program(module: str, *arguments: str) -> list[str]:
    """What starts it: `python -P -m bus.hub.own_program MODULE ARGUMENTS`. The module is run as `python -m MODULE` would run it."""
    return [sys.executable, "-P", "-m", "bus.hub.own_program", module, *arguments]


def main() -> None:
    gc.set_threshold(OBJECTS_UNTIL_COLLECTED)
    del sys.argv[0]
    run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
