"""What is in force: signed when its files change, stated every five minutes, told to everybody; and a mistake changes nothing."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from homes import POLICY, until
from hub_authority import opened

from bus.errors import PolicyError, VaultError
from bus.hub.in_force import InForce
from bus.hub.state import State
from bus.identity.authority.statements import INTERVAL_SECONDS, RETRY_SECONDS, Statements
from bus.identity.trust_memory import TrustMemory
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio


class Place:
    """A policy file, and what is in force by it."""

    def __init__(self, state: State, folder: Path) -> None:
        self.state, self.clock = state, ManualClock()
        self.policy = folder / "policy.yaml"
        self.told: list[Any] = []
        self.write(POLICY)

    def write(self, text: str) -> None:
        self.policy.write_text(text)

    @asynccontextmanager
    async def opened(self, **agents: str) -> AsyncIterator[InForce]:
        async with opened(self.state, self.clock) as authority:
            memory = await to_thread.run_sync(TrustMemory, self.state.trust)
            found = InForce(authority, memory, policy=self.policy, agents=agents, clock=self.clock)
            found.followers.append(self.told.append)
            await found.begin()
            self.authority = authority
            yield found

    @asynccontextmanager
    async def running(self, **agents: str) -> AsyncIterator[InForce]:
        async with self.opened(**agents) as found, anyio.create_task_group() as tasks:
            tasks.start_soon(found.run)
            yield found
            tasks.cancel_scope.cancel()

    async def pass_time(self, seconds: float, *, until_so: Callable[[], bool]) -> None:
        """A second after the other, until something is so. None passes while one of the two that look now and then is at work."""
        for _ in range(round(seconds)):
            await until(lambda: len(self.clock._sleepers) == 2)
            self.clock.advance(1)
            for _ in range(20):
                await checkpoint()
        await until(until_so)


@pytest.fixture
def place(state: State, tmp_path: Path) -> Place:
    return Place(state, tmp_path)


def numbers(place: Place) -> list[int]:
    return [snapshot.trust.statement.number for snapshot in place.told]


# ---- at open -------------------------------------------------------------------------------------------------------------------


async def test_at_open_the_policy_is_signed_and_stated(place):
    async with place.opened(BILLING="worker") as found:
        assert found.policy.agents["BILLING"] == "worker"
        statement = found.snapshot.trust.statement
        assert statement.policy_version == 1
        assert place.told == [found.snapshot]


async def test_again_nothing_is_signed_nor_stated_for_five_minutes(place):
    async with place.opened() as found:
        first = found.snapshot.trust.statement
    place.clock.advance(INTERVAL_SECONDS - 1)
    async with place.opened() as found:
        assert found.snapshot.trust.statement.number == first.number
    place.clock.advance(1)
    async with place.opened() as found:
        later = found.snapshot.trust.statement
    assert (later.number > first.number, later.policy_version) == (True, 1)


async def test_what_changed_while_nobody_ran_is_signed(place):
    async with place.opened(BILLING="worker"):
        pass
    place.policy.write_text(POLICY.replace("CARPENTER", "JOINER"))
    async with place.opened() as found:
        assert {"JOINER", "BILLING"} < set(found.policy.agents)
        assert found.snapshot.trust.statement.policy_version == 2


async def test_a_mistake_in_the_files_is_raised_at_open(place):
    place.write("version: 1\nnonsense: 1\n")
    with pytest.raises(PolicyError):
        async with place.opened():
            pass


# ---- changes -------------------------------------------------------------------------------------------------------------------


async def test_reload_signs_what_the_files_say_now_and_says_whether_that_is_new(place):
    async with place.opened() as found:
        assert await found.reload() is False
        place.write(POLICY.replace("CARPENTER", "JOINER"))
        assert await found.reload() is True
        assert "JOINER" in found.policy.agents
        assert len(place.told) == 2


async def test_a_wrong_file_is_raised_by_reload_and_the_old_policy_stays(place):
    async with place.opened() as found:
        before = found.snapshot
        for wrong in ("version: 1\nnonsense: 1\n", POLICY.replace("tpmbus.test", "elsewhere.test")):
            place.write(wrong)
            with pytest.raises(PolicyError):
                await found.reload()
        assert found.snapshot is before


async def test_an_agent_can_join_while_the_files_are_wrong(place):
    async with place.opened() as found:
        place.write("nonsense")
        assert await found.join({"BILLING": "worker"}) is True
        assert found.policy.agents["BILLING"] == "worker"
        with pytest.raises(PolicyError):
            await found.join({"OTHER": "nobody"})
        place.write(POLICY)
        assert await found.join({"BILLING": "worker"}) is False


async def test_what_the_authority_does_besides_is_stated(place):
    async with place.opened() as found:
        await found.settle()
        assert len(place.told) == 1
        await found.settle(lambda: place.authority.end_sessions("LEAD"))
        assert place.told[1].trust.sessions_not_before_ms("LEAD") == place.clock.now_ms()


async def test_a_host_of_this_process_knows_before_the_broker_does(place):
    async with place.opened() as found:
        heard: list[Any] = []

        async def hear(documents: Any) -> None:
            await checkpoint()
            heard.append((documents is found.documents, len(place.told)))

        found.first.append(hear)
        place.write(POLICY.replace("CARPENTER", "JOINER"))
        await found.reload()
        assert (heard, len(place.told)) == ([(True, 1)], 2)


# ---- now and then --------------------------------------------------------------------------------------------------------------


async def test_a_statement_is_issued_every_five_minutes(place):
    async with place.running():
        await place.pass_time(INTERVAL_SECONDS - 1, until_so=lambda: True)
        assert len(place.told) == 1
        for count in (2, 3):
            await place.pass_time(INTERVAL_SECONDS, until_so=lambda count=count: len(place.told) == count)
        assert numbers(place) == sorted(set(numbers(place)))


async def test_a_changed_file_is_in_force_within_seconds(place):
    async with place.running() as found:
        place.write(POLICY.replace("CARPENTER", "JOINER"))
        await place.pass_time(3, until_so=lambda: "JOINER" in found.policy.agents)
        assert not found.failures


async def test_another_file_in_its_place_is_followed_though_it_is_as_old_and_as_long(place):
    """As a tool leaves it that keeps times."""

    def put() -> None:
        before, other = place.policy.stat(), place.policy.with_name("other")
        other.write_text(POLICY.replace("CARPENTER", "JOINERMAN"))
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert other.stat().st_size == before.st_size
        other.replace(place.policy)

    async with place.running() as found:
        looked = found._stamps
        await place.pass_time(3, until_so=lambda: found._stamps != looked)  # the first time it reads what it has read
        await to_thread.run_sync(put)
        await place.pass_time(3, until_so=lambda: "JOINERMAN" in found.policy.agents)


async def test_a_wrong_file_is_said_once_and_is_in_force_when_it_is_right(place, caplog):
    async with place.running() as found:
        place.write("version: 1\nnonsense: 1\n")
        await place.pass_time(3, until_so=lambda: "policy" in found.failures)
        await place.pass_time(10, until_so=lambda: True)
        assert len([line for line in caplog.messages if "policy" in line]) == 1
        assert found.policy.agents["CARPENTER"] == "worker"
        place.write(POLICY.replace("CARPENTER", "JOINER"))
        await place.pass_time(3, until_so=lambda: "JOINER" in found.policy.agents)
        await until(lambda: not found.failures)


async def test_a_file_that_is_put_right_and_reloaded_by_hand_is_wrong_no_more(place):
    async with place.running() as found:
        place.write("version: 1\nnonsense: 1\n")
        await place.pass_time(3, until_so=lambda: "policy" in found.failures)
        place.write(POLICY)
        assert await found.reload() is False
        assert not found.failures


async def test_a_file_that_is_gone_leaves_its_policy_in_force(place):
    async with place.running() as found:
        place.policy.unlink()
        await place.pass_time(3, until_so=lambda: "policy" in found.failures)
        assert found.policy.agents["CARPENTER"] == "worker"


async def test_a_roster_beside_the_policy_is_watched_too(place, tmp_path):
    roster = tmp_path / "roster.yaml"
    roster.write_text("version: 1\nagents: {LEAD: lead}\n")
    place.write(POLICY.replace("agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}", "agents: roster.yaml"))
    async with place.running() as found:
        roster.write_text("version: 1\nagents: {LEAD: lead, JOINER: worker}\n")
        await place.pass_time(3, until_so=lambda: "JOINER" in found.policy.agents)


async def test_a_statement_that_fails_is_tried_again_soon(place, monkeypatch):
    tries = []

    def full(self: Any) -> None:
        tries.append(self)
        raise VaultError("disk_full", "no room", path="statement.bin")

    async with place.running() as found:
        with monkeypatch.context() as broken:
            broken.setattr(Statements, "issue", full)
            await place.pass_time(INTERVAL_SECONDS, until_so=lambda: "statement" in found.failures)
            await place.pass_time(RETRY_SECONDS - 1, until_so=lambda: True)
        assert (len(tries), len(place.told)) == (1, 1)
        await place.pass_time(RETRY_SECONDS, until_so=lambda: len(place.told) == 2)
        assert not found.failures
