"""A bell wakes whoever waits, and forgets."""

from __future__ import annotations

import anyio
import pytest

from bus.transport.bell import bell

pytestmark = pytest.mark.anyio


async def test_all_who_wait_are_woken_and_nobody_later():
    one, woken = bell(), 0

    async def wait() -> None:
        nonlocal woken
        await one.wait()
        woken += 1

    one.ring()  # nobody waits yet
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert woken == 0
        one.ring()
        await anyio.wait_all_tasks_blocked()
        assert woken == 3
        tasks.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert woken == 3
        one.ring()
    assert woken == 4


async def test_who_is_cancelled_waits_no_more_and_the_others_do():
    one, woken = bell(), []

    async def wait(name: str, scope: anyio.CancelScope) -> None:
        with scope:
            await one.wait()
            woken.append(name)

    scopes = {name: anyio.CancelScope() for name in "abc"}
    async with anyio.create_task_group() as tasks:
        for name, scope in scopes.items():
            tasks.start_soon(wait, name, scope)
        await anyio.wait_all_tasks_blocked()
        scopes["b"].cancel()
        one.ring()  # before the one that is cancelled has gone
        await anyio.wait_all_tasks_blocked()
        assert {"a", "c"} <= set(woken)
        scopes["a"].cancel()
        one.ring()
    assert sorted(woken) in (["a", "c"], ["a", "b", "c"])


async def test_a_scope_that_is_cancelled_already_lets_nobody_wait():
    with anyio.CancelScope() as scope:
        scope.cancel()
        await bell().wait()
    assert scope.cancelled_caught
