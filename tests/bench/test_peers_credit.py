from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

from bus.bench.peers.credit import Credit, crediting


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "credit")
    return tmp_path / "credit"


@pytest.mark.anyio
async def test_a_sender_stays_within_the_window_until_the_reader_has_got_a_chunk(pipe):
    sender, passed = Credit(pipe, window=40, chunk=10, readers=1), 0
    take, close = crediting(lambda _: None, pipe, chunk=10)

    async def send() -> None:
        nonlocal passed
        while True:
            await sender.room()
            passed += 1

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        assert passed == 4
        for _ in range(9):
            take(b"")
        await anyio.wait_all_tasks_blocked()
        assert passed == 4
        take(b"")
        while passed < 5:
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()
        assert passed == 5
        group.cancel_scope.cancel()
    close()
    sender.close()


@pytest.mark.anyio
async def test_there_is_room_when_every_reader_has_got_the_chunk(pipe):
    sender = Credit(pipe, window=20, chunk=10, readers=2)
    readers = [crediting(lambda _: None, pipe, chunk=1) for _ in range(2)]
    await sender.room()
    await sender.room()
    readers[0][0](b"")
    with anyio.move_on_after(0.01) as scope:
        await sender.room()
    assert scope.cancelled_caught
    readers[1][0](b"")
    await sender.room()
    for _, close in readers:
        close()
    sender.close()


@pytest.mark.anyio
async def test_what_was_lost_gets_its_room_back(pipe):
    sender = Credit(pipe, window=20, chunk=10, readers=1, lost_after=0.01)
    for _ in range(5):
        await sender.room()
    sender.close()


def test_a_reader_whose_sender_has_ended_goes_on(pipe):
    seen = []
    take, close = crediting(seen.append, pipe, chunk=1)
    for _ in range(70_000):
        take(b"")
    close()
    assert len(seen) == 70_000
