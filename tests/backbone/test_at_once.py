"""Many questions at once: answers in their places, not more than may be, and the first error as it is."""

from __future__ import annotations

import anyio
import pytest

from bus.backbone.nats.at_once import AT_ONCE, at_once
from bus.errors import BackboneError

pytestmark = pytest.mark.anyio


async def test_answers_have_the_places_of_their_questions_and_so_many_wait_at_a_time():
    waiting: list[anyio.Event] = []
    found: list[int] = []

    async def ask(number: int) -> int:
        waiting.append(anyio.Event())
        await waiting[number].wait()
        return -number

    async with anyio.create_task_group() as tasks:

        async def all_of_them() -> None:
            found.extend(await at_once(ask, range(100)))

        tasks.start_soon(all_of_them)
        await anyio.wait_all_tasks_blocked()
        assert len(waiting) == AT_ONCE
        while not found:
            for event in waiting[::-1]:
                event.set()
            await anyio.wait_all_tasks_blocked()
    assert found == [-number for number in range(100)]


async def test_nothing_is_asked_for_nothing():
    assert await at_once(lambda item: item, []) == []


async def test_the_first_error_ends_all_of_it():
    async def ask(number: int) -> None:
        if number == 5:
            raise BackboneError("disk", "no")
        await anyio.sleep_forever()

    with pytest.raises(BackboneError) as failed:
        await at_once(ask, range(100))
    assert failed.value.code == "disk"
