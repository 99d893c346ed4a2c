"""The second machine of a scenario over NATS: a gateway with a state folder of its own, where those are who only read.

So what is published at the hub crosses both brokers, and NATS between them, as where there are two machines. On one machine there
is no second TPM that the authority would believe from afar: agents are enrolled at the hub, and their keys copied with its TPM.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from anyio import to_thread

from bus.clock import SystemClock
from bus.hub import admin
from bus.hub.gateway_papers import GatewayPapers
from bus.hub.open import open  # noqa: A004  as people call it: bus.open
from bus.hub.state import State, open_state

NAME: Final = "BENCHWEST"
FOLDER: Final = "bench-west"
COPIED: Final = ("cosign", "inbox", "vault")


class _Here:
    """To the desk of the hub on this very machine."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, verb: str, **arguments: Any) -> Any:
        return await admin.ask(self._socket, verb, **arguments)


async def prepared(state: State, agents: Iterable[str]) -> State:
    """The gateway's folder, with papers of these agents. The hub of `state` has to run. Raises what keeps it from making them."""
    west = await to_thread.run_sync(open_state, state.folder / FOLDER)
    await GatewayPapers(west, _Here(state.admin_socket), SystemClock()).bring(NAME, ())
    missing = await to_thread.run_sync(lambda: [name for name in agents if not _certificate(west, name).exists()])
    if missing:
        async with open(state=state.folder, join=True) as hub:
            for name in missing:
                async with hub.agent(name):
                    pass  # it has a key, and papers
        await to_thread.run_sync(_copy, state, west, missing)
    return west


def _copy(state: State, west: State, agents: Sequence[str]) -> None:
    if state.swtpm.exists() and not west.swtpm.exists():
        shutil.copytree(state.swtpm, west.swtpm, ignore=shutil.ignore_patterns("*.sock", ".lock"))
    for folder in COPIED:
        if (state.folder / folder).exists():
            shutil.copytree(state.folder / folder, west.folder / folder, dirs_exist_ok=True)
    for name in agents:
        shutil.copy(_certificate(state, name), _certificate(west, name))


def _certificate(state: State, name: str) -> Path:
    return state.trust / "public" / "certificates" / f"{name}.pem"
