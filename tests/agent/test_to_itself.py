"""An agent that listens to what it says itself is a reader like any other, also where it is the only one."""

from __future__ import annotations

import anyio
import pytest

import bus.testing

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("others", [(), ("WEB",)], ids=["alone", "with another"])
async def test_an_agent_hears_itself(others):
    async with bus.testing.open() as hub, hub.agent("LIBRARIAN") as librarian, librarian.subscribe("summaries.>") as own:
        async with anyio.create_task_group() as tasks:
            for name in others:
                await tasks.start(listen, hub, name)
            await librarian.publish("summaries.hour", {"number": 1})
            with anyio.fail_after(30):
                message = await anext(own)
            assert (message.sender, message.body) == ("LIBRARIAN", {"number": 1})
            tasks.cancel_scope.cancel()


async def listen(hub, name, *, task_status):
    async with hub.agent(name) as agent, agent.subscribe("summaries.>") as summaries:
        task_status.started()
        async for _ in summaries:
            pass


async def test_an_agent_can_ask_a_group_of_which_it_is_the_only_one():
    handlers = bus.Handlers()

    @handlers.on("plans.review", group="reviewers")
    async def review(message: bus.Message) -> str:
        return f"{message.sender} approves"

    async with bus.testing.open() as hub, hub.agent("ARCHITECT") as architect, architect.serving(handlers):
        with anyio.fail_after(30):
            reply = await architect.request("plans.review", {"id": 7})
        assert (reply.sender, reply.body) == ("ARCHITECT", "ARCHITECT approves")
