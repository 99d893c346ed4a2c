"""A context in a task of its own: whoever is inside may leave from anywhere, and hears of everything once, as it was raised."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from bus.errors import ClosedError
from bus.hub.household import Household, Leaving
from bus.testing import ManualClock


class BodyError(Exception):
    pass


class HouseError(Exception):
    pass


class House:
    """With a task group, a background task that can be made to fail, and something to put in order at the end."""

    def __init__(self, *, fails_at: str = "", tidying_seconds: float = 0.0) -> None:
        self.clock = ManualClock()
        self.fails_at, self.tidying_seconds = fails_at, tidying_seconds
        self.breaks = anyio.Event()
        self.tidied: bool | None = None
        self.is_open = False

    def __call__(self) -> Household[House]:
        return Household(self._inside, clock=self.clock)

    @asynccontextmanager
    async def _inside(self, leaving: Leaving) -> AsyncIterator[House]:
        async with anyio.create_task_group() as outer, anyio.create_task_group() as tasks:
            outer.start_soon(anyio.sleep_forever)
            tasks.start_soon(self._run)
            self.is_open = True
            try:
                if self.fails_at == "opening":
                    raise HouseError
                if self.fails_at == "never ready":
                    await anyio.sleep_forever()
                yield self
                self.tidied = await leaving.within(self._tidy)
                if self.fails_at == "closing":
                    raise HouseError
            finally:
                self.is_open = False
            outer.cancel_scope.cancel()
            tasks.cancel_scope.cancel()

    async def _run(self) -> None:
        await self.breaks.wait()
        raise HouseError from OSError("the cause")

    async def _tidy(self) -> None:
        await self.clock.sleep(self.tidying_seconds)


async def inside(house: House, body: Callable[[], Awaitable[None]]) -> None:
    async with house():
        await body()


async def settle(*, until: Callable[[], bool]) -> None:
    with anyio.fail_after(30):
        while not until():
            await checkpoint()


# ---- what passes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_the_body_has_the_value_and_leaves_in_order():
    house = House()
    async with house() as value:
        assert value is house
        assert house.is_open
    assert (house.is_open, house.tidied) == (False, True)


@pytest.mark.anyio
async def test_the_bodys_exception_passes_as_it_is():
    house = House()
    with pytest.raises(BodyError) as caught:
        async with house():
            raise BodyError
    assert caught.value.__context__ is None
    assert house.tidied


@pytest.mark.anyio
async def test_what_fails_in_the_background_cancels_the_body_and_is_raised_alone():
    house, reached = House(), []

    async def body() -> None:
        house.breaks.set()
        try:
            await anyio.sleep_forever()
        finally:
            reached.append("cancelled")

    with pytest.raises(HouseError) as caught:
        await inside(house, body)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__suppress_context__
    assert reached == ["cancelled"]
    assert not house.is_open
    await checkpoint()  # nothing of the cancellation is left


@pytest.mark.anyio
async def test_a_body_with_tasks_of_its_own_is_cancelled_with_them():
    house, ended = House(), []

    async def wait() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append(1)

    async def body() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            house.breaks.set()

    with pytest.raises(HouseError):
        await inside(house, body)
    assert ended == [1]


@pytest.mark.anyio
async def test_when_both_fail_the_bodys_exception_is_raised_and_names_the_other(caplog):
    house = House()

    async def body() -> None:
        house.breaks.set()
        try:
            await anyio.sleep_forever()
        finally:
            raise BodyError

    with pytest.raises(BodyError) as caught:
        await inside(house, body)
    assert any("HouseError" in note for note in caught.value.__notes__)
    assert "HouseError" in caplog.text


@pytest.mark.anyio
async def test_a_body_that_only_hears_that_all_is_closed_hears_why():
    house = House()

    async def body() -> None:
        house.breaks.set()
        with anyio.CancelScope(shield=True):
            await settle(until=lambda: not house.is_open)
        raise ClosedError("what it used")

    with pytest.raises(HouseError):
        await inside(house, body)


@pytest.mark.anyio
async def test_a_failure_in_an_idle_moment_is_raised_when_the_body_leaves():
    house = House()

    async def body() -> None:
        house.breaks.set()
        with anyio.CancelScope(shield=True):
            await settle(until=lambda: not house.is_open)

    with pytest.raises(HouseError):
        await inside(house, body)


@pytest.mark.anyio
@pytest.mark.parametrize("moment", ["opening", "closing"])
async def test_what_fails_while_it_opens_or_closes_is_raised_there(moment):
    house = House(fails_at=moment)
    entered = False
    with pytest.raises(HouseError):
        async with house():
            entered = True
    assert entered == (moment == "closing")
    assert not house.is_open


@pytest.mark.anyio
async def test_a_failure_while_it_closes_does_not_hide_the_bodys():
    with pytest.raises(BodyError):
        async with House(fails_at="closing")():
            raise BodyError


@pytest.mark.anyio
async def test_it_is_entered_once():
    household = House()()
    async with household:
        pass
    with pytest.raises(ClosedError):
        async with household:
            pass


# ---- cancelled -----------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_cancelled_while_it_opens_it_puts_away_what_it_had():
    house = House(fails_at="never ready")
    async with anyio.create_task_group() as tasks:

        async def enter() -> None:
            async with house():
                raise AssertionError("it never opened")

        tasks.start_soon(enter)
        await settle(until=lambda: house.is_open)
        tasks.cancel_scope.cancel()
    assert not house.is_open


@pytest.mark.anyio
async def test_a_cancelled_body_is_cancelled_and_the_house_put_in_order():
    house = House()
    with anyio.CancelScope() as scope:
        async with house():
            scope.cancel()
            await checkpoint()
    assert scope.cancelled_caught
    assert house.tidied
    assert not house.is_open


@pytest.mark.anyio
@pytest.mark.parametrize(("raises", "seconds"), [(False, 5.0), (True, 1.0)])
async def test_there_are_five_seconds_to_put_things_in_order_and_one_after_a_failure(raises, seconds):
    house = House(tidying_seconds=1_000)
    async with anyio.create_task_group() as tasks:

        async def body() -> None:
            if raises:
                raise BodyError

        async def live() -> None:
            try:
                await inside(house, body)
            except BodyError:
                assert raises

        tasks.start_soon(live)
        await anyio.wait_all_tasks_blocked()
        house.clock.advance(seconds - 0.01)
        await anyio.wait_all_tasks_blocked()
        assert house.is_open
        house.clock.advance(0.01)
        await settle(until=lambda: not house.is_open)
    assert house.tidied is False


@pytest.mark.anyio
async def test_who_is_cancelled_while_leaving_waits_a_second_more_at_most():
    house = House(tidying_seconds=1_000)
    async with anyio.create_task_group() as tasks:

        async def live() -> None:
            async with house():
                pass

        tasks.start_soon(live)
        await anyio.wait_all_tasks_blocked()
        house.clock.advance(0.5)
        tasks.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            for _ in range(20):
                await checkpoint()
            assert house.is_open
            house.clock.advance(1.0)
    assert not house.is_open


# ---- from anywhere -------------------------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_it_works_in_a_stack_beside_task_groups():
    one, other = House(), House()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(one())
        tasks = await stack.enter_async_context(anyio.create_task_group())
        await stack.enter_async_context(other())
        tasks.start_soon(checkpoint)
    assert (one.tidied, other.tidied) == (True, True)


@pytest.fixture
async def a_house(anyio_backend: Any) -> AsyncIterator[House]:
    async with House()() as house:
        yield house
    assert house.tidied


@pytest.mark.anyio
async def test_it_works_in_a_fixture(a_house):
    assert a_house.is_open


only_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio", ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"])
"""Trio wants what can cancel to be left in order, by the task that entered it."""


@pytest.mark.anyio
@only_asyncio
async def test_two_are_left_in_any_order_and_from_another_task():
    one, other = House(), House()
    first, second = one(), other()
    async with anyio.create_task_group() as tasks:
        await first.__aenter__()
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        assert (one.is_open, other.is_open) == (False, True)
        tasks.start_soon(second.__aexit__, None, None, None)
    assert (one.tidied, other.tidied) == (True, True)


@pytest.mark.anyio
@only_asyncio
async def test_a_failure_is_raised_to_whoever_leaves_even_if_another_task_had_entered():
    house = House()
    household = house()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(household.__aenter__)
    house.breaks.set()
    await settle(until=lambda: not house.is_open)
    with pytest.raises(HouseError):
        await household.__aexit__(None, None, None)


@pytest.mark.anyio
@only_asyncio
async def test_a_body_that_is_cancelled_from_outside_too_stays_cancelled():
    house = House()
    with anyio.CancelScope() as scope:
        async with house():
            house.breaks.set()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
