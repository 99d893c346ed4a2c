"""The open loop: when each message is due is a matter of the clock alone."""

from __future__ import annotations

import time
from itertools import pairwise

import anyio
import pytest

from bus.bench.order import Order
from bus.bench.pace import Pace
from bus.bench.record import STAMP_EVERY, stamp_every
from bus.bench.ticking import ticks

ORDER = Order(number=1, rate=1_000.0, begin_ns=1_000_000_000, warm_seconds=0.5, seconds=1.0, size=64)


@pytest.mark.parametrize(("passed_ms", "due"), [(-5, 0), (0, 1), (0.9, 1), (1, 2), (10.5, 11), (1_499, 1_500), (9_999, 1_500)])
def test_what_is_due_is_what_the_clock_says(passed_ms, due):
    pace = Pace(ORDER, now_ns=lambda: ORDER.begin_ns + round(passed_ms * 1e6))
    assert pace.due() == due


def test_several_senders_take_turns_and_come_to_the_rate():
    paces = [Pace(ORDER, sender=sender, senders=3) for sender in range(3)]
    dues = sorted(pace.due_ns(number) for pace in paces for number in range(pace.total))
    assert len(dues) == 1_500
    assert {later - earlier for earlier, later in pairwise(dues)} <= {999_999, 1_000_000, 1_000_001}


def test_above_a_hundred_thousand_one_in_64_is_stamped():
    assert [stamp_every(rate) for rate in (100, 100_000, 100_001)] == [1, 1, STAMP_EVERY]


def test_an_order_travels_as_json():
    assert Order.unpacked(ORDER.packed()) == ORDER
    assert ORDER.measure_ns < ORDER.end_ns < ORDER.deadline_ns


@pytest.mark.anyio
async def test_ticks_come_and_end():
    begun = time.monotonic_ns()
    async with ticks(0.002, begun) as tick:
        with anyio.fail_after(5):
            for _ in range(5):
                await tick()
    assert time.monotonic_ns() - begun >= 4 * 2_000_000


@pytest.mark.anyio
async def test_who_comes_late_is_woken_at_once_and_once():
    begun = time.monotonic_ns() - 1_000_000_000
    async with ticks(0.5, begun) as tick:
        with anyio.fail_after(5):
            await tick()
            late_ns = time.monotonic_ns() - begun
            await tick()
    assert late_ns < 1_500_000_000 <= time.monotonic_ns() - begun


@pytest.mark.anyio
async def test_ticks_end_where_nobody_waits_for_them():
    with anyio.fail_after(5):
        async with ticks(3_600, time.monotonic_ns() + 3_600_000_000_000):
            pass
