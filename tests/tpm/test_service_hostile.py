"""Callers that mean harm or are merely broken, and beside each of them another one that does not notice."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from bus.errors import ConnectionLostError
from bus.protocol.contexts import Purpose
from bus.testing.tpm_check import contents_for
from bus.tpm.wire import MAX_REQUEST_BYTES

sys.path.insert(0, str(Path(__file__).parent))

from served import SUITE, others_are_served, raw, serving, until

pytestmark = pytest.mark.anyio

PING = b'{"command":"ping"}\n'


def sign_line(count: int = 1, *, seed: str = "", number: int = 1) -> bytes:
    contents = [base64.b64encode(content).decode() for content in contents_for(SUITE, count, seed=seed)]
    return (
        json.dumps({"command": "signMany", "id": number, "key": "MONITOR", "purpose": "envelope", "contents": contents}).encode()
        + b"\n"
    )


def most_in_flight(served) -> int:
    return max(caller._in_flight for caller in served.service._callers)


async def test_a_line_of_the_greatest_length_is_heard_and_one_byte_more_is_not(runtime):
    async with serving(runtime) as served:
        start, end = b'{"command":"unseal","blob":"', b'"}'
        async with raw(served.path) as caller:
            longest = start + b"A" * (MAX_REQUEST_BYTES - len(start) - len(end)) + end
            assert await caller.code(longest + b"\n") == "invalid_field"
            assert "version" in await caller.ask(command="ping")
        async with raw(served.path) as caller:
            assert await caller.code(longest[:-2] + b'A"}\n') == "line_too_long"
            assert await caller.is_closed()
        await others_are_served(served)


async def test_a_line_without_end_is_cut_and_never_kept(runtime):
    """Gigabytes would follow: nothing beyond the limit is taken from the socket."""
    async with serving(runtime) as served, raw(served.path) as caller:
        sent = 0
        with suppress(ConnectionLostError), anyio.fail_after(20):
            while sent < 1 << 30:
                await caller.send(b"A" * 65_536)
                sent += 65_536
        assert sent < 4 * MAX_REQUEST_BYTES
        await others_are_served(served)


async def test_a_line_that_was_begun_must_end(runtime):
    async with serving(runtime, line_seconds=0.2) as served, raw(served.path) as half, raw(served.path) as dripping:
        await half.send(b'{"command":"pi')
        assert (await half.answer())["error"]["code"] == "line_timeout"
        assert await half.is_closed()
        await others_are_served(served)
        # A byte now and then does not buy more time: the clock runs from the first.
        with suppress(ConnectionLostError), anyio.fail_after(20):
            while not dripping.stream.is_gone():
                await dripping.send(b" ")
                await anyio.lowlevel.checkpoint()
        assert (await dripping.answer())["error"]["code"] == "line_timeout"


async def test_silence_between_lines_is_allowed(runtime):
    async with serving(runtime, line_seconds=0.05) as served, raw(served.path) as caller:
        assert "version" in await caller.ask(command="ping")
        async with raw(served.path) as half:
            await half.send(b"{")
            assert (await half.answer())["error"]["code"] == "line_timeout"  # more time than that has passed
        assert "version" in await caller.ask(command="ping")


async def test_a_thousand_idle_callers_cost_nobody_anything(runtime):
    async with serving(runtime, callers=2_000) as served, AsyncExitStack() as stack:
        crowd = [await stack.enter_async_context(raw(served.path)) for _ in range(1_000)]
        await until(lambda: served.service.connected == 1_000)
        await others_are_served(served)
        assert "version" in await crowd[0].ask(command="ping")
        assert "version" in await crowd[-1].ask(command="ping")


async def test_callers_over_the_cap_are_told_that_it_is_busy(runtime):
    async with serving(runtime, callers=3) as served, AsyncExitStack() as stack:
        inside = [await stack.enter_async_context(raw(served.path)) for _ in range(3)]
        await until(lambda: served.service.connected == 3)
        for _ in range(50):
            async with raw(served.path) as outside:
                assert (await outside.answer())["error"]["code"] == "busy"
                assert await outside.is_closed()
        for caller in inside:
            assert "version" in await caller.ask(command="ping")
        inside[0].stream.close()
        await until(lambda: served.service.connected == 2)
        await others_are_served(served)


async def test_one_that_never_reads_is_not_read_any_further_and_then_cut(runtime):
    async with serving(runtime, write_seconds=0.5) as served, raw(served.path) as deaf:
        line = sign_line(200)
        taken = 0
        async with anyio.create_task_group() as tasks:

            async def shout() -> None:
                nonlocal taken
                while True:
                    try:
                        await deaf.send(line)
                    except ConnectionLostError:
                        return
                    taken += len(line)

            tasks.start_soon(shout)
            while served.service.connected:  # until it is cut, others are served
                await others_are_served(served)
        statistics = await served.engine.statistics()
        # What it wrote is bounded by what it may have in flight and what the kernel keeps, not by what it wanted.
        assert statistics.signed_contents < 30_000
        assert taken < 8_000_000
        await others_are_served(served)


async def test_a_slow_reader_that_reads_on_gets_everything(runtime):
    async with serving(runtime) as served, raw(served.path) as slow, anyio.create_task_group() as tasks:
        tasks.start_soon(slow.send, sign_line(256) * 40)
        for _ in range(40):
            answer = await slow.answer()
            assert sum(len(batch["proofs"]) for batch in answer["batches"]) == 256


async def test_at_most_so_many_requests_of_one_caller_are_in_flight(runtime, gate):
    async with serving(runtime) as served, raw(served.path) as greedy:
        served.tpm.faults.append(gate)
        await greedy.send(b"".join(sign_line(seed=str(number), number=number) for number in range(500)))
        await gate.reached()
        await until(lambda: most_in_flight(served) == 64)  # and more are not taken, whatever comes
        async with raw(served.path) as other:
            for _ in range(20):
                assert "version" in await other.ask(command="ping")
        assert most_in_flight(served) == 64
        gate.open()
        assert {(await greedy.answer())["id"] for _ in range(500)} == set(range(500))


async def test_many_contents_in_flight_count_as_many(runtime, gate):
    async with serving(runtime) as served, raw(served.path) as greedy:
        served.tpm.faults.append(gate)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(greedy.send, b"".join(sign_line(1_024, number=number) for number in range(30)))
            await gate.reached()
            await until(lambda: most_in_flight(served) == 4)
            async with raw(served.path) as other:
                for _ in range(20):
                    assert "version" in await other.ask(command="ping")
            assert most_in_flight(served) == 4
            gate.open()
            assert {(await greedy.answer())["id"] for _ in range(30)} == set(range(30))


async def test_more_contents_than_a_request_may_have(runtime):
    async with serving(runtime) as served, raw(served.path) as caller:
        assert await caller.code(sign_line(1_025)) == "invalid_field"
        assert await caller.code(sign_line(0)) == "invalid_field"
        assert "batches" in (await caller.ask(**json.loads(sign_line(1_024))))


async def test_a_flood_of_small_requests_leaves_the_loop_to_others(runtime):
    async with serving(runtime) as served, raw(served.path) as flood, anyio.create_task_group() as tasks:

        async def shout() -> None:
            while True:
                await flood.send(PING * 1_000)

        async def hear() -> None:
            while True:
                await flood.stream.receive()

        tasks.start_soon(shout)
        tasks.start_soon(hear)
        for _ in range(5):
            await others_are_served(served)
        tasks.cancel_scope.cancel()


async def test_a_caller_that_dies_leaves_nothing_behind(runtime, gate):
    async with serving(runtime) as served:
        served.tpm.faults.append(gate)
        async with raw(served.path) as doomed:
            await doomed.send(sign_line())
            await gate.reached()
            await doomed.send(b"".join(sign_line(seed=str(number), number=number) for number in range(29)))
            await until(lambda: served.engine._worker.waiting == 29)
        await until(lambda: not served.service.connected)
        await until(lambda: not served.engine._worker.waiting)  # its wishes are taken back, not served
        gate.open()
        await others_are_served(served)
        assert (await served.engine.statistics()).signed_contents == 2  # what was at the chip, and the other caller's


@pytest.mark.parametrize("junk", [os.urandom(4_096), b"\0" * 100_000, b"\n" * 1_000, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_garbage_ends_its_own_connection_only(runtime, junk):
    async with serving(runtime, line_seconds=0.2) as served, raw(served.path) as caller:
        await caller.send(junk)
        assert (await caller.answer())["error"]["code"] in {"malformed", "line_timeout"}
        assert await caller.is_closed()
        await others_are_served(served)


async def test_a_descriptor_that_is_passed_along_does_not_stay_open(runtime):
    read, write = os.pipe()
    async with serving(runtime) as served:
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(served.path))
            socket.send_fds(caller, [PING], [write])
            os.close(write)
            await until(lambda: served.service.connected == 1)
            await others_are_served(served)
            assert os.read(read, 1) == b""  # nobody holds the other end
    os.close(read)


async def test_when_descriptors_run_out_callers_wait_and_nobody_falls(runtime):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(runtime) as served, raw(served.path) as early:
        assert "version" in await early.ask(command="ping")
        late = [await _connected(served.path) for _ in range(2)]
        await until(lambda: served.service.connected == 3)
        try:
            waiting = [socket.socket(socket.AF_UNIX) for _ in range(20)]
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(place.fileno() for place in waiting) + 1, hard))
            for place in waiting:
                place.connect(str(served.path))
            for _ in range(20):
                assert "version" in await early.ask(command="ping")
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for place in (*late, *waiting):
            place.close()
        await others_are_served(served)


async def _connected(path: Path) -> socket.socket:
    caller = socket.socket(socket.AF_UNIX)
    caller.connect(str(path))
    return caller


async def test_a_critical_signature_does_not_wait_behind_a_long_list_of_the_same_process(runtime, gate):
    """Pieces of a long list go a few at a time, so that what follows on the connection is read."""
    from bus.tpm.remote import RemoteEngine

    async with serving(runtime) as served, await RemoteEngine.connect(served.path) as engine:
        await engine.create("URGENT", SUITE)
        served.tpm.faults.append(gate)
        done: list[str] = []
        async with anyio.create_task_group() as tasks:

            async def sign(key: str, count: int) -> None:
                await engine.sign_many(key, Purpose.ENVELOPE, contents_for(SUITE, count))
                done.append(key)

            tasks.start_soon(sign, "MONITOR", 20_000)
            await gate.reached()
            tasks.start_soon(sign, "URGENT", 1)
            await until(lambda: most_in_flight(served) == 4)
            gate.open()
        assert done == ["URGENT", "MONITOR"]
