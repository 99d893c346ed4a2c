"""Hosts that were away for longer than trust lasts, or whose clock was wrong, or one of whose agents is not wanted any more."""

from __future__ import annotations

from typing import Any

import pytest
from agent_scenes import POLICY, inside, rest, scene, soon

from bus.errors import ConnectError, RevokedError, VerificationError

pytestmark = pytest.mark.anyio
HOUR = 3_600


async def no_broker() -> Any:
    raise ConnectError("nobody there")


async def pass_by(hub: Any, seconds: float, *, step: float = 300) -> None:
    """Time, in larger steps than links are watched by."""
    while seconds > 0:
        hub.clock.advance(min(seconds, step))
        seconds -= step
        await hub.settle()


class Asleep:
    """A host whose broker is out of reach meanwhile."""

    def __init__(self, hub: Any, host: Any, made: Any) -> None:
        self._hub, self._host, self._connection = hub, host, made.connection

    async def __aenter__(self) -> None:
        self._dial, self._connection._dial = self._connection._dial, no_broker
        self._host.disconnect()
        await self._hub.settle()

    async def __aexit__(self, *_: object) -> None:
        self._connection._dial = self._dial


# ---- asleep ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changed", ["nothing", "policy", "revocations"])
async def test_who_slept_past_the_end_of_trust_comes_back_by_itself(changed: str):
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>") as tasks:
        host = hub.host()
        async with host.agent("LEAD") as lead, lead.subscribe("results.>") as results:
            await lead.publish("tasks.a", 1)
            assert await rest(hub, tasks) == [1]
            async with Asleep(hub, host, inside(lead)):
                await pass_by(hub, 2.5 * HOUR)
                assert inside(lead).sessions.statistics()["valid"] == 0
                if changed == "policy":
                    await hub.change_policy(POLICY.replace("open.>", "opened.>"))
                elif changed == "revocations":
                    hub.revoke("MASON")
            await hub.advance(90)
            assert inside(lead).is_connected
            await lead.publish("tasks.a", 2)
            await painter.publish("results.a", 3)
            assert await rest(hub, tasks) == [2]
            assert await rest(hub, results) == [3]


async def test_what_it_hears_before_it_can_prove_itself_is_not_what_it_judges_by():
    async with scene("PAINTER") as (hub, _):
        host = hub.host()
        async with host.agent("LEAD") as lead:
            made = inside(lead)
            before = made.keyring.snapshot.trust.statement
            async with Asleep(hub, host, made):
                await pass_by(hub, 2.5 * HOUR)
            made.trusting.part = lambda *_: None  # as if the broker kept it to itself
            await hub.advance(60)
            assert made.sessions.statement().number > before.number
            assert made.keyring.snapshot.trust.statement is before
            assert made._memory.highest.number == before.number
            with pytest.raises(VerificationError) as caught:
                made.keyring.snapshot.judged_at(made.keyring.now_ms())
            assert caught.value.reason == "trust_stale"


# ---- one of several ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["PAINTER", "LEAD"])
async def test_an_agent_whose_papers_are_refused_is_put_off_and_the_others_of_its_host_go_on(first: str):
    async with scene("SECOND") as (hub, second), second.subscribe("tasks.>") as tasks:
        host = hub.host()
        other = "LEAD" if first == "PAINTER" else "PAINTER"
        opened = {name: await host.agent(name).__aenter__() for name in (first, other)}
        async with Asleep(hub, host, inside(opened["LEAD"])):
            hub.revoke("PAINTER")
            await hub.settle()
        await hub.advance(10)
        with pytest.raises(RevokedError):
            await opened["PAINTER"].publish("results.a", 1)
        await opened["LEAD"].publish("tasks.a", 2)
        assert await rest(hub, tasks) == [2]
        await opened["LEAD"].aclose()


async def test_who_was_revoked_while_it_was_away_is_told_so():
    async with scene("SECOND") as (hub, _):
        host = hub.host()
        async with host.agent("PAINTER") as painter:
            async with Asleep(hub, host, inside(painter)):
                hub.revoke("PAINTER")
                await hub.settle()
            await hub.advance(10)
            with pytest.raises(RevokedError) as caught:
                await painter.publish("results.a", 1)
            assert caught.value.agent == "PAINTER"


async def test_a_renewal_that_is_refused_costs_the_link_nothing_and_is_told():
    async with scene("SECOND") as (hub, second), second.subscribe("tasks.>") as tasks:
        host = hub.host()
        async with host.agent("LEAD") as lead:
            made = inside(lead)
            refusals = lead.refusals()
            made._heard.refused("unverified", made.sessions.held["LEAD"].id)
            refusal = await soon(anext(refusals))
            assert (refusal.agent, refusal.reason) == ("LEAD", "unverified")
            await lead.publish("tasks.a", 1)
            assert await rest(hub, tasks) == [1]


# ---- clocks ----------------------------------------------------------------------------------------------------------------------


class Skewed:
    """A clock whose date is wrong by so much."""

    def __init__(self, clock: Any) -> None:
        self._clock, self.wrong_by = clock, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clock, name)

    def now_ms(self) -> int:
        return int(self._clock.now_ms() + self.wrong_by * 1_000)


@pytest.mark.parametrize("wrong_by", [HOUR, 20 * 60, -HOUR], ids=["an hour ahead", "twenty minutes ahead", "an hour behind"])
@pytest.mark.parametrize("lost", [False, True], ids=["", "its link is lost meanwhile"])
async def test_a_host_whose_clock_was_wrong_goes_on_as_soon_as_it_is_right(wrong_by: float, lost: bool):
    async with scene("PAINTER") as (hub, painter), painter.subscribe("tasks.>") as tasks:
        host, skewed = hub.host(), Skewed(hub.clock)
        right, hub._world.clock = hub.clock, skewed
        async with host.agent("LEAD") as lead, lead.subscribe("results.>") as results:
            hub._world.clock = right
            await lead.publish("tasks.a", 1)
            await painter.publish("results.a", 1)
            assert await rest(hub, tasks) == await rest(hub, results) == [1]
            skewed.wrong_by = wrong_by
            await hub.advance(20)
            if lost:
                host.disconnect()
            await hub.advance(20)
            await painter.publish("results.a", "unheard, or heard in time")
            await hub.settle()
            skewed.wrong_by = 0.0
            await hub.advance(80 if lost else 20)
            assert await rest(hub, results) in ([], ["unheard, or heard in time"])
            await lead.publish("tasks.a", 2)
            await painter.publish("results.a", 2)
            assert await rest(hub, tasks) == [2]
            assert await rest(hub, results) == [2]
