"""The page about testing does what it says: its examples are run, as a user's tests would be."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import anyio
import pytest

import bus.testing

PAGE = Path(__file__).parents[2] / "docs/how-to/test-your-agents.md"


def examples() -> dict[str, Any]:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), names)
    return {name: value for name, value in names.items() if name.startswith("test_") and inspect.iscoroutinefunction(value)}


EXAMPLES = examples()
assert bus.testing.open  # imported here: to import blocks, and a loop that runs is guarded against that


def test_the_page_has_its_examples():
    assert len(EXAMPLES) >= 8


@pytest.mark.anyio
@pytest.mark.parametrize("name", EXAMPLES)
async def test_every_example_of_the_page_passes(name):
    with anyio.fail_after(60):
        await EXAMPLES[name]()
