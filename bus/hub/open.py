"""`bus.open` and `bus.connect`: the two doors of the library."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

from anyio import to_thread

from bus.agent.agent import Agent
from bus.clock import SystemClock
from bus.hub.backbones import NatsServers
from bus.hub.connecting import Target, connected_agent, joined_hub
from bus.hub.embedded import embedded
from bus.hub.gateway import gateway
from bus.hub.household import Household, Leaving
from bus.hub.hub import Hub
from bus.hub.state import State, bus_url, holder_of, open_state
from bus.hub.tpm_process import named_policy
from bus.hub.wishes import Wishes

JOIN_SECONDS: Final = 10.0
"""For a hub that has the folder and does not listen yet: it is starting."""


def open(  # noqa: A001  as people call it: bus.open
    *,
    policy: str | Path | None = None,
    state: str | Path | None = None,
    listen: Sequence[str] = (),
    agents: Mapping[str, str] | None = None,
    tpm: str | None = None,
    join: bool = False,
    backbone: str | None = None,
) -> AbstractAsyncContextManager[Hub]:
    """`async with` it: a bus in this process, over a state folder that it makes if there is none.

    `policy`: a file, a folder, or the name of a shipped policy [TPMBUS_POLICY, else default]. `state`: the folder [TPMBUS_STATE,
    else ~/.local/state/tpmbus]. `listen`: where other processes reach it (unix:///path, tls://host:port, memory:NAME), besides
    the folder's own socket. `agents`: names and their roles, besides those of the policy. `tpm`: see `tpmbus doctor` [TPMBUS_TPM,
    else a software TPM in the state folder]; `software` for keys without one, where policy lets them be. `join`: if a bus runs in
    this folder already, be part of it; without, that is StateInUseError(pid, url). `backbone`: keep durable topics on these NATS
    servers ("nats://h1:4222,nats://h2:4222"; tls://, user:password@) in place of the folder's journal; extra `tpmbus[nats]`. It
    then waits, a second at most, until the gateways that are there are linked. On trio, where NATS cannot be spoken, the broker
    runs in a process of its own.

    Raises PolicyError before anything is made, StateInUseError, TpmError, VaultError, ConnectError, BackboneError. It may be left
    from any task on asyncio; on trio by the task that entered it.
    """
    wishes = Wishes(
        policy or named_policy(None), dict(agents or {}), tuple(listen), tpm, os.environ, SystemClock(), servers=_servers(backbone)
    )
    return Household(partial(_open, _folder(state), wishes, join=join), clock=wishes.clock)


def supervise(
    *,
    policy: str | Path | None = None,
    state: str | Path | None = None,
    listen: Sequence[str] = (),
    agents: Mapping[str, str] | None = None,
    tpm: str | None = None,
    backbone: str | None = None,
) -> AbstractAsyncContextManager[Hub]:
    """The same with the broker in a process of its own, which has its own key and the journal and can get at nothing else.

    What strangers talk to is then not what holds the keys of agents and authority: that is how `tpmbus run` runs.
    """
    word, clock = policy or named_policy(None), SystemClock()
    wishes = Wishes(word, dict(agents or {}), tuple(listen), tpm, os.environ, clock, apart=True, servers=_servers(backbone))
    return Household(partial(_open, _folder(state), wishes, join=False), clock=clock)


def connect(
    url: str,
    *,
    agent: str,
    state: str | Path | None = None,
    wait: float = 10.0,
    give_up: float | None = None,
) -> AbstractAsyncContextManager[Agent]:
    """`async with` it: be this agent on a bus that runs elsewhere, with the keys and papers of the state folder.

    A hub that is not there yet is waited for, `wait` seconds; one that goes away later is dialled again, for ever, or for `give_up`
    seconds: then everything raises ConnectionLostError.
    Raises ConnectError, and at once: NotPermittedError, VerificationError, VaultError("missing") for an agent that has no papers.
    """
    target = Target(url, wait, give_up, os.environ, SystemClock())
    return Household(partial(_connect, _folder(state), target, agent), clock=target.clock)


@asynccontextmanager
async def _open(folder: Path | None, wishes: Wishes, leaving: Leaving, *, join: bool) -> AsyncIterator[Hub]:
    state = await to_thread.run_sync(open_state, folder)
    holder = await to_thread.run_sync(holder_of, state.hub_lock) if join else None
    inside: AbstractAsyncContextManager[Hub]
    if holder is None:
        is_far = await to_thread.run_sync(authority_is_elsewhere, state)
        inside = gateway(state, wishes, leaving) if is_far else embedded(state, wishes, leaving)
    else:
        url = str(holder.get("url") or bus_url(state))
        inside = joined_hub(state, Target(url, JOIN_SECONDS, None, wishes.environ, wishes.clock), leaving)
    async with inside as hub:
        yield hub


@asynccontextmanager
async def _connect(folder: Path | None, target: Target, agent: str, leaving: Leaving) -> AsyncIterator[Agent]:
    state = await to_thread.run_sync(open_state, folder)
    async with connected_agent(state, target, agent, leaving) as found:
        yield found


def authority_is_elsewhere(state: State) -> bool:
    """Whether this folder goes by another one's authority: `tpmbus host` pinned its root. Blocks."""
    return (state.trust / "public" / "root.pem").exists() and not (state.trust / "private").exists()


def _folder(state: str | Path | None) -> Path | None:
    return None if state is None else Path(state)


def _servers(backbone: str | None) -> NatsServers | None:
    return None if backbone is None else NatsServers.parse(backbone)
