"""Give every agent its identity key: the suite that its role names, in the place that the rollout says.

Deciding (`plan`) is pure and says everything that policy forbids at once, before any key is made. Doing (`provision`) asks the
engine for each key; what exists is used again, so doing it twice, or again after an interruption, makes nothing twice.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from anyio import create_task_group

from bus.errors import BusError, NotPermittedError
from bus.policy import Policy, rollout
from bus.protocol.suites import Suite
from bus.tpm.interface import ORIGINS, SOFTWARE, KeyInfo, TpmEngine

_AT_A_TIME: Final = 8
"""Of each TPM: chance gives one of them more of what is new than another, and none is to wait for the others often."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The key that an agent is to have."""

    agent: str
    role: str
    suite: Suite
    origin: str


@dataclass(frozen=True, slots=True)
class Provisioned:
    wanted: Wanted
    key: KeyInfo
    made: bool
    seconds: float


def plan(policy: Policy, agents: Iterable[str], *, origin: str, environ: Mapping[str, str]) -> list[Wanted]:
    """What each agent is to have, on a machine whose TPM makes keys of this origin.

    Raises NotPermittedError where an agent's role demands a better place than there is, or may not use the software keystore.
    """
    wanted = []
    refused: dict[str, list[str]] = {}
    for agent in agents:
        role = policy.role_of(agent)
        where = origin if rollout(policy, agent, environ).uses_tpm else SOFTWARE
        if ORIGINS.index(where) < ORIGINS.index(role.key_origin):
            refused.setdefault(f"role {role.name} demands key_origin {role.key_origin}, and {where} is what there is", []).append(
                agent
            )
        wanted.append(Wanted(agent, role.name, role.suite, where))
    if refused:
        agents_refused = [agent for group in refused.values() for agent in group]
        reasons = "; ".join(f"{reason} ({len(group)} agents: {_some(group)})" for reason, group in refused.items())
        raise NotPermittedError(_some(agents_refused), "have its key made here", reasons)
    return wanted


async def provision(engine: TpmEngine, wanted: Sequence[Wanted]) -> AsyncIterator[Provisioned]:
    """Make what is missing, and tell of each in this order: one after the other, with several TPMs some at a time.

    Raises what a key could not be made for, after those that were made beside it.
    """
    before = {info.id for info in await engine.keys()}
    tpms = len((await engine.statistics()).tpms)
    at_a_time = 1 if tpms < 2 else _AT_A_TIME * tpms
    for start in range(0, len(wanted), at_a_time):
        failure: BusError | None = None
        for one in await _made(engine, wanted[start : start + at_a_time], before):
            if isinstance(one, Provisioned):
                yield one
            else:
                failure = failure or one
        if failure is not None:
            raise failure


async def _made(engine: TpmEngine, wanted: Sequence[Wanted], before: Collection[str]) -> list[Provisioned | BusError]:
    made: dict[str, Provisioned | BusError] = {}

    async def make(wish: Wanted) -> None:
        begun = time.perf_counter()
        try:
            key = await engine.create(wish.agent, wish.suite, origin=wish.origin)
        except BusError as error:
            made[wish.agent] = error
        else:
            made[wish.agent] = Provisioned(wish, key, key.id not in before, time.perf_counter() - begun)

    async with create_task_group() as tasks:
        for wish in wanted:
            tasks.start_soon(make, wish)
    return [made[wish.agent] for wish in wanted]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (" .." if len(names) > 4 else "")
