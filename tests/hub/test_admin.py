"""The hub's desk: what it answers, whom it lets in, and that nobody can keep it from others."""

from __future__ import annotations

import json
import stat
from contextlib import aclosing, asynccontextmanager

import anyio
import pytest

from bus.errors import BusError, ConnectError, ConnectionLostError, NotPermittedError, RemoteProtocolError
from bus.hub import admin
from bus.hub.admin import Desk, ask, watch
from bus.transport.unix import connect, listening

pytestmark = pytest.mark.anyio


async def later(text: str) -> str:
    await anyio.lowlevel.checkpoint()
    return text[::-1]


async def count(up_to: int):
    for number in range(up_to):
        yield {"number": number}


def refuse() -> None:
    raise NotPermittedError("WEB", "look", "because")


def stumble() -> None:
    raise ZeroDivisionError


@asynccontextmanager
async def open_desk(runtime):
    desk = Desk()
    for verb in (later, count, refuse, stumble):
        desk.register(verb.__name__, verb)
    desk.register("status", lambda: {"agents": 76})
    async with anyio.create_task_group() as group:
        await group.start(desk.serve, runtime / "admin.sock")
        try:
            yield desk, runtime / "admin.sock"
        finally:
            group.cancel_scope.cancel()


async def test_a_verb_answers_whatever_kind_of_function_it_is(runtime):
    async with open_desk(runtime) as (_, socket):
        assert await ask(socket, "status") == {"agents": 76}
        assert await ask(socket, "later", text="abc") == "cba"
        assert [item async for item in watch(socket, "count", up_to=3)] == [{"number": 0}, {"number": 1}, {"number": 2}]


async def test_an_error_comes_over_with_its_class_and_its_fields(runtime):
    async with open_desk(runtime) as (_, socket):
        with pytest.raises(NotPermittedError) as caught:
            await ask(socket, "refuse")
    assert (caught.value.agent, caught.value.action, caught.value.rule) == ("WEB", "look", "because")
    assert str(caught.value) == str(NotPermittedError("WEB", "look", "because"))


async def test_a_verb_that_fails_fails_for_its_caller_alone(runtime):
    async with open_desk(runtime) as (_, socket):
        with pytest.raises(BusError):
            await ask(socket, "stumble")
        assert await ask(socket, "status") == {"agents": 76}


@pytest.mark.parametrize(("verb", "arguments"), [("fly", {}), ("later", {}), ("status", {"x": 1}), ("count", {"up_to": 1, "y": 2})])
async def test_what_the_desk_does_not_know_is_refused(verb, arguments, runtime):
    async with open_desk(runtime) as (_, socket):
        with pytest.raises(RemoteProtocolError) as caught:
            await ask(socket, verb, **arguments)
        assert caught.value.reason == "malformed"


@pytest.mark.parametrize(
    "line", [b"\n", b"[]\n", b"{}\n", b'{"verb": 1}\n', b"\xff\n", b'{"verb": "status"\n', b"[" * 60_000 + b"\n"]
)
async def test_a_line_that_is_no_request_is_answered_with_an_error_and_the_next_is_served(line, runtime):
    async with open_desk(runtime) as (_, socket):
        stream = await connect(socket)
        await stream.send(line)
        assert json.loads(await stream.receive())["error"]["reason"] == "malformed"
        await stream.send(b'{"verb": "status"}\n')
        assert json.loads(await stream.receive()) == {"answer": {"agents": 76}}
        await stream.aclose()


async def test_a_line_without_an_end_is_not_kept(runtime):
    async with open_desk(runtime) as (_, socket):
        stream = await connect(socket)
        await stream.send(b"x" * (admin.MAX_REQUEST_BYTES + 1))
        assert await stream.receive() == b""
        await stream.aclose()


async def test_a_line_that_does_not_end_in_time_gives_its_place_to_others(runtime, monkeypatch):
    monkeypatch.setattr(admin, "LINE_SECONDS", 0.01)
    async with open_desk(runtime) as (_, socket):
        stream = await connect(socket)
        await stream.send(b'{"verb"')
        with anyio.fail_after(20):
            assert await stream.receive() == b""
        await stream.aclose()


async def test_the_socket_is_its_owners_alone(runtime):
    async with open_desk(runtime) as (_, socket):
        assert stat.S_IMODE(socket.stat().st_mode) == 0o600


async def test_another_user_is_turned_away_whatever_the_socket_allows(runtime, monkeypatch):
    async with open_desk(runtime) as (_, socket):
        monkeypatch.setattr("os.geteuid", lambda: 4_242)
        with pytest.raises(ConnectionLostError):
            await ask(socket, "status")


async def test_whoever_hangs_up_ends_what_they_watched(runtime):
    ended = anyio.Event()

    async def forever():
        try:
            yield 1
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with open_desk(runtime) as (desk, socket):
        desk.register("forever", forever)
        async with aclosing(watch(socket, "forever")) as items:
            assert await anext(items) == 1
        with anyio.fail_after(30):
            await ended.wait()


async def test_an_error_in_the_middle_comes_after_the_items_before_it(runtime):
    async def some():
        yield 1
        raise NotPermittedError("WEB", "look", "because")

    async with open_desk(runtime) as (desk, socket):
        desk.register("some", some)
        items = watch(socket, "some")
        assert await anext(items) == 1
        with pytest.raises(NotPermittedError):
            await anext(items)


async def test_more_callers_than_it_bears_are_turned_away_and_room_is_given_back(runtime):
    async with open_desk(runtime) as (_, socket):
        callers = [await connect(socket) for _ in range(admin.MAX_CALLERS)]
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ConnectionLostError):
            await ask(socket, "status")
        for caller in callers:
            await caller.aclose()
        await anyio.wait_all_tasks_blocked()
        assert await ask(socket, "status") == {"agents": 76}


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"5",
        b"{}",
        b'{"answer": 1, "item": 2}',
        b"[" * 60_000,
        b'{"error": 5}',
        b'{"error": {"type": "PolicyError", "message": "x"}}',
        b'{"error": {"type": "PolicyError", "problems": [5]}}',
        b'{"error": {"type": "PolicyError", "problems": [{"file": 5}]}}',
        b'{"error": {"type": 5, "message": [5]}}',
        b'{"error": ' + b"[" * 60_000,
    ],
    ids=lambda line: line[:40].decode(),
)
async def test_whoever_answers_what_is_no_answer_raises_nothing_but_errors_of_the_bus(line, runtime):
    """A broker that strangers got into answers like this; who asks it is the process that has the authority."""
    async with listening(runtime / "admin.sock") as listener, anyio.create_task_group() as tasks:

        async def answer() -> None:
            stream = await listener.accept()
            await stream.receive()
            await stream.send(line + b"\n")
            await stream.aclose()

        tasks.start_soon(answer)
        with pytest.raises(BusError):
            await ask(runtime / "admin.sock", "status")


async def test_no_hub_is_an_error_that_says_what_to_do(runtime):
    with pytest.raises(ConnectError):
        await ask(runtime / "admin.sock", "status")


def test_a_verb_has_its_name_alone():
    desk = Desk()
    desk.register("status", dict)
    with pytest.raises(ValueError, match="status"):
        desk.register("status", dict)
