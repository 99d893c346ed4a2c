"""State folders for tests of whole hubs: keys in software, since what is tested is not the TPM; made once, and copied.

Their TPM service is started by us, by fork, since that is quicker; it is as a hub would start it, and where a test has changed the
policy, or ended the service, the hub does.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

import bus
from bus.hub import admin
from bus.hub.state import State, holder_of, open_state

POLICY = """
version: 1
domain: tpmbus.test
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: ecc256/sha256, publish: [tasks.>, work.>], subscribe: [results.>], key_origin: software, environment: allow}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [tasks.>, work.>], key_origin: software, environment: allow}
topics:
  - {match: work.>, class: durable, retention: 1d}
"""


@dataclass(frozen=True)
class Home:
    """A state folder and a policy file; `bus.open` and `bus.connect` with them."""

    state: State
    policy: Path
    commands: Any = None
    """Makes its TPM service, where there is one of these."""

    @classmethod
    def at(cls, folder: Path, policy: str = POLICY, commands: Any = None) -> Home:
        (folder / "policy.yaml").write_text(policy)
        return cls(open_state(folder / "state"), folder / "policy.yaml", commands)

    @property
    def folder(self) -> Path:
        return self.state.folder

    def open(self, **options: Any) -> AbstractAsyncContextManager[bus.Hub]:
        if self.commands is not None and not {"policy", "tpm", "state"} & {*options}:
            with ThreadPoolExecutor(1) as apart:  # the test's own thread may have a loop that runs, where the bus may not block
                apart.submit(self.start_service).result()
        return bus.open(**{"policy": self.policy, "state": self.folder, "tpm": "software"} | options)

    def start_service(self) -> None:
        if holder_of(self.state.tpm_lock) is None:
            self.commands.start_service(self.state, str(self.policy), tpm="software")

    def connect(self, url: str, *, agent: str, **options: Any) -> AbstractAsyncContextManager[Any]:
        return bus.connect(url, agent=agent, **{"state": self.folder} | options)

    def change(self, before: str, after: str) -> None:
        text = self.policy.read_text()
        assert before in text
        self.policy.write_text(text.replace(before, after))


class Straight:
    """To the desk of the hub on this very machine, without a command in between."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, verb: str, **arguments: Any) -> Any:
        return await admin.ask(self._socket, verb, **arguments)


def make_home(folder: Path) -> Home:
    home = Home.at(folder)

    async def make() -> None:
        async with home.open():
            pass

    anyio.run(make)
    return home


def copied(made: Home, folder: Path, commands: Any = None) -> Home:
    shutil.copytree(made.folder, folder / "state", ignore=shutil.ignore_patterns("run"))
    return Home.at(folder, commands=commands)


async def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """What it waits for may happen in another process, which needs the processor too."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  see above
            await anyio.sleep(0.005)
