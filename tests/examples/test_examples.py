"""Every example runs as it stands, in a process of its own, and says what its page in the documentation promises.

That a type checker is quiet about them is seen by `tests/typing`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
PRINTED = {
    "hello": "DIRECTOR tasks.build {'ref': 'main'} session\n",
    "request_reply": """nobody reviews plans yet
ARCHITECT {'plan': 7, 'approved': True}
ARCHITECT {'plan': 8, 'approved': False}
""",
    "work_queue": r"((PYTHON|RUST) did job \d(, at the second try)?\n){6}",
    "offline_inbox": r"""stored at \d+
stored at \d+
stored at \d+
PYTHON {'number': 0, 'ok': True}
PYTHON {'number': 1, 'ok': True}
PYTHON {'number': 2, 'ok': True}
""",
    "critical_command": r"""DIRECTOR ordered control.pause, signed by its identity key
PYTHON may not: .+
""",
    "bridge": "".join(rf"HARDWARE {{'celsius': 2{number}.0}}\n" for number in range(1, 6)),
    "several_processes": r"done: \[0, 1, 2, 3\]\n",
    "reload": r"""PAINTER was told: the door
PAINTER is shut out: .+
""",
}
"""What it prints: as it is, or as a pattern."""
OTHERWISE = {"web_app": "test_the_web_application_takes_orders", "test_with_the_bus": "test_the_unit_test_is_one"}
"""Examples that are no programs, and the tests that run them."""


def names() -> set[str]:
    return {path.stem for path in EXAMPLES.glob("*.py")}


def test_every_example_is_run_by_a_test():
    assert names() == {*PRINTED, *OTHERWISE}
    assert set(OTHERWISE.values()) <= set(globals())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_what_it_shows(path):
    text = path.read_text()
    assert len(text.splitlines()) < 60
    assert text.startswith('"""')


def run(fleet, *command: str, cwd: Path = EXAMPLES) -> str:
    environ = fleet.environ | {"PYTHONFAULTHANDLER": "1"}  # if it crashes, its stack is in what it said
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, env=environ, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, f"it ended with {done.returncode}, having said:\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_promises(name, home):
    printed = run(home, f"{name}.py")
    assert printed == PRINTED[name] or re.fullmatch(PRINTED[name], printed), printed


WEB = """
import anyio, json, sys
sys.path.insert(0, sys.argv[1])
from web_app import app

async def main():
    '''As a server does: the lifespan, then requests, then its end.'''
    to_app, from_app = anyio.create_memory_object_stream(10), anyio.create_memory_object_stream(10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(app, {"type": "lifespan", "state": (state := {})}, to_app[1].receive, from_app[0].send)
        await to_app[0].send({"type": "lifespan.startup"})
        assert (await from_app[1].receive())["type"] == "lifespan.startup.complete"
        assert (await call("POST", b'{"item": "tea"}', state))[0] == 202
        with anyio.fail_after(60):
            while (answer := await call("GET", b"", state))[1] == b"[]":
                await anyio.sleep(0.01)
        print(answer[1].decode())
        await to_app[0].send({"type": "lifespan.shutdown"})
        assert (await from_app[1].receive())["type"] == "lifespan.shutdown.complete"
    for stream in (*to_app, *from_app):
        stream.close()

async def call(method, body, state):
    said = []
    scope = {"type": "http", "method": method, "path": "/orders", "raw_path": b"/orders", "headers": [], "query_string": b"",
             "state": dict(state), "server": ("test", 80), "scheme": "http", "http_version": "1.1", "root_path": ""}
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}
    async def send(message):
        said.append(message)
    await app(scope, receive, send)
    return said[0]["status"], b"".join(message.get("body", b"") for message in said)

anyio.run(main)
"""


def test_the_web_application_takes_orders(home):
    assert run(home, "-c", WEB, str(EXAMPLES)) == '[{"by":"SHOP","item":"tea"}]\n'


def test_the_unit_test_is_one(home, tmp_path):
    """In a project of its own, with pytest and anyio's plugin and nothing of ours beside the package."""
    (tmp_path / "test_it.py").write_text((EXAMPLES / "test_with_the_bus.py").read_text())
    printed = run(home, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", str(tmp_path), cwd=tmp_path)
    assert re.search(r"^[46] passed", printed, re.MULTILINE), printed
