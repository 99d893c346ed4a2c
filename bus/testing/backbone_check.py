"""One check for every backbone: memory, journal, NATS.

`await check_backbone(make)` runs it; `make(clock)` gives an async context manager with a fresh, empty backbone whose times are this
clock's, and whose `run` runs. It raises AssertionError with what is wrong, or what the backbone raised where it had no reason to.

By default a `ManualClock` is turned. A backbone whose server keeps its own time is checked with `clock=SystemClock()`: then the
check really waits, and leaves out what takes minutes. While one part waits others run, each with a backbone of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

import anyio

from bus.backbone.interface import Backbone
from bus.clock import Clock
from bus.testing import backbone_bench
from bus.testing import backbone_consuming as consuming
from bus.testing import backbone_keeping as keeping
from bus.testing.backbone_bench import RECORDS, WORK, Bench
from bus.testing.clock import ManualClock

Make = Callable[[Clock], AbstractAsyncContextManager[Backbone]]
Part = Callable[[Bench], Awaitable[None]]
_AT_ONCE: Final = 6


async def check_backbone(make: Make, *, clock: Clock | None = None) -> None:
    """Check a backbone. Each part begins with a fresh one."""
    if clock is None:
        for part in (*_PARTS, *_LONG_PARTS):
            await _check(part, make, ManualClock())
        return
    limit = anyio.CapacityLimiter(_AT_ONCE)

    async def check(part: Part) -> None:
        async with limit:
            await _check(part, make, clock)

    try:
        async with anyio.create_task_group() as tasks:
            for part in _PARTS:
                tasks.start_soon(check, part)
    except BaseExceptionGroup as group:
        raise _first(group) from group


async def _check(part: Part, make: Make, clock: Clock) -> None:
    async with make(clock) as backbone:
        await backbone.retain([WORK, RECORDS], passed_ms=0)
        try:
            with anyio.fail_after(backbone_bench.PATIENCE_SECONDS * 2):
                await part(Bench(backbone, clock))
        except BaseExceptionGroup as group:
            raise _first(group) from group


_PARTS: Final[Sequence[Part]] = (
    keeping.positions_grow_and_duplicates_have_the_first_one,
    keeping.many_appenders_keep_their_order,
    keeping.classes_are_apart,
    keeping.consumers_begin_where_they_say,
    keeping.patterns_choose,
    keeping.consumers_keep_what_they_are,
    consuming.nobody_gets_more_than_is_allowed,
    consuming.a_cancelled_take_loses_nothing,
    consuming.what_expired_is_not_handed_out,
    consuming.settling,
    consuming.what_nobody_settles_comes_again,
    consuming.who_waits_hears_of_what_is_due,
    consuming.naks_wait_longer_each_time,
    consuming.what_was_put_off_does_not_count,
    consuming.what_was_not_begun_does_not_count,
    consuming.what_was_put_off_for_too_long_is_a_dead_letter,
    consuming.what_is_given_up_is_a_dead_letter,
    consuming.dead_letters_can_be_requeued_and_dropped,
    keeping.grants_and_papers_are_kept_until_their_time,
    keeping.closing,
    keeping.numbers_add_up,
    keeping.nobody_else_is_heard,
)
_LONG_PARTS: Final[Sequence[Part]] = (
    keeping.duplicates_are_known_for_ten_minutes,
    keeping.unused_consumers_go,
    keeping.time_that_passed_takes_records_along,
)
"""For a clock that is turned."""


def _first(error: BaseException) -> BaseException:
    """What went wrong, without the groups of tasks around it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
