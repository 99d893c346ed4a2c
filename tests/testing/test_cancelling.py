"""Cancelled at each of its checkpoints, a scenario that cleans up passes, and one that does not is found out, with the place."""

from __future__ import annotations

import math
import os
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest

from bus.testing import LeftBehindError, ManualClock, cancel_everywhere, cancelling

pytestmark = pytest.mark.anyio


class Desk:
    """A thing that serves: callers wait in a queue, and it has a task for each who asked for one."""

    def __init__(self, tasks: anyio.abc.TaskGroup | None = None) -> None:
        self.queue: list[anyio.Event] = []
        self.served = 0
        self.credit = 3
        self.tasks = tasks

    def statistics(self) -> dict[str, object]:
        return {"served": self.served, "callers": {"waiting": len(self.queue)}, "credit": self.credit, "name": "desk"}


async def found(scenario: Callable[..., object], *watched, **options) -> LeftBehindError:
    with pytest.raises(LeftBehindError) as caught:
        await cancel_everywhere(scenario, *watched, **options)
    return caught.value


async def test_a_scenario_that_cleans_up_passes_and_its_checkpoints_are_counted():
    desk = Desk()
    ends = []

    async def scenario() -> None:
        place = anyio.Event()
        desk.queue.append(place)
        try:
            await anyio.lowlevel.checkpoint()
            await anyio.lowlevel.checkpoint()
            desk.served += 1
            ends.append("whole")
        finally:
            desk.queue.remove(place)

    assert await cancel_everywhere(scenario, desk) == 2
    assert desk.served == len(ends) >= 3  # without cancelling, and past its last checkpoint


async def test_a_queue_entry_that_stays_is_found_with_the_checkpoint_that_leaves_it():
    desk = Desk()

    async def scenario() -> None:
        await anyio.lowlevel.checkpoint()
        desk.queue.append(anyio.Event())
        await anyio.lowlevel.checkpoint()
        desk.queue.pop()

    error = await found(scenario, desk)
    assert error.checkpoint == 2
    assert error.left == {"Desk.callers.waiting": (0, 1)}


async def test_what_only_ever_grows_is_no_leak_and_what_is_called_otherwise_can_be_named():
    desk = Desk()

    async def scenario() -> None:
        desk.served += 1
        await anyio.lowlevel.checkpoint()

    assert await cancel_everywhere(scenario, desk) == 1
    error = await found(scenario, desk, at_rest={"served"})
    assert (error.checkpoint, list(error.left)) == (0, ["Desk.served"])


async def test_of_what_a_function_gives_everything_counts():
    desk = Desk()

    async def scenario() -> None:
        desk.credit -= 1
        await anyio.lowlevel.checkpoint()
        desk.credit += 1

    error = await found(scenario, lambda: {"left": desk.credit})
    assert error.checkpoint == 1
    assert list(error.left.values()) == [(3, 2)]


async def test_a_task_that_stays_is_found():
    async def forgotten(scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep(math.inf)

    async with anyio.create_task_group() as elsewhere:

        async def scenario() -> None:
            scope = anyio.CancelScope()
            elsewhere.start_soon(forgotten, scope)
            await anyio.lowlevel.checkpoint()
            scope.cancel()

        error = await found(scenario)
        assert any("forgotten" in name for name in error.left)
        elsewhere.cancel_scope.cancel()


async def test_a_descriptor_that_stays_is_found():
    opened = []

    async def scenario() -> None:
        ends = os.pipe()
        opened.extend(ends)
        await anyio.lowlevel.checkpoint()
        for end in ends:
            os.close(end)
            opened.remove(end)

    error = await found(scenario)
    assert error.checkpoint == 1
    assert set(error.left) == {f"descriptor {number}" for number in opened}
    for end in opened:
        os.close(end)


async def test_checkpoints_of_the_tasks_that_it_starts_count_too():
    desk = Desk()

    async def one() -> None:
        await anyio.lowlevel.checkpoint()
        desk.queue.append(anyio.Event())
        await anyio.lowlevel.checkpoint()
        desk.queue.pop()

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)

    assert list((await found(scenario, desk)).left) == ["Desk.callers.waiting"]


class Counter:
    """A clerk hands out credits, to one caller every few turns."""

    def __init__(self) -> None:
        self.credit, self.asked = 1, []

    def statistics(self) -> dict[str, int]:
        return {"credit": self.credit}

    async def serve(self) -> None:
        while True:
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            if self.asked and self.credit:
                self.credit -= 1
                self.asked.pop().set()


