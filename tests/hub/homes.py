"""State folders for tests of whole hubs: keys in software, since what is tested is not the TPM; made once, and copied."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

import bus
from bus.hub.state import State, open_state

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

    @classmethod
    def at(cls, folder: Path, policy: str = POLICY) -> Home:
        (folder / "policy.yaml").write_text(policy)
        return cls(open_state(folder / "state"), folder / "policy.yaml")

    @property
    def folder(self) -> Path:
        return self.state.folder

    def open(self, **options: Any) -> AbstractAsyncContextManager[bus.Hub]:
        return bus.open(**{"policy": self.policy, "state": self.folder, "tpm": "software"} | options)

    def connect(self, url: str, *, agent: str, **options: Any) -> AbstractAsyncContextManager[Any]:
        return bus.connect(url, agent=agent, **{"state": self.folder} | options)

    def change(self, before: str, after: str) -> None:
        text = self.policy.read_text()
        assert before in text
        self.policy.write_text(text.replace(before, after))


def make_home(folder: Path) -> Home:
    home = Home.at(folder)

    async def make() -> None:
        async with home.open():
            pass

    anyio.run(make)
    return home


def copied(made: Home, folder: Path) -> Home:
    shutil.copytree(made.folder, folder / "state", ignore=shutil.ignore_patterns("run"))
    return Home.at(folder)


async def until(condition: Callable[[], bool], *, seconds: float = 60) -> None:
    """What it waits for may happen in another process, which needs the processor too."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  see above
            await anyio.sleep(0.005)
