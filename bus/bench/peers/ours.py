"""tpmbus itself, as people use it: hub, sender and reader in processes of their own over Unix sockets, by the default policy.

Every message is signed, sealed for its readers, verified, judged by policy, counted. Agents, keys and papers are made at the first
opening, on a software TPM of the run's own folder; that is not measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio

import bus
from bus.bench.peers.contender import FAN_OUT, Address, Ask, Contender, Secured, Send, Take

if TYPE_CHECKING:
    from bus.agent.agent import Agent
    from bus.agent.subscription import Subscription

TOPIC: Final = "tasks.build"
ASKED: Final = "plans.review"
KEPT: Final = "work.test.linux"
IN_FLIGHT: Final = 500
CROWD: Final = {f"READER{number}": "operations" for number in range(FAN_OUT)}


@asynccontextmanager
async def serve(address: Address) -> AsyncIterator[Address]:
    from bus.hub.state import open_state  # late: workers of other buses need none of it
    from bus.hub.tpm_process import stop_service

    state = str(Path(address["folder"]) / "state")
    try:
        async with bus.open(state=state, agents=CROWD) as hub:
            yield {"state": state, "url": hub.url}
    finally:
        with anyio.CancelScope(shield=True):
            await stop_service(open_state(Path(state)))


@asynccontextmanager
async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        if len(takes) == 1:
            agents = [await stack.enter_async_context(_agent(address, "MONITOR"))]
        else:
            hub = await stack.enter_async_context(bus.open(state=address["state"], agents=CROWD, join=True))
            agents = [await stack.enter_async_context(hub.agent(name)) for name in list(CROWD)[: len(takes)]]
        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        for agent, take in zip(agents, takes, strict=True):
            group.start_soon(_read, await stack.enter_async_context(agent.subscribe("tasks.>")), take)
        yield


async def _read(subscription: Subscription, take: Take) -> None:
    async for message in subscription:
        take(message.data)


@asynccontextmanager
async def send(address: Address) -> AsyncIterator[Send]:
    async with _agent(address, "DIRECTOR") as agent:
        publish = agent.publish

        async def one_by_one(bodies: Iterable[bytes]) -> None:
            for body in bodies:
                await publish(TOPIC, body)

        yield one_by_one


@asynccontextmanager
async def send_many(address: Address) -> AsyncIterator[Send]:
    async with _agent(address, "DIRECTOR") as agent:

        async def together(bodies: Iterable[bytes]) -> None:
            await agent.publish_many(TOPIC, bodies)

        yield together


@asynccontextmanager
async def answer(address: Address) -> AsyncIterator[None]:
    async with (
        _agent(address, "MONITOR") as agent,
        agent.subscribe(ASKED) as requests,
        anyio.create_task_group() as group,
    ):
        group.start_soon(_answer, requests)
        yield
        group.cancel_scope.cancel()


async def _answer(requests: Subscription) -> None:
    async for request in requests:
        await request.reply(request.data)


@asynccontextmanager
async def ask(address: Address) -> AsyncIterator[Ask]:
    async with _agent(address, "DIRECTOR") as agent:

        async def ask_one(body: bytes) -> bytes:
            return (await agent.request(ASKED, body)).data

        yield ask_one


@asynccontextmanager
async def read_kept(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    async with (
        _agent(address, "TESTBED") as agent,
        agent.subscribe("work.test.>", durable=address["run"]) as work,
        anyio.create_task_group() as group,
    ):
        group.start_soon(read_each_kept, work, takes[0])
        yield
        group.cancel_scope.cancel()


async def read_each_kept(work: Subscription, take: Take) -> None:
    async for message in work:
        take(message.data)
        await message.ack()


@asynccontextmanager
async def send_kept(address: Address) -> AsyncIterator[Send]:
    async with _agent(address, "ARCHITECT") as agent, with_receipts(agent, KEPT) as stored:
        yield stored


@asynccontextmanager
async def with_receipts(agent: Agent, topic: str) -> AsyncIterator[Send]:
    """`publish_soon` and its receipts: the oldest is waited for when so many are under way."""
    receipts: deque[bus.Receipt] = deque()

    async def one_by_one(bodies: Iterable[bytes]) -> None:
        for body in bodies:
            if len(receipts) == IN_FLIGHT:
                await receipts.popleft().stored()
            receipts.append(await agent.publish_soon(topic, body))

    yield one_by_one
    while receipts:
        await receipts.popleft().stored()


def _agent(address: Address, name: str) -> AbstractAsyncContextManager[Agent]:
    return bus.connect(address["url"], agent=name, state=address["state"])


TPMBUS: Final = Contender(
    name="tpmbus",
    title="tpmbus, publish",
    secured=Secured(
        signed="each message",
        encrypted="yes",
        tpm="yes",
        policy="yes",
        loss="yes",
    ),
    uses="publish in a loop of one task; async for; Unix sockets, a broker",
    install="pip install tpmbus",
    serve=serve,
    read=read,
    send=send,
    answer=answer,
    ask=ask,
    read_kept=read_kept,
    send_kept=send_kept,
)

TPMBUS_MANY: Final = replace(
    TPMBUS,
    name="tpmbus-many",
    title="tpmbus, publish_many",
    uses="publish_many; async for; Unix sockets, a broker",
    cannot={"reqrep": "a request goes by itself", "durable": "receipts are of single messages"},
    send=send_many,
)
