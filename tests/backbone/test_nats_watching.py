"""A value that all brokers follow on NATS: written in parts, read whole or not at all, and heard of by who follows."""

from __future__ import annotations

import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from nats_servers import nats_server, new_space, on_nats

from bus.backbone.nats.bucket import OtherRevisionError
from bus.backbone.nats.watching import MAX_BYTES, PART_BYTES, Seen
from bus.protocol.codec import pack

LONG = bytes(range(256)) * (PART_BYTES // 256 * 2 + 1)


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
def server():
    with nats_server() as one:
        yield one


@asynccontextmanager
async def two_on(server, space):
    async with on_nats([server.url], space) as one, on_nats([server.url], space) as two:
        yield one, await one.shared("trust"), await two.shared("trust")


@pytest.mark.anyio
async def test_a_value_of_many_parts_is_read_elsewhere_and_its_parts_go_with_it(server):
    async with two_on(server, new_space()) as (backbone, here, there):
        assert await there.read() == Seen(0, None)
        await here.write(LONG, instead_of=0)
        seen = await there.read()
        assert seen.value == LONG
        await there.write(b"short", instead_of=seen.revision)
        assert (await here.read()).value == b"short"
        bucket = await backbone._streams.bucket("trust")
        assert len(await bucket.keys()) == 2


@pytest.mark.anyio
async def test_of_two_who_write_at_once_one_looks_again(server):
    async with two_on(server, new_space()) as (_, here, there):
        await here.write(b"one", instead_of=0)
        with pytest.raises(OtherRevisionError):
            await there.write(b"two", instead_of=0)
        assert (await there.read()).value == b"one"


@pytest.mark.anyio
async def test_who_follows_hears_of_each_change(server):
    async with two_on(server, new_space()) as (_, here, there), anyio.create_task_group() as tasks:
        send, heard = anyio.create_memory_object_stream(16)

        async def look() -> None:
            await send.send((await there.read()).value)

        there.look()
        tasks.start_soon(there.run, look)
        with send, heard, anyio.fail_after(4):  # sooner than who looks now and then
            assert await heard.receive() is None
            for value in (b"one", LONG, b"three"):
                await here.write(value, instead_of=(await here.read()).revision)
                while await heard.receive() != value:
                    pass
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "junk", [b"", b"\xc1", pack([1, 2]), pack([bytes(32), MAX_BYTES + 1]), pack([bytes(31), 1]), pack([bytes(32), 4])]
)
async def test_what_is_no_value_is_none_and_is_written_over(server, junk):
    async with two_on(server, new_space()) as (backbone, here, there):
        bucket = await backbone._streams.bucket("trust")
        await bucket.put("newest", junk, revision=0)
        seen = await there.read()
        assert seen.value is None
        await here.write(b"a value", instead_of=seen.revision)
        assert (await there.read()).value == b"a value"
