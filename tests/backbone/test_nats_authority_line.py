"""What is asked of the authority behind another gateway: carried once, answered by its own answer, and bounded."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import nats_server, new_space, on_nats

from bus.backbone.nats import authority_line
from bus.backbone.nats.authority_line import MAX_BYTES, MAX_WAITING, AuthorityLine
from bus.clock import SystemClock
from bus.protocol.codec import pack


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with nats_server() as one:
        yield one


def line(backbone) -> AuthorityLine:
    """An answer begins with the byte by which its request is known."""
    return AuthorityLine(backbone.connection, backbone.names, SystemClock(), key=lambda answer: answer[:1] or None)


@asynccontextmanager
async def two_ends(server):
    async with on_nats([server.url], space := new_space()) as one, on_nats([server.url], space) as two:
        asking, serving = line(one), line(two)
        await asking.listen()
        await one.shared("trust")  # its server has answered, so it knows who listens

        async def serve(take) -> None:
            await serving.serve(take)
            await two.shared("trust")

        yield asking, serve, two.connection


@pytest.mark.anyio
async def test_each_hears_its_own_answer_in_whatever_order(server):
    async with two_ends(server) as (asking, serve, _):
        waiting = []

        def take(request, reply) -> None:
            waiting.append((request, reply))
            if len(waiting) == 3:
                for one, told in reversed(waiting):
                    told(one + b" done")

        await serve(take)
        heard = {}

        async def ask(request: bytes) -> None:
            heard[request] = await asking.ask(request, request[:1])

        async with anyio.create_task_group() as tasks:
            for request in (b"a 1", b"b 2", b"c 3"):
                tasks.start_soon(ask, request)
        assert heard == {request: request + b" done" for request in (b"a 1", b"b 2", b"c 3")}


@pytest.mark.anyio
async def test_nobody_is_waited_for_longer_than_that(server, monkeypatch):
    monkeypatch.setattr(authority_line, "ANSWER_SECONDS", 0.05)
    async with two_ends(server) as (asking, _, _):
        assert await asking.ask(b"a", b"a") is None
        assert asking._waiting == {}


@pytest.mark.anyio
async def test_no_more_than_so_many_wait_at_a_time(server):
    async with two_ends(server) as (asking, _, _), anyio.create_task_group() as tasks:
        for number in range(MAX_WAITING):
            tasks.start_soon(asking.ask, b"x", bytes([number]))
        await anyio.wait_all_tasks_blocked()
        assert await asking.ask(b"x", bytes([MAX_WAITING])) is None
        assert len(asking._waiting) == MAX_WAITING
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_what_is_no_request_and_answers_that_nobody_waits_for_are_passed_over(server):
    async with two_ends(server) as (asking, serve, connection):
        taken = []

        def take(request, reply) -> None:
            taken.append(request)
            reply(b"")
            reply(b"z nobody's")
            reply(b"a" * (MAX_BYTES + 1))
            reply(b"a right")
            reply(b"a too late")

        await serve(take)
        for junk in (b"", b"\xc1", pack([b"short", b"x"]), pack([bytes(16), 1]), pack([bytes(16), bytes(MAX_BYTES)])):
            connection.send(asking._names.authority, junk)
        await connection.flush()
        assert await asking.ask(b"a request", b"a") == b"a right"
        assert taken == [b"a request"]
