"""Unix sockets: who is there, who may come, and what a dead process leaves behind."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from bus.errors import ConnectError, ConnectionLostError, StateInUseError
from bus.transport import unix
from bus.transport.unix import MAX_PATH_BYTES, PeerCredentials, UnixListener, UnixStream, connect, listening

pytestmark = pytest.mark.anyio
IS_ROOT = os.getuid() == 0


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[tuple[UnixStream, UnixStream]]:
    async with listening(folder / "s" / "x.sock") as listener:
        near = await connect(listener.path)
        far = await listener.accept()
        try:
            yield near, far
        finally:
            near.close()
            far.close()


# ---- who is there ----------------------------------------------------------------------------------------------------------------


async def test_the_kernel_says_whose_process_is_at_the_other_end(runtime):
    async with pair(runtime) as (near, far):
        me = PeerCredentials(os.getpid(), os.getuid(), os.getgid())
        assert near.peer == far.peer == me


async def test_it_says_so_of_another_process(runtime):
    async with listening(runtime / "s" / "x.sock") as listener:
        script = "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()"
        async with await anyio.open_process([sys.executable, "-c", script, str(listener.path)]) as other:
            with anyio.fail_after(20):
                caller = await listener.accept()
            assert caller.peer.pid == other.pid
            assert caller.peer.uid == os.getuid()
            assert other.stdin is not None
            await other.stdin.aclose()
            assert await caller.receive() == b""
            caller.close()


@pytest.mark.skipif(not IS_ROOT, reason="only root can become another user")
async def test_it_says_so_of_another_user(runtime):
    runtime.chmod(0o711)
    async with listening(runtime / "s" / "x.sock", group=65_534) as listener:
        script = """
import os, socket, sys
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])
"""
        await anyio.run_process([sys.executable, "-c", script, str(listener.path)])
        caller = await listener.accept()
        assert (caller.peer.uid, caller.peer.gid) == (65_534, 65_534)
        caller.close()


# ---- bytes -----------------------------------------------------------------------------------------------------------------------


async def test_bytes_arrive_whole_and_in_order(runtime):
    sent = os.urandom(3_000_000)
    async with pair(runtime) as (near, far), anyio.create_task_group() as tasks:
        tasks.start_soon(near.send, sent)
        received = b""
        while len(received) < len(sent):
            received += await far.receive()
        assert received == sent


async def test_send_nowait_takes_what_there_is_room_for(runtime):
    async with pair(runtime) as (near, far):
        total = 0
        while sent := near.send_nowait(bytes(65_536)):
            total += sent
        assert total > 65_536
        while total:
            total -= len(await far.receive())
        assert near.send_nowait(b"again") == 5


async def test_the_end_is_an_empty_receive_and_a_lost_send(runtime):
    async with pair(runtime) as (near, far):
        await near.send(b"last words")
        near.close()
        assert await far.receive() == b"last words"
        assert await far.receive() == b""
        with pytest.raises(ConnectionLostError):
            await far.send(b"hello?")
        with pytest.raises(ConnectionLostError):
            far.send_nowait(b"hello?")


async def test_gone_is_more_than_having_said_all(runtime):
    async with listening(runtime / "s" / "x.sock") as listener:
        with socket.socket(socket.AF_UNIX) as near:
            near.connect(str(listener.path))
            far = await listener.accept()
            near.shutdown(socket.SHUT_WR)
            assert await far.receive() == b""
            assert not far.is_gone()
            await far.send(b"still heard")
            assert near.recv(100) == b"still heard"
        assert far.is_gone()
        far.close()


async def test_closing_wakes_who_waits(runtime):
    async with pair(runtime) as (_, far):
        outcomes: list[str] = []

        async def wait() -> None:
            try:
                await far.receive()
            except ConnectionLostError:
                outcomes.append("lost")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await far.aclose()
        assert outcomes == ["lost"]
        await far.aclose()  # twice is fine


async def test_one_that_always_has_something_to_say_does_not_keep_the_loop(runtime):
    async with pair(runtime) as (near, far), anyio.create_task_group() as tasks:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        while near.send_nowait(bytes(65_536)):
            pass
        tasks.start_soon(other)
        for _ in range(1_000):
            assert await far.receive(1)
        assert turns > 100
        tasks.cancel_scope.cancel()


# ---- who may come ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_the_socket_is_its_owners_alone_whatever_the_umask_says(runtime, umask):
    before = os.umask(umask)
    try:
        async with listening(runtime / "deep" / "s" / "x.sock") as listener:
            assert mode(listener.path) == 0o600
            assert mode(listener.path.parent) == 0o700
            assert mode(listener.path.with_name("x.sock.lock")) & 0o077 == 0
    finally:
        os.umask(before)


async def test_a_group_is_let_in_and_nobody_beside_it(runtime):
    async with listening(runtime / "s" / "x.sock", group=os.getgid()) as listener:
        assert mode(listener.path) == 0o660
        assert mode(listener.path.parent) == 0o710
        assert listener.path.stat().st_gid == listener.path.parent.stat().st_gid == os.getgid()


async def test_an_unknown_group_is_an_error(runtime):
    with pytest.raises(ConnectError):
        async with listening(runtime / "s" / "x.sock", group="no-such-group-here"):
            pass


@pytest.mark.parametrize("bits", [0o770, 0o710, 0o707, 0o701, 0o1777, 0o755])
async def test_a_folder_that_others_can_get_into_is_refused(runtime, bits):
    folder = runtime / "s"
    folder.mkdir()
    folder.chmod(bits)
    with pytest.raises(ConnectError):
        async with listening(folder / "x.sock"):
            pass
    assert mode(folder) == bits  # it is somebody's decision, and not ours to change
    assert not (folder / "x.sock").exists()


async def test_a_folder_of_another_group_is_refused(runtime):
    folder = runtime / "s"
    folder.mkdir()
    folder.chmod(0o710)
    with pytest.raises(ConnectError):
        async with listening(folder / "x.sock", group=os.getgid() + 1):
            pass


@pytest.mark.skipif(not IS_ROOT, reason="only root can give a folder away")
async def test_a_folder_of_another_user_is_refused(runtime):
    folder = runtime / "s"
    folder.mkdir(mode=0o700)
    os.chown(folder, 65_534, 65_534)
    with pytest.raises(ConnectError):
        async with listening(folder / "x.sock"):
            pass


# ---- what is there already -------------------------------------------------------------------------------------------------------


async def test_a_live_listener_keeps_its_socket(runtime):
    path = runtime / "s" / "x.sock"
    async with listening(path) as first:
        with pytest.raises(StateInUseError) as caught:
            async with listening(path):
                pass
        assert (caught.value.pid, caught.value.url) == (os.getpid(), f"unix://{path}")
        near = await connect(path)
        far = await first.accept()
        near.close()
        far.close()


async def test_the_socket_of_a_killed_process_is_taken_over(runtime):
    path = runtime / "s" / "x.sock"
    script = """
