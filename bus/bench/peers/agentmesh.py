"""The message bus of Microsoft's agent toolkit (agentmesh-message-bus): its in-memory broker, which has no processes.

So sender and reader share one process, and nothing is carried anywhere; bodies are values of a dict. The queue is as long as the
window, so that its back-pressure (a sleep of 10 ms) does not come into it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from bus.bench.peers.contender import Address, Ask, Contender, Secured, Send, Take

if TYPE_CHECKING:
    from amb_core import MessageBus
    from amb_core.models import Message

TOPIC: Final = "tasks.build"
ASKED: Final = "plans.review"
QUEUE: Final = 1 << 17


@asynccontextmanager
async def _shared(address: Address) -> AsyncIterator[MessageBus]:
    """Of this process: whoever came first has made it."""
    from amb_core import MessageBus
    from amb_core.memory_broker import InMemoryBroker

    if "_bus" in address:
        yield address["_bus"]
        return
    async with MessageBus(adapter=InMemoryBroker(max_queue_size=QUEUE)) as shared:
        address["_bus"] = shared
        yield shared


@asynccontextmanager
async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    async with _shared(address) as shared:
        for take in takes:
            await shared.subscribe(TOPIC, _calling(take))
        yield


def _calling(take: Take) -> Any:
    async def call(message: Message) -> None:
        take(message.payload["data"])

    return call


@asynccontextmanager
async def send(address: Address) -> AsyncIterator[Send]:
    async with _shared(address) as shared:
        publish = shared.publish

        async def one_by_one(bodies: Iterable[bytes]) -> None:
            for body in bodies:
                await publish(TOPIC, {"data": body})

        yield one_by_one


@asynccontextmanager
async def answer(address: Address) -> AsyncIterator[None]:
    async with _shared(address) as shared:

        async def give_back(message: Message) -> None:
            await shared.reply(message, message.payload)

        await shared.subscribe(ASKED, give_back)
        yield


@asynccontextmanager
async def ask(address: Address) -> AsyncIterator[Ask]:
    async with _shared(address) as shared:

        async def ask_one(body: bytes) -> bytes:
            data: bytes = (await shared.request(ASKED, {"data": body}, timeout=5)).payload["data"]
            return data

        yield ask_one


AGENTMESH: Final = Contender(
    name="agentmesh",
    title="agentmesh-message-bus",
    secured=Secured(signed="no", encrypted="no", tpm="no", policy="no", loss="no"),
    uses="publish in a loop, subscribe(handler), request; in memory, sender and reader in one process",
    install="pip install --no-deps agentmesh-message-bus 'aiofiles<24' (by itself it wants anyio 3, which tpmbus cannot use; "
    "it never imports it)",
    modules=("amb_core", "aiofiles"),
    distribution="agentmesh-message-bus",
    cannot={"durable": "its stores are beside the queue: no reader acknowledges"},
    alone=True,
    read=read,
    send=send,
    answer=answer,
    ask=ask,
)
