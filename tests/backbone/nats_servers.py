"""Real NATS servers for tests: processes on loopback ports of their own, with JetStream in a folder that goes with them.

nats_server()        one
nats_cluster(3)      several that know each other; any can be killed and started again, with what it had

They are what `nats-server` is here (Debian: 2.9); OLDER and NEWER where a test is about a version. NEWER is among the Python
packages of the tests, so it is there on every machine.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from backbones import running
from cut_wire import CutWire, cut_wire

from bus.backbone.interface import Backbone
from bus.backbone.nats.backbone import open_nats
from bus.backbone.nats.streams import HAVE_TTL
from bus.bench.peers.nats_synced import version_of
from bus.bench.programs import NATS_SERVER, SYSTEM
from bus.clock import Clock, SystemClock

PATIENCE_SECONDS = 30.0


def servers_here() -> Iterable[str]:
    """Each nats-server of this machine, that of the tests' own packages first."""
    for folder in (sysconfig.get_path("scripts"), *os.environ["PATH"].split(os.pathsep), *SYSTEM):
        if found := shutil.which(NATS_SERVER, path=folder):
            yield found


NEWER = next((one for one in servers_here() if version_of(one) >= HAVE_TTL), "")
OLDER = next((one for one in servers_here() if version_of(one) < HAVE_TTL), "")
"""Empty for none; then those tests are for another machine."""


class NatsServer:
    """One process. `begin` it, `kill` it, begin it again. `health_port`: where one of a cluster says whether it has caught up."""

    def __init__(self, folder: Path, name: str, *, config: Path, port: int, health_port: int = 0) -> None:
        self.folder, self.name, self.port, self._health_port = folder, name, port, health_port
        self.url = f"nats://127.0.0.1:{port}"
        self._config = config
        self.program = NATS_SERVER
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def made(
        cls,
        folder: Path,
        name: str,
        *,
        routes: dict[str, int] | None = None,
        ways: dict[str, int] | None = None,
        advertise: int = 0,
    ) -> NatsServer:
        """`routes`: where each of a cluster listens to the others. `ways`: by which ports this one comes to them, if not by these;
        `advertise`: what it tells others to come by."""
        port = free_port()
        lines = [
            f'server_name: "{name}"',
            f'listen: "127.0.0.1:{port}"',
            f'jetstream {{ store_dir: "{folder / name}", max_file_store: 1GB, max_memory_store: 64MB }}',
        ]
        health_port = 0
        if routes is not None:
            health_port = free_port()
            lines.append(f'http: "127.0.0.1:{health_port}"')
            to = {other: port for other, port in routes.items() if other != name} if ways is None else ways
            others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in to.values())
            told = f', advertise: "127.0.0.1:{advertise}"' if advertise else ""
            lines.append(f'cluster {{ name: "tests", listen: "127.0.0.1:{routes[name]}", routes: [{others}]{told} }}')
        config = folder / f"{name}.conf"
        config.write_text("\n".join(lines))
        return cls(folder, name, config=config, port=port, health_port=health_port)

    def begin(self) -> None:
        """Until it can be used; one of a cluster, until it has what the others have."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen([self.program, "-c", str(self._config)], stdout=log, stderr=log)

    def wait(self) -> None:
        self._wait_for(self._listens, "does not listen")
        if self._health_port:
            self._wait_for(self._is_current, "does not catch up")

    def kill(self) -> None:
        """kill -9, as a machine that lost its power would; what the kernel has is still written."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def stand_still(self, *, still: bool) -> None:
        """As behind a network that is cut: nothing comes from it, and nobody is told. It goes on with what it had."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP if still else signal.SIGCONT)

    def reload(self) -> None:
        """Have it read its configuration again, as an operator would."""
        assert self._process is not None
        subprocess.run(["nats-server", "--signal", f"reload={self._process.pid}"], check=True, timeout=30)

    def end(self) -> None:
        """As an operator would: it writes down all that it knows."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")

    def leader(self, stream: str) -> str:
        """Of a stream, as far as this one of a cluster knows; empty for none."""
        url = f"http://127.0.0.1:{self._health_port}/jsz?accounts=1&streams=1"
        with urllib.request.urlopen(url, timeout=5) as answer:
            accounts = json.load(answer).get("account_details", [])
        streams = [found for account in accounts for found in account.get("stream_detail") or [] if found["name"] == stream]
        return next((found["cluster"].get("leader", "") for found in streams), "")

    def wait_for_another_leader(self, stream: str, than: str) -> None:
        self._wait_for(lambda: self.leader(stream) not in ("", than), f"has no other leader than {than}")

    def _wait_for(self, condition: Callable[[], bool], otherwise: str) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            assert self._process is not None
            if self._process.poll() is not None:
                raise AssertionError(f"nats-server ended:\n{self.log()}")
            if condition():
                return
            time.sleep(0.02)
        raise AssertionError(f"nats-server {otherwise}:\n{self.log()}")

    def _listens(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True

    def _is_current(self) -> bool:
        """With the leader of the cluster, and in each stream and consumer that it has a part of."""
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self._health_port}/healthz", timeout=1).close()
        except OSError:  # an answer that says no is one as well
            return False
        return True


@contextmanager
def nats_server(program: str = NATS_SERVER) -> Iterator[NatsServer]:
    with _folder() as folder:
        server = NatsServer.made(folder, "one")
        server.program = program
        try:
            server.begin()
            yield server
        finally:
            server.kill()


@contextmanager
def nats_cluster(count: int = 3) -> Iterator[list[NatsServer]]:
    with _folder() as folder:
        names = [f"n{number}" for number in range(1, count + 1)]
        routes = {name: free_port() for name in names}
        with all_begun([NatsServer.made(folder, name, routes=routes) for name in names]) as servers:
            yield servers


@contextmanager
def nats_cluster_in_two_places() -> Iterator[tuple[list[NatsServer], CutWire]]:
    """Three servers, of which the last is elsewhere: it and the others know each other by one wire alone, which can be cut.

    Servers tell each other where others are. What the first two tell of themselves leads nowhere, so that nobody finds another way.
    """
    with _folder() as folder:
        routes = {name: free_port() for name in ("n1", "n2", "n3")}
        with cut_wire(routes["n3"]) as wire:
            near = [
                NatsServer.made(folder, one, routes=routes, ways={other: routes[other], "n3": wire.port}, advertise=free_port())
                for one, other in (("n1", "n2"), ("n2", "n1"))
            ]
            far = NatsServer.made(folder, "n3", routes=routes, ways={"nobody": free_port()}, advertise=wire.port)
            with all_begun([*near, far]) as servers:
                yield servers, wire


@contextmanager
def all_begun(servers: list[NatsServer]) -> Iterator[list[NatsServer]]:
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
        yield servers
    finally:
        for server in servers:
            server.kill()


@asynccontextmanager
async def on_nats(servers: Sequence[str], space: str, clock: Clock | None = None, **options: Any) -> AsyncIterator[Backbone]:
    """A broker's backbone there, opened, run, and closed at the end."""
    async with running(await open_nats(servers, clock or SystemClock(), space=space, **options)) as backbone:
        yield backbone


def new_space() -> str:
    """A bus that nobody has used yet, on a server that others use as well."""
    return f"t{secrets.token_hex(6)}"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def _folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="tpmbus-nats-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
