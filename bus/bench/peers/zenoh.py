"""Eclipse Zenoh by its Python API: peer to peer without a router or scouting, over TCP on this machine, in plaintext.

Callbacks, which run on Zenoh's own threads; `put` that blocks and does not drop where the network pushes back. Its calls are
synchronous; there is no asyncio API.
"""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio

from bus.bench.peers.contender import Address, Ask, Contender, Secured, Send, Take

if TYPE_CHECKING:
    import zenoh

TOPIC: Final = "tasks/build"
ASKED: Final = "plans/review"
LOOK_SECONDS: Final = 0.02


@asynccontextmanager
async def serve(_: Address) -> AsyncIterator[Address]:
    """No server: a place where the reader listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    yield {"place": f"tcp/127.0.0.1:{port}"}


@contextmanager
def _session(address: Address, *, listens: bool) -> Iterator[zenoh.Session]:
    import zenoh

    config = zenoh.Config()
    config.insert_json5("mode", '"peer"')
    config.insert_json5("scouting/multicast/enabled", "false")
    config.insert_json5("listen/endpoints", json.dumps([address["place"]] if listens else []))
    config.insert_json5("connect/endpoints", json.dumps([] if listens else [address["place"]]))
    with zenoh.open(config) as session:
        yield session


@asynccontextmanager
async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    with _session(address, listens=True) as session:
        subscribers = [session.declare_subscriber(TOPIC, _calling(take)) for take in takes]
        yield
        for subscriber in subscribers:
            subscriber.undeclare()


def _calling(take: Take) -> Any:
    def call(sample: zenoh.Sample) -> None:
        take(sample.payload.to_bytes())

    return call


@asynccontextmanager
async def send(address: Address) -> AsyncIterator[Send]:
    import zenoh

    block = zenoh.CongestionControl.BLOCK
    with _session(address, listens=False) as session, session.declare_publisher(TOPIC, congestion_control=block) as publisher:
        await _known(publisher)
        put = publisher.put

        async def one_by_one(bodies: Iterable[bytes]) -> None:
            for body in bodies:
                put(body)

        yield one_by_one


async def _known(one: Any) -> None:
    """Until it knows of its other side: what is put before goes nowhere."""
    while not _is_matched(one.matching_status):  # noqa: ASYNC110  its listeners are called on threads of its own
        await anyio.sleep(LOOK_SECONDS)


def _is_matched(status: Any) -> bool:
    """Of a querier it is a bool, of a publisher an object that has one."""
    return bool(getattr(status, "matching", status))


@asynccontextmanager
async def answer(address: Address) -> AsyncIterator[None]:
    def give_back(query: zenoh.Query) -> None:
        if query.payload is not None:
            query.reply(ASKED, query.payload.to_bytes())

    with _session(address, listens=True) as session:
        queryable = session.declare_queryable(ASKED, give_back)
        yield
        queryable.undeclare()


@asynccontextmanager
async def ask(address: Address) -> AsyncIterator[Ask]:
    with _session(address, listens=False) as session, session.declare_querier(ASKED) as querier:
        await _known(querier)

        async def ask_one(body: bytes) -> bytes:
            """It blocks: nothing else waits for this loop."""
            for reply in querier.get(payload=body):
                if reply.ok is not None:
                    data: bytes = reply.ok.payload.to_bytes()
                    return data
            return b""

        yield ask_one


ZENOH: Final = Contender(
    name="zenoh",
    title="zenoh-python",
    secured=Secured(
        signed="no",
        encrypted="no",
        tpm="no",
        policy="not here: it can",
        loss="no",
    ),
    uses="put, subscriber with a callback, querier; peer to peer over TCP, no router",
    install="pip install eclipse-zenoh",
    modules=("zenoh",),
    distribution="eclipse-zenoh",
    cannot={"durable": "a router can store, by a plugin; nothing is acknowledged as stored"},
    serve=serve,
    read=read,
    send=send,
    answer=answer,
    ask=ask,
)
