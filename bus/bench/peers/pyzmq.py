"""ZeroMQ by pyzmq, plain and with CURVE: no broker, Unix sockets, PUSH to PULL, PUB to SUB for many readers, REQ to REP.

Plain sockets that are not waited for, driven by the event loop: pyzmq's own asyncio sockets are several times slower. No high-water
marks: the window bounds what is under way. With CURVE both sides are authenticated, each hop is encrypted; nothing is signed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
from anyio.lowlevel import checkpoint

from bus.bench.peers.contender import Address, Ask, Contender, Secured, Send, Take

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zmq

AT_ONCE: Final = 256
"""So many are read between two looks at the event loop."""


@asynccontextmanager
async def serve_keys(_: Address) -> AsyncIterator[Address]:
    """No server: keys for both sides, for this run alone."""
    import zmq

    names = ("reader_public", "reader_secret", "sender_public", "sender_secret")
    yield {name: key.decode() for name, key in zip(names, (*zmq.curve_keypair(), *zmq.curve_keypair()), strict=True)}


@contextmanager
def _sockets(address: Address, kind: str, places: Sequence[str], *, reads: bool) -> Iterator[list[zmq.Socket[bytes]]]:
    """Who reads binds and, with CURVE, is its server; who sends has one socket for all places."""
    import zmq

    context = zmq.Context()
    keeper = _keeper(context, address) if reads and "reader_secret" in address else None
    sockets = [context.socket(getattr(zmq, kind)) for _ in (places if reads else places[:1])]
    for socket in sockets:
        for limit in (zmq.SNDHWM, zmq.RCVHWM):
            socket.setsockopt(limit, 0)
        if kind == "XPUB":
            socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # it tells of every subscriber, not of every subscription
        _secure(socket, address, reads=reads)
    for socket, place in zip(sockets, places, strict=False):
        if reads:
            socket.bind(place)
    if not reads:
        for place in places:
            sockets[0].connect(place)
    try:
        yield sockets
    finally:
        for socket in sockets:
            socket.close(linger=0 if reads else 2_000)
        if keeper is not None:
            keeper.stop()
        context.term()


def _secure(socket: zmq.Socket[bytes], address: Address, *, reads: bool) -> None:
    if "reader_secret" not in address:
        return
    own = "reader" if reads else "sender"
    socket.curve_publickey, socket.curve_secretkey = address[f"{own}_public"].encode(), address[f"{own}_secret"].encode()
    if reads:
        socket.curve_server = True
    else:
        socket.curve_serverkey = address["reader_public"].encode()


def _keeper(context: zmq.Context[Any], address: Address) -> Any:
    """Lets in whom the reader knows, and nobody else: without it CURVE authenticates the reader alone."""
    from zmq.auth.thread import ThreadAuthenticator

    known = address["sender_public"].encode()

    class Known:
        def callback(self, _domain: str, key: bytes) -> bool:
            return bool(key == known)

    keeper = ThreadAuthenticator(context)
    keeper.start()
    keeper.configure_curve_callback(domain="*", credentials_provider=Known())
    return keeper


def _places(address: Address, what: str, count: int = 1) -> list[str]:
    return [f"ipc://{address['folder']}/{address['run']}-{what}-{number}" for number in range(count)]


@asynccontextmanager
async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    import zmq

    kind = "PULL" if len(takes) == 1 else "SUB"
    with _sockets(address, kind, _places(address, "all", len(takes)), reads=True) as sockets:
        async with anyio.create_task_group() as group:
            for socket, take in zip(sockets, takes, strict=True):
                if kind == "SUB":
                    socket.setsockopt(zmq.SUBSCRIBE, b"")
                group.start_soon(_reading, socket, take)
            yield
            group.cancel_scope.cancel()


async def _reading(socket: zmq.Socket[bytes], took: Callable[[bytes], object]) -> None:
    import zmq

    receive, nowait, empty = socket.recv, zmq.NOBLOCK, zmq.Again
    while True:
        try:
            for _ in range(AT_ONCE):
                took(receive(nowait))
        except empty:
            await _ready(socket, zmq.POLLIN)
        else:
            await checkpoint()


async def _ready(socket: zmq.Socket[bytes], what: int) -> None:
    """The descriptor says that something has changed, and not what: that is asked, before each wait."""
    import zmq

    descriptor = socket.getsockopt(zmq.FD)
    while not int(socket.getsockopt(zmq.EVENTS)) & what:
        await anyio.wait_readable(int(descriptor))


@asynccontextmanager
async def send(address: Address) -> AsyncIterator[Send]:
    import zmq

    readers = address["readers"]
    with _sockets(address, "PUSH" if readers == 1 else "XPUB", _places(address, "all", readers), reads=False) as [socket]:
        if readers > 1:
            for _ in range(readers):  # who publishes before all have subscribed speaks to some
                await _ready(socket, zmq.POLLIN)
                socket.recv(zmq.NOBLOCK)
        else:
            await _ready(socket, zmq.POLLOUT)
        give = socket.send

        async def one_by_one(bodies: Iterable[bytes]) -> None:
            for body in bodies:
                give(body)

        yield one_by_one


@asynccontextmanager
async def answer(address: Address) -> AsyncIterator[None]:
    with _sockets(address, "REP", _places(address, "asked"), reads=True) as [socket]:
        async with anyio.create_task_group() as group:
            group.start_soon(_reading, socket, socket.send)
            yield
            group.cancel_scope.cancel()


@asynccontextmanager
async def ask(address: Address) -> AsyncIterator[Ask]:
    import zmq

    with _sockets(address, "REQ", _places(address, "asked"), reads=False) as [socket]:
        await _ready(socket, zmq.POLLOUT)

        async def ask_one(body: bytes) -> bytes:
            """It blocks: nothing else waits for this loop, and it is the quickest."""
            socket.send(body)
            return socket.recv()

        yield ask_one


PLAIN: Final = Contender(
    name="zmq",
    title="pyzmq",
    secured=Secured(signed="no", encrypted="no", tpm="no", policy="no", loss="no"),
    uses="send, recv without waiting; PUSH-PULL, PUB-SUB, REQ-REP; Unix sockets, no broker",
    install="pip install pyzmq",
    modules=("zmq",),
    distribution="pyzmq",
    cannot={"durable": "it stores nothing"},
    read=read,
    send=send,
    answer=answer,
    ask=ask,
)

CURVE: Final = Contender(
    name="zmq-curve",
    title="pyzmq CURVE",
    secured=Secured(
        signed="no: who connects",
        encrypted="each hop",
        tpm="no",
        policy="who may connect",
        loss="no",
    ),
    uses="the same with CURVE, and a list of known keys",
    install="pip install pyzmq",
    modules=("zmq",),
    distribution="pyzmq",
    cannot={"durable": "it stores nothing"},
    serve=serve_keys,
    read=read,
    send=send,
    answer=answer,
    ask=ask,
)
