"""A policy that changes while the bus runs: who loses a right is out, who gains one is in, and a mistake changes nothing."""

from __future__ import annotations

import anyio
import pytest
from anyio import to_thread

import bus
from bus.hub import admin
from bus.hub.state import holder_of
from bus.hub.tpm_process import needs_another_service
from bus.policy import load

pytestmark = pytest.mark.anyio
PAINTERS = "worker: {key: ecc256/sha256, publish: [results.>], subscribe: [tasks.>, work.>]"
SHUT_OUT = "worker: {key: ecc256/sha256, publish: [results.>], subscribe: [work.>]"


async def test_who_loses_a_right_is_shut_out_with_the_rule_that_did_it(home):
    async with (
        home.open() as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await lead.publish("tasks.paint", b"the door")
        assert (await anext(tasks)).body == b"the door"
        await to_thread.run_sync(home.change, PAINTERS, SHUT_OUT)
        assert await hub.reload() is True
        with anyio.fail_after(20), pytest.raises(bus.NotPermittedError) as caught:
            await anext(tasks)
        assert caught.value.agent == "PAINTER"
        assert "the broker" not in caught.value.rule
        await lead.publish("tasks.paint", b"nobody hears it")
        await painter.publish("results.painted", b"still allowed")


async def test_a_file_that_changes_is_followed_by_itself(home):
    async with home.open() as hub, hub.agent("PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
        await to_thread.run_sync(home.change, PAINTERS, SHUT_OUT)
        with anyio.fail_after(20), pytest.raises(bus.NotPermittedError):
            await anext(tasks)


async def test_an_agent_of_another_process_hears_of_it_too(home):
    async with home.open() as hub, home.connect(hub.url, agent="PAINTER") as painter, painter.subscribe("tasks.>") as tasks:
        await to_thread.run_sync(home.change, PAINTERS, SHUT_OUT)
        await hub.reload()
        with anyio.fail_after(20), pytest.raises(bus.NotPermittedError):
            await anext(tasks)


async def test_a_wrong_file_is_raised_and_everybody_goes_on(home):
    async with (
        home.open() as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await to_thread.run_sync(home.change, "lead, PAINTER", "nobody, PAINTER")
        with pytest.raises(bus.PolicyError):
            await hub.reload()
        await lead.publish("tasks.paint", b"the door")
        assert (await anext(tasks)).body == b"the door"


async def test_an_agent_that_policy_gains_is_opened_and_one_that_it_loses_is_not(home):
    async with home.open() as hub, hub.agent("LEAD") as lead:
        await to_thread.run_sync(home.change, "CARPENTER: worker", "JOINER: worker")
        await hub.reload()
        async with hub.agent("JOINER") as joiner, joiner.subscribe("tasks.>") as tasks:
            await lead.publish("tasks.join", b"two boards")
            assert (await anext(tasks)).body == b"two boards"
        with pytest.raises(bus.NotPermittedError):
            async with hub.agent("CARPENTER"):
                pass


async def test_the_desk_reloads_too(home):
    async with home.open() as hub, home.open(join=True) as joined:
        assert await joined.reload() is False
        await to_thread.run_sync(home.change, "CARPENTER", "JOINER")
        assert await admin.ask(home.state.admin_socket, "reload") is True
        assert (await admin.ask(home.state.admin_socket, "status"))["policy_version"] == 2
        async with hub.agent("JOINER"):
            pass


async def test_a_tpm_service_that_would_allow_what_policy_forbids_now_is_ended(home):
    """It goes by the policy under which it was started: whoever signs next starts one under this."""

    async def service() -> int:
        return ((await to_thread.run_sync(holder_of, home.state.tpm_lock)) or {}).get("pid", 0)

    async with home.open() as hub, hub.agent("LEAD"):
        before = await service()
        await to_thread.run_sync(home.change, "lead: {", "lead: {uids: [4242], ")
        await hub.reload()
        with anyio.fail_after(60):
            while before in (0, await service()):
                await anyio.lowlevel.checkpoint()
        async with hub.agent("PAINTER"):
            assert await service() not in (0, before)


async def test_an_open_agent_goes_on_with_the_key_that_its_role_wants_now(home):
    async with (
        home.open() as hub,
        hub.agent("LEAD") as lead,
        hub.agent("PAINTER") as painter,
        painter.subscribe("tasks.>") as tasks,
    ):
        await to_thread.run_sync(home.change, "lead: {key: ecc256/sha256", "lead: {key: ecc384/sha3-384")
        await hub.reload()
        with anyio.fail_after(20):
            while True:
                await lead.publish("tasks.paint", b"the door")
                assert (await anext(tasks)).body == b"the door"
                if (await hub.statistics())["host"]["sessions"]["certified"] > 2:
                    break


@pytest.mark.parametrize(
    ("before", "after", "another"),
    {
        "nothing": ("", "", False),
        "what may be said": ("publish: [results.>]", "publish: [results.>, alarms.>]", False),
        "a new agent": ("TWO: worker}", "TWO: worker, THREE: worker}", False),
        "an agent less": (", TWO: worker}", "}", True),
        "an agent's role": ("TWO: worker", "TWO: free", True),
        "where keys may live": ("worker: {", "worker: {key_origin: hardware, ", True),
        "which users may sign": ("worker: {", "worker: {uids: [1000], ", True),
        "the primary key": ("version: 1", "version: 1\ntpm: {handle: 0x81000002}", True),
    }.values(),
    ids=lambda value: str(value)[:20],
)
def test_a_tpm_service_is_replaced_where_it_would_allow_what_policy_does_not(before, after, another):
    text = """
version: 1
agents: {ONE: free, TWO: worker}
roles:
  worker: {key: ecc256/sha256, publish: [results.>]}
  free: {key: ecc256/sha256, key_origin: software}
"""
    assert before in text
    changed = text.replace(before, after) if before else text
    assert needs_another_service(load({"p": text}), load({"p": changed})) is another