import sys
from pathlib import Path
from bus.transport.unix import listen
listener = listen(Path(sys.argv[1]))
print("there", flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # noqa: ASYNC220  it starts at once
        assert other.stdout is not None
        assert other.stdout.readline() == b"there\n"
        with pytest.raises(StateInUseError) as caught:
            async with listening(path):
                pass
        assert caught.value.pid == other.pid
        other.kill()
    assert path.exists()
    with pytest.raises(ConnectError):
        await connect(path)
    async with listening(path) as listener:
        near = await connect(path)
        (await listener.accept()).close()
        near.close()


async def test_a_file_that_is_no_socket_is_not_removed(runtime):
    path = runtime / "s" / "x.sock"
    path.parent.mkdir(mode=0o700)
    path.write_text("dear diary")
    with pytest.raises(ConnectError):
        async with listening(path):
            pass
    assert path.read_text() == "dear diary"


async def test_a_link_in_place_of_the_lock_is_not_followed(runtime):
    path = runtime / "s" / "x.sock"
    path.parent.mkdir(mode=0o700)
    (runtime / "precious").write_text("keep me")
    path.with_name("x.sock.lock").symlink_to(runtime / "precious")
    with pytest.raises(ConnectError):
        async with listening(path):
            pass
    assert (runtime / "precious").read_text() == "keep me"


async def test_a_closed_listener_takes_its_file_along_but_not_its_successors(runtime):
    path = runtime / "s" / "x.sock"
    async with listening(path):
        assert path.exists()
    assert not path.exists()
    async with listening(path) as listener:
        path.unlink()
        path.write_text("somebody else's")
        await listener.aclose()
        assert path.read_text() == "somebody else's"
        await listener.aclose()  # twice is fine


async def test_closing_a_listener_wakes_who_waits_for_a_caller(runtime):
    async with listening(runtime / "s" / "x.sock") as listener:
        ended: list[bool] = []

        async def wait(listener: UnixListener) -> None:
            with pytest.raises(ConnectionLostError):
                await listener.accept()
            ended.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait, listener)
            await anyio.wait_all_tasks_blocked()
            await listener.aclose()
        assert ended


# ---- getting there ---------------------------------------------------------------------------------------------------------------


async def test_nothing_there_is_a_connect_error(runtime):
    with pytest.raises(ConnectError):
        await connect(runtime / "nothing.sock")
    (runtime / "file").write_text("")
    with pytest.raises(ConnectError):
        await connect(runtime / "file")


async def test_a_path_has_107_bytes_at_most_at_both_ends(runtime):
    folder = runtime / "s"
    room = MAX_PATH_BYTES - len(os.fsencode(folder)) - 1
    async with listening(folder / ("x" * room)) as listener:
        near = await connect(listener.path)
        (await listener.accept()).close()
        near.close()
    for too_long in (folder / ("x" * (room + 1)), folder / ("é" * (room // 2 + 1))):
        with pytest.raises(ConnectError):
            await connect(too_long)
        with pytest.raises(ConnectError):
            async with listening(too_long):
                pass


async def test_a_door_with_a_crowd_in_front_is_waited_for_and_then_given_up(runtime, monkeypatch):
    monkeypatch.setattr(unix, "BACKLOG", 0)
    async with listening(runtime / "s" / "x.sock") as listener:
        first = await connect(listener.path)
        with pytest.raises(ConnectError):
            await connect(listener.path, timeout_seconds=0.05)
        came: list[UnixStream] = []

        async def come() -> None:
            came.append(await connect(listener.path))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(come)
            (await listener.accept()).close()
        (await listener.accept()).close()
        came[0].close()
        first.close()
