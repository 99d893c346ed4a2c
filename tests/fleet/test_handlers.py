"""Files of handlers: loaded by their path, checked when they are loaded, and nothing left beside them."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import anyio
import pytest

from bus import shipped
from bus.errors import OverloadedError
from bus.fleet.handlers import HandlerFileError, load_handlers
from bus.policy import open_policy
from bus.testing import ManualClock

FOLDER = shipped.folder("agents") / "handlers"


class Named:
    name = "SOMEBODY"


def test_every_role_of_the_fleet_has_its_file_and_no_other_has():
    assert set(load_handlers(FOLDER)) == set(open_policy().roles)


def test_handlers_know_the_bus_and_nothing_else_of_ours():
    for file in FOLDER.glob("*.py"):
        tree = ast.parse(file.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        assert {name for name in names if name not in sys.stdlib_module_names} == {"bus"}, file.name


def test_handlers_are_short():
    assert [file.name for file in FOLDER.glob("*.py") if len(file.read_text().splitlines()) > 70] == []


def test_loading_leaves_nothing_behind(tmp_path):
    (tmp_path / "worker.py").write_text("def handlers(agent): return agent")
    before = set(sys.modules)
    loaded = load_handlers(tmp_path)
    assert loaded["worker"].handlers(7) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["worker.py"]
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "text",
    [
        "def handlers(agent",
        "import no_such_module_anywhere",
        "handlers = 7",
        "pass",
        "def handlers(agent): ...\nasync def beat(agent, number): ...",
        "def handlers(agent): ...\nevery_seconds = 1",
        "def handlers(agent): ...\nasync def beat(agent, number): ...\nevery_seconds = 0",
    ],
)
def test_a_file_that_cannot_be_used_is_named(text, tmp_path):
    (tmp_path / "worker.py").write_text(text)
    with pytest.raises(HandlerFileError, match=r"worker\.py"):
        load_handlers(tmp_path)


BEATING = """
beats = []
every_seconds = 2.5
def handlers(agent): return beats
async def beat(agent, number):
    beats.append((agent.name, number))
    if number == 2:
        raise agent.error
"""


@pytest.mark.anyio
async def test_a_beat_comes_at_its_time_also_after_one_that_failed(tmp_path: Path):
    (tmp_path / "worker.py").write_text(BEATING)
    files = await anyio.to_thread.run_sync(load_handlers, tmp_path)
    loaded, clock, agent = files["worker"], ManualClock(), Named()
    agent.error = OverloadedError("lane", pending=1, limit=1)
    beats = loaded.handlers(agent)
    pauses: list[anyio.CancelScope] = []

    def pause() -> anyio.CancelScope:
        pauses.append(anyio.CancelScope())
        return pauses[-1]

    async with anyio.create_task_group() as group:
        group.start_soon(loaded.keep_beating, agent, clock, pause)
        for expected in ([], [("SOMEBODY", 1)], [("SOMEBODY", 1), ("SOMEBODY", 2)]):
            await anyio.wait_all_tasks_blocked()
            assert beats == expected
            clock.advance(2.5)
        await anyio.wait_all_tasks_blocked()
        assert beats[-1] == ("SOMEBODY", 3)
        pauses[-1].cancel()  # the last thing that holds the group


@pytest.mark.anyio
async def test_who_has_no_beat_is_done_at_once(tmp_path):
    (tmp_path / "worker.py").write_text("def handlers(agent): ...")
    files = await anyio.to_thread.run_sync(load_handlers, tmp_path)
    await files["worker"].keep_beating(Named(), ManualClock(), anyio.CancelScope)
