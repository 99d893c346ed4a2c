"""A TPM service for tests: in this process or in one of its own, and callers that speak to it line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from bus.policy import Policy, load
from bus.protocol.contexts import Purpose
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing.fake_tpm import FakeTpm
from bus.testing.tpm_check import check_proof, contents_for
from bus.tpm.caller import Limits
from bus.tpm.engine import Engine
from bus.tpm.interface import KeyInfo
from bus.tpm.permissions import Permissions
from bus.tpm.remote import RemoteEngine
from bus.tpm.service import TpmService
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import MemoryVault
from bus.transport import unix

SUITE = IDENTITY_SUITES["ecc256/sha256"]
CONTENT = contents_for(SUITE, 1)
IS_ROOT = os.getuid() == 0
STRANGER = 65_534 if IS_ROOT else os.getuid()
"""A user who is not the service's: root can become one, others take themselves for one."""
OWNER = os.getuid() if IS_ROOT else os.getuid() + 1


@dataclass
class Served:
    engine: Engine
    service: TpmService
    tpm: FakeTpm
    path: Path


@asynccontextmanager
async def serving(
    folder: Path,
    *,
    policy: Policy | None = None,
    owner: int | None = None,
    group: int | None = None,
    software: SoftwareTpm | None = None,
    **limits: Any,
) -> AsyncIterator[Served]:
    """With one key, of MONITOR."""
    tpm = FakeTpm()
    permissions = Permissions(os.getuid() if owner is None else owner, policy or Policy())
    path = folder / "s" / "tpm.sock"
    async with Engine(lambda: tpm, MemoryVault(), software=software) as engine, unix.listening(path, group=group) as listener:
        await engine.create("MONITOR", SUITE)
        service = TpmService(engine, listener, permissions, Limits(**limits))
        async with anyio.create_task_group() as tasks:
            await tasks.start(service.run)
            yield Served(engine, service, tpm, path)
            service.stop()


@dataclass
class RawCaller:
    """Sends bytes and reads lines, whatever they are."""

    stream: unix.UnixStream
    buffer: bytes = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send(data)

    async def ask(self, **fields: Any) -> dict[str, Any]:
        await self.send(json.dumps(fields).encode() + b"\n")
        return await self.answer()

    async def answer(self) -> dict[str, Any]:
        line = await self.line()
        assert line is not None, "the connection was closed"
        return json.loads(line)

    async def code(self, data: bytes) -> str:
        """The code of the error that these bytes get."""
        await self.send(data)
        return (await self.answer())["error"]["code"]

    async def line(self) -> bytes | None:
        with anyio.fail_after(10):
            while b"\n" not in self.buffer:
                data = await self.stream.receive()
                if not data:
                    assert not self.buffer
                    return None
                self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return line

    async def is_closed(self) -> bool:
        from bus.errors import ConnectionLostError

        try:
            return await self.line() is None
        except ConnectionLostError:
            return True


@asynccontextmanager
async def raw(path: Path) -> AsyncIterator[RawCaller]:
    stream = await unix.connect(path)
    try:
        yield RawCaller(stream)
    finally:
        stream.close()


async def others_are_served(served: Served) -> None:
    """Another caller signs, lists and pings as if nothing were."""
    with anyio.fail_after(10):
        async with await RemoteEngine.connect(served.path) as engine:
            key = await the_key(engine)
            check_proof((await engine.sign_many("MONITOR", Purpose.SESSION, CONTENT))[0], key, Purpose.SESSION, CONTENT[0])
            await engine.ping()


async def the_key(engine: Any, name: str = "MONITOR") -> KeyInfo:
    return next(info for info in await engine.keys() if info.name == name and info.ends_ms is None)


async def until(condition: Callable[[], Any]) -> None:
    """Until it holds; whoever it waits for runs meanwhile."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.lowlevel.checkpoint()


def policy_for(uid: int, *purposes: str) -> Policy:
    """MONITOR's role grants this uid these purposes; DIRECTOR's grants nobody anything."""
    grants = ", ".join(purposes)
    return load(
        {
            "p.yaml": f"""
version: 1
agents: {{MONITOR: watch, DIRECTOR: lead}}
roles:
  watch: {{key: ecc256/sha256, publish: [telemetry.>], key_origin: software, uids: [{{uid: {uid}, purposes: [{grants}]}}]}}
  lead: {{key: ecc256/sha256, publish: [tasks.>], key_origin: software}}
"""
        }
    )


AS_STRANGER = """
import json, os, socket, sys
if os.getuid() == 0:
    os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)

def ask(caller, line):
    try:
        caller.sendall(line.encode())
    except OSError:
        pass
    try:
        return caller.makefile("rb").readline().decode().strip() or "null"
    except OSError:
        return "null"

callers = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for caller in callers:
    caller.connect(sys.argv[1])
    if caller is not callers[-1]:
        assert "version" in ask(caller, json.dumps({"command": "ping"}) + "\\n")
for line in sys.stdin:
    print(ask(callers[-1], line))
"""


async def ask_as_stranger(path: Path, *requests: dict[str, Any], connections: int = 1) -> list[Any]:
    """A process of another user asks, one request after the other, on the last of its connections; None where it was closed."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    with anyio.fail_after(20):
        done = await anyio.run_process([sys.executable, "-c", AS_STRANGER, str(path), str(connections)], input=lines.encode())
    return [json.loads(line) for line in done.stdout.splitlines()]


def let_strangers_reach(folder: Path) -> int | None:
    """The group to serve for."""
    folder.chmod(0o711)
    return STRANGER if IS_ROOT else None


@contextmanager
def process(*arguments: str, ready: bool = True, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """`tpmbus tpm serve` in a process of its own, ready; ended in order if it still runs."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "bus.cli.main", "tpm", "serve", "--ready-fd", str(write), *arguments]
    started = subprocess.Popen(
        command, pass_fds=(write,), env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.close(write)
    try:
        if ready:
            assert os.read(read, 16) == b"ready\n", started.communicate(timeout=20)[0].decode()
        yield started
    finally:
        os.close(read)
        started.terminate()
        started.communicate(timeout=30)
