"""The page about NATS servers: its commands make a configuration, its program runs, and who is no broker may do nothing there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import NatsServer, free_port

from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.login import NKEY_FILE
from bus.clock import SystemClock
from bus.errors import BackboneError

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "nats.md"


def block(language: str, number: int = 0) -> str:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[number]


@pytest.fixture
def server(tmp_path):
    port = free_port()
    commands = block("sh").replace("127.0.0.1:4222", f"127.0.0.1:{port}").replace("--out nats", f"--out nats --store {tmp_path}")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-e"], input=commands.encode(), cwd=tmp_path, env=os.environ | {"PATH": path}, check=True, timeout=60)
    one = NatsServer(tmp_path, "page", config=tmp_path / "nats" / "n1.conf", port=port)
    one.begin()
    yield one
    one.kill()


def test_the_page_about_nats_does_what_it_says(server, tmp_path):
    def run(number: int, *arguments: str) -> str:
        program = tmp_path / "try.py"
        program.write_text(block("python", number))
        environment = os.environ | {NKEY_FILE: str(tmp_path / "nats" / "broker.nk")}
        words = [sys.executable, program, server.url, *arguments]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(0) == "stored, read and settled at 1\n"
    said = run(1, str(tmp_path / "nats" / "look.nk"))
    assert re.search(r"^tpmbus_try-\w+ 1 messages", said, re.MULTILINE)
    assert "in hand" not in said, "its consumer is gone"


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_who_is_no_broker_is_refused_by_that_configuration(server):
    with pytest.raises(BackboneError) as refused:
        await open_nats([server.url], SystemClock(), wait_seconds=0.5)
    assert refused.value.code == "disk"
