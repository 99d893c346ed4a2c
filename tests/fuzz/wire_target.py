"""Coverage-guided input for everything that foreign bytes are parsed as: one target of the table in wire_rows.py.

python tests/fuzz/wire_target.py envelope -max_total_time=60 A_NEW_FOLDER tests/fuzz/corpus/envelope

Bytes that are changed at random are hardly ever msgpack in shortest form, so two changes of three are made to a field, and the
whole is packed again.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import atheris
import msgpack

sys.path.insert(0, str(Path(__file__).parent))

with atheris.instrument_imports(include=["bus.protocol", "bus.trust"]):
    from wire_rows import ROWS

NUMBERS = (0, 1, 2, 3, 4, 5, 127, 128, 255, 256, 65_535, 65_536, 2**32 - 1, 2**32, 2**63, 2**64 - 1)


def another(value: Any, dice: random.Random) -> Any:
    """Something else for a field, mostly of its own type."""
    if dice.random() < 0.1:
        return dice.choice([None, True, b"", "", 0, [], [value], {}, -1, 0.5])
    if isinstance(value, bytes):
        return atheris.Mutate(value, len(value) + dice.choice([0, 0, 0, 8])) if value else bytes(dice.choice([1, 16, 32]))
    if isinstance(value, str):
        return atheris.Mutate(value.encode() or b"A", len(value) + 4).decode("latin-1")
    if isinstance(value, list):
        copied = [*value, *dice.sample(value, min(1, len(value)))]
        dice.shuffle(copied)
        return copied[: dice.randint(0, len(copied))]
    return dice.choice([*NUMBERS, *([min(value + 1, NUMBERS[-1]), max(value - 1, 0)] if isinstance(value, int) else [])])


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    dice = random.Random(seed)
    try:
        root = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.UnpackException):
        root = None
    if not isinstance(root, list) or not root or dice.random() < 0.3:
        return atheris.Mutate(data, max_size)
    at = root
    place = dice.randrange(len(at))
    while isinstance(at[place], list) and at[place] and dice.random() < 0.8:
        at = at[place]
        place = dice.randrange(len(at))
    at[place] = another(at[place], dice)
    again: bytes = msgpack.packb(root)
    return again if len(again) <= max_size else atheris.Mutate(data, max_size)


if __name__ == "__main__":
    target = sys.argv.pop(1)
    rows = [row for row in ROWS if row.target == target]
    if not rows:
        raise SystemExit(f"there is no target {target!r}")

    def judge(data: bytes) -> None:
        """Anything but a parsed value or a refusal is a crash."""
        for row in rows:
            row.judge(data)

    atheris.Setup(sys.argv, judge, custom_mutator=mutate)
    atheris.Fuzz()
