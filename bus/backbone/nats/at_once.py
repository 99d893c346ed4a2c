"""Many questions at once, but not all of them: NATS answers one in a millisecond or in a hundred, and each waits here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import anyio

from bus.errors import BusError

AT_ONCE: Final = 32

A = TypeVar("A")
B = TypeVar("B")


async def at_once(ask: Callable[[A], Awaitable[B]], items: Sequence[A]) -> list[B]:
    """Each answer at the place of its question. The first BusError ends all of it, and is raised as it is."""
    answers: dict[int, B] = {}
    errors: list[BusError] = []
    left = iter(enumerate(items))

    async def work() -> None:
        for place, item in left:
            try:
                answers[place] = await ask(item)
            except BusError as error:
                errors.append(error)
                tasks.cancel_scope.cancel()
                return

    async with anyio.create_task_group() as tasks:
        for _ in range(min(AT_ONCE, len(items))):
            tasks.start_soon(work)
    if errors:
        raise errors[0]
    return [answers[place] for place in range(len(items))]
