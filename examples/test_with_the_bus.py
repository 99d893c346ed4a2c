"""A unit test with a bus in it: in memory, with keys that everybody has, in milliseconds. Run it with pytest."""

import pytest

import bus
import bus.testing


async def greet(agent: bus.Agent, name: str) -> str:
    """What is tested: it asks somebody else on the bus."""
    reply = await agent.request("plans.review", {"name": name}, timeout=1)
    return f"{reply.body}, {name}"


@pytest.mark.anyio
async def test_the_greeting_is_the_reviewers() -> None:
    handlers = bus.Handlers()

    @handlers.on("plans.review", group="reviewers")
    async def review(message: bus.Message) -> str:
        return "welcome" if message.body["name"] == "Ada" else "hello"

    async with bus.testing.open() as hub:
        async with hub.agent("ARCHITECT") as architect, architect.serving(handlers), hub.agent("WEB") as web:
            assert await greet(web, "Ada") == "welcome, Ada"
            assert await greet(web, "Bob") == "hello, Bob"


@pytest.mark.anyio
async def test_nobody_to_ask_is_an_error_and_no_hang() -> None:
    async with bus.testing.open() as hub, hub.agent("WEB") as web:
        with pytest.raises(bus.NoRespondersError):
            await greet(web, "Ada")