@pytest.mark.parametrize("careful", [True, False])
async def test_what_is_handed_over_in_the_moment_of_the_cancellation_must_not_get_lost(careful):
    """Both take back what they asked for. Only one gives back what it had been given in between."""
    counter = Counter()

    async def scenario() -> None:
        for _ in range(5):
            mine = anyio.Event()
            counter.asked.append(mine)
            try:
                await mine.wait()
            except anyio.get_cancelled_exc_class():
                if mine in counter.asked:
                    counter.asked.remove(mine)
                elif careful:
                    counter.credit += 1
                raise
            counter.credit += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(counter.serve, name="clerk")
        if careful:
            assert await cancel_everywhere(scenario, counter) == 5
        else:
            assert (await found(scenario, counter)).left == {"Counter.credit": (1, 0)}
        tasks.cancel_scope.cancel()


async def test_what_its_first_run_leaves_open_may_stay_open_and_no_more_than_that():
    desk = Desk()

    async def scenario(most: int) -> None:
        await anyio.lowlevel.checkpoint()
        if len(desk.queue) < most:
            desk.queue.append(anyio.Event())

    assert await cancel_everywhere(lambda: scenario(1), desk) == 1
    error = await found(lambda: scenario(9), desk)
    assert error.left == {"Desk.callers.waiting": (2, 3)}


async def test_what_ends_by_itself_a_little_later_is_not_left_behind():
    async with anyio.create_task_group() as elsewhere:

        async def linger() -> None:
            for _ in range(20):
                await anyio.lowlevel.checkpoint()

        async def scenario() -> None:
            elsewhere.start_soon(linger)
            await anyio.lowlevel.checkpoint()

        assert await cancel_everywhere(scenario) >= 1


async def test_a_clock_can_be_turned_before_anybody_looks():
    clock, desk = ManualClock(), Desk()

    async def scenario() -> None:
        desk.credit -= 1
        elsewhere.start_soon(give_back)
        await anyio.lowlevel.checkpoint()

    async def give_back() -> None:
        await clock.sleep(5)
        desk.credit += 1

    async def settle() -> None:
        await anyio.wait_all_tasks_blocked()
        clock.advance(5)

    async with anyio.create_task_group() as elsewhere:
        assert await cancel_everywhere(scenario, desk, settle=settle) >= 1


async def test_what_a_scenario_makes_itself_must_come_to_nothing():
    async def scenario(watch) -> None:
        desk = Desk()
        desk.credit = 0
        watch(desk)
        desk.queue.append(anyio.Event())
        await anyio.lowlevel.checkpoint()
        desk.queue.pop()

    error = await found(scenario)
    assert error.checkpoint == 1
    assert error.left == {"made by it: Desk.callers.waiting": (0, 1)}


async def test_an_error_in_place_of_the_cancellation_is_told():
    async def scenario() -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException as error:
            raise ValueError("instead") from error

    error = await found(scenario)
    assert error.checkpoint == 1
    assert isinstance(error.__cause__, ValueError)


async def test_who_does_not_end_when_it_is_cancelled_is_told_of(monkeypatch):
    go_on = anyio.Event()

    async def scenario() -> None:
        try:
            await anyio.lowlevel.checkpoint()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(0.5):
                await go_on.wait()

    go_on.set()
    assert await cancel_everywhere(scenario) >= 1
    go_on = anyio.Event()
    monkeypatch.setattr(cancelling, "PATIENCE_SECONDS", 0.05)
    assert list((await found(scenario)).left) == ["the scenario"]


async def test_a_scenario_that_has_not_begun_is_cancelled_without_a_warning():
    async def child() -> None:
        await anyio.lowlevel.checkpoint()

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(child)
            await anyio.lowlevel.cancel_shielded_checkpoint()

    assert await cancel_everywhere(scenario) >= 4


async def test_timeouts_threads_and_other_loops_habits_go_on_as_they_did():
    async def scenario() -> None:
        with anyio.move_on_after(0.001):
            await anyio.sleep(math.inf)
        assert await anyio.to_thread.run_sync(lambda: 7) == 7
        send, receive = anyio.create_memory_object_stream[int](1)
        async with send, receive:
            await send.send(1)
            assert await receive.receive() == 1

    assert await cancel_everywhere(scenario) >= 4
