"""AGNTCY SLIM by slim-bindings, with and without MLS: a node in a process of its own, a point-to-point session over gRPC.

For many readers a group, into which each of them is invited: with MLS half a second or so for each, before anything is measured.

`publish` and `get_message_async` of a reliable session, as its examples have them. Both sides prove a shared secret; with MLS the
node sees ciphertext only. Its integrity check of headers is on for every message. Its connections leave TCP's delays on and
its clients have no setting for that: a request and its reply wait for some 90 ms, whatever the machine does.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import anyio

from bus.bench.peers.contender import Address, Ask, Contender, Secured, Send, Take

if TYPE_CHECKING:
    from slim_bindings import App, Session

READER: Final = "example/bench/reader"
SENDER: Final = "example/bench/sender"
SHARED_SECRET: Final = "of-this-run-alone-and-of-no-worth-to-anybody"
"""It guards noise on a loopback."""
PATIENCE: Final = timedelta(seconds=600)
GROUP: Final = "example/bench/everybody"
RETRIES: Final = 5
RETRY_AFTER: Final = timedelta(seconds=5)


@asynccontextmanager
async def serve(_: Address) -> AsyncIterator[Address]:
    """The node."""
    import slim_bindings as slim

    with socket.create_server(("127.0.0.1", 0)) as free:
        place = "127.0.0.1:" + str(free.getsockname()[1])
    _begin()
    service = slim.get_global_service()
    await service.run_server_async(slim.new_insecure_server_config(place))
    yield {"place": place}
    service.stop_server(place)


def _begin() -> None:
    import slim_bindings as slim

    slim.uniffi_set_event_loop(asyncio.get_running_loop())
    if slim.is_initialized():  # by another role of this process
        return
    tracing = slim.new_tracing_config_with("error", display_thread_names=False, display_thread_ids=False, filters=[])
    slim.initialize_with_configs(slim.new_runtime_config(), tracing, [slim.new_service_config()])


async def _app(address: Address, name: str) -> tuple[App, int]:
    import slim_bindings as slim

    _begin()
    service, place = slim.get_global_service(), f"http://{address['place']}"
    connection = service.get_connection_id(place)
    if connection is None:
        connection = await service.connect_async(slim.new_insecure_client_config(place))
    app = service.create_app_with_secret(slim.Name.from_string(name), SHARED_SECRET)  # its async twin finds no runtime
    await app.subscribe_async(app.name(), connection)
    return app, connection


async def _taken_in(app: App, took: Callable[[Session, Any], object]) -> None:
    """The session that the other side opens, and all that comes in it."""
    session = await app.listen_for_session_async(None)
    get = session.get_message_async
    while True:
        took(session, await get(PATIENCE))


@asynccontextmanager
async def _taking_in(address: Address, *took: Callable[[Session, Any], object]) -> AsyncIterator[None]:
    """One reader for each."""
    async with anyio.create_task_group() as group:
        for name, one in zip(_readers(len(took)), took, strict=True):
            app, _ = await _app(address, name)
            group.start_soon(_taken_in, app, one)
        yield
        group.cancel_scope.cancel()


def _readers(count: int) -> list[str]:
    return [f"{READER}{number}" for number in range(count)]


@asynccontextmanager
async def _session(address: Address) -> AsyncIterator[Session]:
    import slim_bindings as slim

    app, connection = await _app(address, SENDER)
    readers = [slim.Name.from_string(name) for name in _readers(address["readers"])]
    for reader in readers:
        await app.set_route_async(reader, connection)
    is_group = len(readers) > 1
    mls = slim.MlsSettings(header_integrity_validation_percent=100, max_seen_control_message_ids_size=None)
    made = await app.create_session_async(
        slim.SessionConfig(
            session_type=slim.SessionType.GROUP if is_group else slim.SessionType.POINT_TO_POINT,
            max_retries=RETRIES,
            interval=RETRY_AFTER,
            metadata={},
            mls_settings=mls if address["mls"] else None,
        ),
        slim.Name.from_string(GROUP) if is_group else readers[0],
    )
    await made.completion.wait_async()
    for reader in readers if is_group else []:
        await made.session.invite_and_wait_async(reader)
    yield made.session


@asynccontextmanager
async def read(address: Address, takes: Sequence[Take]) -> AsyncIterator[None]:
    async with _taking_in(address, *(_calling(take) for take in takes)):
        yield


def _calling(take: Take) -> Callable[[Session, Any], object]:
    return lambda _, message: take(message.payload)


@asynccontextmanager
async def send(address: Address) -> AsyncIterator[Send]:
    async with _session(address) as session:
        publish = session.publish

        async def one_by_one(bodies: Iterable[bytes]) -> None:
            for body in bodies:
                publish(body, None, None)

        yield one_by_one


@asynccontextmanager
async def answer(address: Address) -> AsyncIterator[None]:
    async with _taking_in(address, lambda session, message: session.publish_to(message.context, message.payload, None, None)):
        yield


@asynccontextmanager
async def ask(address: Address) -> AsyncIterator[Ask]:
    async with _session(address) as session:

        async def ask_one(body: bytes) -> bytes:
            session.publish(body, None, None)
            reply: bytes = (await session.get_message_async(PATIENCE)).payload
            return reply

        yield ask_one


@asynccontextmanager
async def serve_mls(address: Address) -> AsyncIterator[Address]:
    async with serve(address) as served:
        yield served | {"mls": True}


@asynccontextmanager
async def serve_plain(address: Address) -> AsyncIterator[Address]:
    async with serve(address) as served:
        yield served | {"mls": False}


MLS: Final = Contender(
    name="slim-mls",
    title="slim-bindings, MLS",
    secured=Secured(
        signed="each message",
        encrypted="yes",
        tpm="no",
        policy="who is invited",
        loss="sent again",
    ),
    uses="publish, get_message_async in a reliable session of two, or a group; gRPC, a node",
    install="pip install slim-bindings",
    modules=("slim_bindings",),
    distribution="slim-bindings",
    window=2_048,
    cannot={"durable": "it stores nothing"},
    serve=serve_mls,
    read=read,
    send=send,
    answer=answer,
    ask=ask,
)

NO_MLS: Final = replace(
    MLS,
    name="slim",
    title="slim-bindings",
    secured=Secured(
        signed="no: a token",
        encrypted="no",
        tpm="no",
        policy="who is invited",
        loss="sent again",
    ),
    serve=serve_plain,
)
