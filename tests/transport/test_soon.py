"""Functions for the next turn of the loop."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from bus.transport import apart
from bus.transport.soon import scheduler, soon


@pytest.mark.anyio
async def test_they_run_in_their_order_and_not_at_once():
    ran: list[int] = []
    done = anyio.Event()
    for number in range(5):
        soon(lambda number=number: ran.append(number))
    scheduler()(done.set)
    assert ran == []
    with anyio.fail_after(30):
        await done.wait()
    assert ran == [0, 1, 2, 3, 4]


@pytest.mark.anyio
async def test_what_they_ask_for_comes_after_them():
    ran: list[str] = []
    done = anyio.Event()

    def first() -> None:
        soon(lambda: ran.append("after"))
        soon(done.set)
        ran.append("first")

    soon(first)
    soon(lambda: ran.append("second"))
    with anyio.fail_after(30):
        await done.wait()
    assert ran == ["first", "second", "after"]


@pytest.mark.parametrize("how", ["soon", "apart"])
def test_in_a_program_that_anyio_did_not_start_it_knows_the_loop_all_the_same(how):
    """A web server's, say: in a callback there is no task by which anyio could tell."""

    async def main() -> None:
        done = asyncio.Event()

        async def finish() -> None:
            done.set()

        async def from_its_callbacks() -> None:
            asyncio.get_running_loop().call_soon(tasks.start_soon, finish)

        async with anyio.create_task_group() as tasks:
            if how == "soon":
                soon(lambda: tasks.start_soon(finish))
            else:
                house = apart.start(from_its_callbacks)
            await asyncio.wait_for(done.wait(), 5)
        if how == "apart":
            await house

    asyncio.run(main())


def test_without_a_loop_there_is_no_next_turn():
    with pytest.raises(RuntimeError):
        soon(lambda: None)
