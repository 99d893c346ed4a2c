"""Upkeep: what was renewed takes the place of the old, and what fails is tried again in an hour."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from homes import until

import bus.testing
from bus.errors import TpmUnavailableError
from bus.hub.agent_papers import Openable
from bus.hub.upkeep import LOOK_SECONDS, Upkeep
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio
POLICY = """
version: 1
agents: {LEAD: lead, PAINTER: lead}
roles: {lead: {key: ecc256/sha256, publish: [tasks.>], subscribe: [tasks.>]}}
"""


class Keeper:
    """A host in memory, and papers that a test changes."""

    def __init__(self, host: Any) -> None:
        self.host, self.clock = host, ManualClock()
        self.minutes = dict.fromkeys(host.agents, 15)
        self.asked: Counter[str] = Counter()
        self.fails: set[str] = set()

    async def papers_of(self, name: str) -> Any:
        self.asked[name] += 1
        if name in self.fails:
            raise TpmUnavailableError("no_tpm", "it is away")
        holder = replace(self.host.sessions.holders[name], session_ms=self.minutes[name] * 60_000)
        return Openable(holder, SimpleNamespace(certificate=b""))  # type: ignore[arg-type]  # nobody asks for more of it

    async def besides(self) -> None:
        self.asked["besides"] += 1

    def lifetimes(self) -> dict[str, float]:
        return {name: session.seconds / 60 for name, session in self.host.sessions.held.items()}

    async def pass_an_hour(self) -> None:
        before = self.asked["besides"]
        self.clock.advance(LOOK_SECONDS)
        await until(lambda: self.asked["besides"] > before)
        for _ in range(50):
            await checkpoint()


@asynccontextmanager
async def kept() -> AsyncIterator[tuple[Keeper, Upkeep]]:
    async with bus.testing.open(policy=POLICY) as hub, hub.agent("LEAD"), hub.agent("PAINTER"):
        (host,) = {agent_host for agent_host in [hub._here._made] if agent_host is not None}
        keeper = Keeper(host)
        upkeep = Upkeep(host, keeper.papers_of, besides=keeper.besides, clock=keeper.clock)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(upkeep.run)
            for _ in range(5):
                await checkpoint()
            yield keeper, upkeep
            tasks.cancel_scope.cancel()


async def test_what_is_still_good_stays_as_it_is():
    async with kept() as (keeper, _):
        before = dict(keeper.host.sessions.held)
        await keeper.pass_an_hour()
        assert keeper.asked == {"LEAD": 1, "PAINTER": 1, "besides": 1}
        assert dict(keeper.host.sessions.held) == before


async def test_another_certificate_takes_the_place_of_the_old():
    async with kept() as (keeper, _):
        keeper.minutes["LEAD"] = 5
        await keeper.pass_an_hour()
        assert keeper.lifetimes() == {"LEAD": 5, "PAINTER": 15}


async def test_what_fails_is_said_and_tried_again_and_keeps_nobody_else(caplog):
    async with kept() as (keeper, _):
        keeper.fails = {"LEAD"}
        keeper.minutes |= {"LEAD": 5, "PAINTER": 6}
        await keeper.pass_an_hour()
        assert keeper.lifetimes() == {"LEAD": 15, "PAINTER": 6}
        assert "LEAD" in caplog.text
        keeper.fails = set()
        await keeper.pass_an_hour()
        assert keeper.lifetimes() == {"LEAD": 5, "PAINTER": 6}


async def test_another_policy_is_followed_at_once_and_another_statement_is_not():
    async with kept() as (keeper, upkeep):
        snapshot = keeper.host.keyring.snapshot
        upkeep.follow(replace(snapshot, trust=snapshot.trust))
        for _ in range(20):
            await checkpoint()
        assert not keeper.asked
        upkeep.follow(replace(snapshot, policy=replace(snapshot.policy)))
        await until(lambda: keeper.asked["PAINTER"] == 1)
