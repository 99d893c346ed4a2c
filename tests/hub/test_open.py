"""A hub, opened: agents talk, names are known or refused with what to do, and whoever leaves leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio import to_thread
from anyio.lowlevel import checkpoint
from homes import Home

import bus
from bus.hub.state import holder_of
from bus.identity.public_trust import read_public

pytestmark = pytest.mark.anyio


async def public(home: Home) -> Any:
    return await to_thread.run_sync(read_public, home.state.trust / "public")


# ---- opened --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [str, Path])
async def test_the_policy_may_be_named_by_a_text_or_a_path_from_where_we_stand(home, kind, monkeypatch):
    """And is looked for in a worker thread: the file system may be slow. The TPM service, another process, means the same."""
    monkeypatch.chdir(home.policy.parent)
    async with home.open(policy=kind("policy.yaml")):
        assert holder_of(home.state.hub_lock)["policy"] == str(home.policy)


async def test_two_agents_talk(home):
    async with (
        home.open() as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await lead.publish("tasks.paint", {"what": "the door"})
        message = await anext(tasks)
    assert (message.sender, message.topic, message.body, message.signed_by) == (
        "LEAD", "tasks.paint", {"what": "the door"}, "session",
    )  # fmt: skip


async def test_only_agents_that_are_opened_have_a_key_and_a_certificate(home):
    async with home.open() as hub, hub.agent("LEAD"):
        pass
    found = await public(home)
    assert [one.name for one in found.agents] == ["LEAD"]
    async with home.open() as hub, hub.agent("LEAD"):
        pass
    assert (await public(home)).agents == found.agents


async def test_from_nothing_with_a_software_tpm_of_its_own(nothing, swtpm_folder):
    home = nothing
    await to_thread.run_sync(swtpm_folder.rename, home.state.swtpm)  # made before, to save two seconds
    async with (
        home.open(tpm=None) as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await lead.publish("tasks.paint", b"the door")
        assert (await anext(tasks)).body == b"the door"
    assert {one.name: one.origin for one in (await public(home)).agents} == {"LEAD": "software-tpm", "PAINTER": "software-tpm"}


@pytest.mark.parametrize("wrong", [{"agents": {"BILLING": "nobody"}}, {"agents": {"LEAD": "worker"}}, {"policy": "no-such-policy"}])
async def test_what_is_wrong_with_the_policy_is_said_before_anything_is_made(nothing, wrong):
    with pytest.raises(bus.PolicyError):
        async with nothing.open(**wrong):
            pass
    assert [path.name for path in nothing.folder.iterdir()] == ["run"]


async def test_a_policy_of_another_domain_is_refused(home):
    await to_thread.run_sync(home.change, "tpmbus.test", "elsewhere.test")
    with pytest.raises(bus.VaultError) as caught:
        async with home.open():
            pass
    assert caught.value.code == "wrong_domain"


# ---- names ---------------------------------------------------------------------------------------------------------------------


async def test_an_unknown_name_is_refused_with_both_ways_to_add_it(home):
    async with home.open() as hub:
        with pytest.raises(bus.NotPermittedError) as caught:
            async with hub.agent("BILLING"):
                pass
    assert caught.value.agent == "BILLING"
    assert "agents:" in caught.value.rule
    assert "agents=" in caught.value.rule


async def test_names_that_are_added_are_agents_like_others_and_stay(home):
    async with (
        home.open(agents={"BILLING": "worker"}) as hub,
        hub.agent("BILLING") as billing,
        hub.agent("LEAD") as lead,
        billing.subscribe("tasks.>") as tasks,
    ):
        await lead.publish("tasks.pay", 7)
        assert (await anext(tasks)).body == 7
    async with home.open() as hub, hub.agent("BILLING"):
        pass


async def test_where_policy_has_a_role_for_whoever_comes_a_name_joins_when_it_is_opened(home):
    await to_thread.run_sync(home.change, "CARPENTER: worker}", "'*': worker}")
    async with home.open() as hub, hub.agent("LEAD") as lead, AsyncExitStack() as stack:
        heard = []
        for name in ("ANYBODY", "NOBODY"):
            agent = await stack.enter_async_context(hub.agent(name))
            heard.append(await stack.enter_async_context(agent.subscribe("tasks.>")))
        await lead.publish("tasks.sit", b"down")
        assert [(await anext(one)).body for one in heard] == [b"down", b"down"]
    assert {"ANYBODY", "NOBODY"} <= set((await public(home)).bundle.policy().agents)


async def test_an_agent_is_open_once(home):
    async with home.open() as hub, hub.agent("LEAD"):
        with pytest.raises(bus.LocalProtocolError):
            async with hub.agent("LEAD"):
                pass
    async with home.open() as hub:
        for _ in range(2):
            async with hub.agent("LEAD"):
                pass


# ---- leaving -------------------------------------------------------------------------------------------------------------------


async def test_the_bodys_exception_passes_as_it_is_from_inside_of_everything(home):
    with pytest.raises(ZeroDivisionError):
        async with home.open() as hub, hub.agent("LEAD") as lead, lead.subscribe("results.>"):
            print(1 / 0)


@pytest.mark.both_loops
async def test_agents_are_left_in_any_order_and_from_any_task(home):
    async with home.open() as hub:
        openings = [hub.agent(name) for name in ("LEAD", "PAINTER", "CARPENTER")]
        lead, painter, carpenter = [await one.__aenter__() for one in openings]
        await openings[0].__aexit__(None, None, None)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(openings[1].__aexit__, None, None, None)
        for closed in (lead, painter):
            with pytest.raises(bus.ClosedError):
                await closed.publish("results.x", b"")
        await carpenter.publish("results.x", b"still here")
        await openings[2].__aexit__(None, None, None)


async def test_who_leaves_in_peace_has_said_what_it_published(home):
    async with home.open() as hub, hub.agent("PAINTER") as painter, painter.subscribe("tasks.>", limit=2_000) as tasks:
        async with hub.agent("LEAD") as lead:
            for number in range(1_000):
                await lead.publish("tasks.count", number)
        assert [(await anext(tasks)).body for _ in range(1_000)] == list(range(1_000))


async def test_it_works_in_a_stack(home):
    async with AsyncExitStack() as stack:
        hub = await stack.enter_async_context(home.open())
        lead = await stack.enter_async_context(hub.agent("LEAD"))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        tasks.start_soon(lead.publish, "tasks.x", b"")


@pytest.fixture
async def a_hub(home: Home, anyio_backend: Any) -> AsyncIterator[bus.Hub]:
    async with home.open() as hub:
        yield hub


async def test_it_works_in_a_fixture(a_hub):
    async with a_hub.agent("LEAD") as lead:
        await lead.publish("tasks.x", b"")


async def test_nothing_is_left_listening(home):
    async with home.open() as hub:
        assert hub.url == f"unix://{home.state.bus_socket}"
        assert home.state.bus_socket.exists()
        assert home.state.admin_socket.exists()
    assert not home.state.bus_socket.exists()
    assert not home.state.admin_socket.exists()


@pytest.mark.both_loops
async def test_cancelled_at_any_moment_it_leaves_the_folder_free(home):
    """While it opens, while an agent does, while it closes."""

    async def live() -> None:
        async with home.open() as hub, hub.agent("LEAD") as lead:
            await lead.publish("tasks.x", b"")

    for turns in (0, 1, 10, 100, 300, 1_000, 3_000):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(live)
            for _ in range(turns):
                await checkpoint()
            tasks.cancel_scope.cancel()
        assert not home.state.bus_socket.exists()
        assert await to_thread.run_sync(holder_of, home.state.hub_lock) is None
    await live()


# ---- one at a time -------------------------------------------------------------------------------------------------------------


async def test_a_second_hub_in_one_folder_hears_who_has_it_and_where(home):
    async with home.open() as hub:
        with pytest.raises(bus.StateInUseError) as caught:
            async with home.open():
                pass
    assert (caught.value.pid, caught.value.url) == (os.getpid(), hub.url)
    async with home.open():
        pass


async def test_who_joins_is_part_of_the_bus_that_runs(home):
    async with home.open() as hub, home.open(join=True) as joined:
        assert joined.url == hub.url
        async with hub.agent("LEAD") as lead, joined.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.paint", b"the door")
            assert (await anext(tasks)).body == b"the door"
        assert (await joined.statistics())["broker"]


async def test_who_joins_where_nothing_runs_opens_a_hub(home):
    async with home.open(join=True) as hub, hub.agent("LEAD") as lead:
        await lead.publish("tasks.x", b"")
