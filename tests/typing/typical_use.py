"""What programs write. It is not run: type checkers are to be quiet about it, and to know what each thing is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, assert_type

import bus
import bus.testing


@dataclass
class Task:
    ref: str
    hurry: bool = False


handlers = bus.Handlers()


@handlers.on("work.build.>", group="builders", durable="builders", concurrency=4)
async def build(message: bus.Message) -> dict[str, Any]:
    assert_type(message.sender, str)
    assert_type(message.position, int | None)
    return {"built": message.body["ref"]}


@handlers.on("tasks.*", decode=Task)
def note(message: bus.Message[Task]) -> None:
    assert_type(message.body, Task)
    assert_type(message.body.hurry, bool)


async def embedded() -> None:
    async with bus.open(agents={"BILLING": "interface"}, listen=["unix:///run/tpmbus/bus.sock"]) as hub:
        assert_type(hub, bus.Hub)
        async with hub.agent("DIRECTOR") as director, hub.agent("MONITOR") as monitor:
            assert_type(director, bus.Agent)
            async with monitor.subscribe("tasks.>") as tasks:
                assert_type(await director.publish("tasks.build", {"ref": "main"}), int | None)
                async for message in tasks:
                    assert_type(message, bus.Message[Any])
                    print(message.sender, message.topic, message.body, message.signed_by, message.headers.get("k"))
                    await message.ack(confirmed=True)
                    break


async def connected() -> None:
    async with bus.connect("tls://bus.example:7000", agent="MONITOR", state="state/", wait=10, give_up=60.0) as monitor:
        assert_type(monitor, bus.Agent)
        reply = await monitor.request("plans.review", {"id": 7}, timeout=2, headers={"k": "v"})
        assert_type(reply.body, Any)
        async for answer in monitor.request_many("plans.review", {"id": 7}, most=3):
            assert_type(answer.error, str | None)


async def readers(agent: bus.Agent) -> None:
    async with agent.subscribe("tasks.*", decode=Task, group="planners", limit=100, overflow="drop_oldest") as tasks:
        assert_type(tasks, bus.Subscription[Task])
        async for message in tasks:
            assert_type(message, bus.Message[Task])
            assert_type(message.body, Task)
            assert_type(message.missed, int)
        async for batch in tasks.batches():
            assert_type(batch, list[bus.Message[Task]])
    async with agent.subscribe("tasks.*", decode=len) as lengths:
        async for message_with_length in lengths:
            assert_type(message_with_length.body, int)
    plain: bus.Subscription = agent.subscribe("tasks.*")
    assert_type(await anext(plain), bus.Message[Any])


async def publishers(agent: bus.Agent) -> None:
    async def bodies() -> AsyncIterator[bytes]:
        yield b"one"

    assert_type(await agent.publish_many("tasks.build", (number for number in range(3))), int)
    assert_type(await agent.publish_many("tasks.build", bodies(), priority="bulk", ttl=0.5), int)
    receipt = await agent.publish_soon("work.build", b"body", id="order 7")
    assert_type(receipt, bus.Receipt)
    assert_type(await receipt.stored(), int)
    agent.publish_nowait("tasks.build", None)
    await agent.publish("work.build", 1, wait="stored")
    await agent.drain()


async def watching(agent: bus.Agent) -> None:
    async for event in agent.events():
        match event:
            case bus.Disconnected(reason):
                assert_type(reason, str)
            case bus.Missed(pattern, messages):
                print(pattern, messages)
            case bus.Connected() | bus.Renewed() | bus.PolicyChanged():
                pass
    async for refusal in agent.refusals():
        assert_type(refusal, bus.Refusal)
        print(refusal.direction, refusal.reason)


async def hooked(agent: bus.Agent) -> None:
    @agent.hooks.publish
    async def shout(context: bus.HookContext, record: bus.Record) -> bus.Record:
        if record.topic.startswith("secrets."):
            raise bus.Drop("not from here")
        return record._replace(headers={**record.headers, "from": context.agent})

    @agent.hooks.deliver(batch=True)
    def only_new(context: bus.HookContext, messages: list[bus.Message]) -> list[bus.Message]:
        return [message.replace(body=None) for message in messages if not message.redelivered]

    agent.hooks.remove(shout)
    agent.hooks.remove(only_new)


async def serving(agent: bus.Agent) -> None:
    @agent.on("alarms.>")
    async def alarm(message: bus.Message) -> None:
        await message.reply("heard")

    async with agent.serving(handlers) as served:
        assert_type(served.failed, int)
    async with agent.serving():
        pass
    await alarm(await anext(agent.subscribe("alarms.>")))


async def failing(agent: bus.Agent) -> None:
    try:
        await agent.publish("control.stop", {})
    except bus.NotPermittedError as error:
        print(error.agent, error.action, error.rule)
    except bus.MessageTooLargeError as error:
        assert_type(error.limit, int)
    except (bus.TrustStaleError, bus.RequestTimeoutError) as error:
        print(error)


async def a_unit_test() -> None:
    clock = bus.testing.ManualClock()
    async with bus.testing.open(policy="policies/", clock=clock) as hub, hub.agent("DIRECTOR") as director:
        assert_type(director, bus.Agent)
        await hub.advance(10)
