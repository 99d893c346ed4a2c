"""NATS: nats-py and a nats-server that the harness starts, in plaintext on this machine, as its own tools measure it.

Callbacks, because its async iterator is several times slower. JetStream stores in files; unless told otherwise its server
acknowledges before a sync (every two minutes there is one), which the table says. `nats_synced` tells it otherwise.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio import to_thread

from bus.bench.peers.contender import Address, Ask, Contender, Secured, Send, Take
from bus.bench.programs import NATS_SERVER, program
from bus.errors import ConnectError

if TYPE_CHECKING:
    from anyio.abc import Process
    from nats.aio.client import Client
    from nats.aio.msg import Msg

TOPIC: Final = "tasks.build"
ASKED: Final = "plans.review"
IN_FLIGHT: Final = 500
STORE: Final = "jetstream"
"""Where its files are, in its folder."""
START_SECONDS: Final = 10.0
LOOK_SECONDS: Final = 0.02
NO_LIMIT: Final = 1 << 30
"""Of what a subscription may hold back, in messages and in bytes: the window bounds it."""


def serve(address: Address) -> AbstractAsyncContextManager[Address]:
    return serving(address)


@asynccontextmanager
async def serving(address: Address, *options: str) -> AsyncIterator[Address]:
    """With more words on its command line."""
    folder = Path(address["folder"])
    found = await to_thread.run_sync(program, NATS_SERVER)
    command = [
        found or NATS_SERVER,
        "-a",
        "127.0.0.1",
        "-p",
        "-1",
        "-js",
        "-sd",
        str(folder / STORE),
        "--ports_file_dir",
        str(folder),
        *options,
    ]
    server = await anyio.open_process(command, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL)
    try:
        yield {"url": await _url(folder / f"nats-server_{server.pid}.ports", server), "pids": [server.pid]}
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            server.terminate()
        with anyio.CancelScope(shield=True):
            await server.wait()


async def _url(ports: Path, server: Process) -> str:
    """What the server writes down when it listens."""
    with anyio.move_on_after(START_SECONDS):
        while server.returncode is None:
            try:
                url: str = json.loads(await anyio.Path(ports).read_text())["nats"][0]
            except (OSError, ValueError):
                await anyio.sleep(LOOK_SECONDS)
            else:
                return url
    raise ConnectError("nats-server ended, or did not listen in time: start it by hand to see what it says")


@asynccontextmanager
async def _client(address: Address) -> AsyncIterator[Client]:
    import nats

    client = await nats.connect(address["url"])
    try:
        yield client
    finally:
        await client.close()


@asynccontextmanager
async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    async with _client(address) as client:
        for take in takes:
            await client.subscribe(TOPIC, cb=_calling(take), pending_msgs_limit=NO_LIMIT, pending_bytes_limit=NO_LIMIT)
        await client.flush()
        yield


def _calling(take: Take) -> Any:
    async def call(message: Msg) -> None:
        take(message.data)

    return call


@asynccontextmanager
async def send(address: Address) -> AsyncIterator[Send]:
    async with _client(address) as client:
        publish = client.publish

        async def one_by_one(bodies: Iterable[bytes]) -> None:
            for body in bodies:
                await publish(TOPIC, body)

        yield one_by_one
        await client.flush()


@asynccontextmanager
async def answer(address: Address) -> AsyncIterator[None]:
    async def give_back(message: Msg) -> None:
        await message.respond(message.data)

    async with _client(address) as client:
        await client.subscribe(ASKED, cb=give_back)
        await client.flush()
        yield


@asynccontextmanager
async def ask(address: Address) -> AsyncIterator[Ask]:
    async with _client(address) as client:

        async def ask_one(body: bytes) -> bytes:
            return (await client.request(ASKED, body, timeout=5)).data

        yield ask_one


@asynccontextmanager
async def read_kept(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    """A push consumer with explicit acknowledgements, in a stream of its own."""
    from nats.js.api import ConsumerConfig, StorageType, StreamConfig

    take = takes[0]

    async def call(message: Msg) -> None:
        take(message.data)
        await message.ack()

    async with _client(address) as client:
        stream = client.jetstream()
        await stream.add_stream(StreamConfig(name=address["run"], subjects=[_kept(address)], storage=StorageType.FILE))
        await stream.subscribe(
            _kept(address),
            durable="reader",
            cb=call,
            manual_ack=True,
            config=ConsumerConfig(max_ack_pending=NO_LIMIT),
            pending_msgs_limit=NO_LIMIT,
            pending_bytes_limit=NO_LIMIT,
        )
        await client.flush()
        yield


@asynccontextmanager
async def send_kept(address: Address) -> AsyncIterator[Send]:
    async with _client(address) as client:
        stream = client.jetstream(publish_async_max_pending=IN_FLIGHT)
        publish, topic = stream.publish_async, _kept(address)

        async def one_by_one(bodies: Iterable[bytes]) -> None:
            for body in bodies:
                await publish(topic, body)

        yield one_by_one
        await stream.publish_async_completed()


def _kept(address: Address) -> str:
    return f"kept.{address['run']}"


NATS: Final = Contender(
    name="nats",
    title="nats-py",
    secured=Secured(
        signed="no",
        encrypted="no",
        tpm="no",
        policy="not here: it can",
        loss="no",
    ),
    uses="publish in a loop, subscribe(cb=), request; JetStream on files, stored without a sync: publish_async, push consumer; "
    "TCP, nats-server",
    install="pip install nats-py, and nats-server (Debian: apt-get install nats-server)",
    modules=("nats",),
    programs=(NATS_SERVER,),
    distribution="nats-py",
    serve=serve,
    read=read,
    send=send,
    answer=answer,
    ask=ask,
    read_kept=read_kept,
    send_kept=send_kept,
)
