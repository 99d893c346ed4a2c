"""The system's clock, where it must agree with the one that tests turn."""

from __future__ import annotations

import anyio
import pytest

from bus.clock import SystemClock
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()], ids=["system", "manual"])
@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_an_instant_that_has_passed_is_not_waited_for(clock, seconds):
    await clock.sleep(seconds)


async def test_an_alarm_rings_once_its_time_has_come_unless_it_was_called_off():
    clock, rung = ManualClock(), []
    clock.alarm(2.0, lambda: rung.append("second"))
    clock.alarm(1.0, lambda: rung.append("first"))
    called_off = clock.alarm(1.0, lambda: rung.append("called off"))
    called_off()
    clock.advance(0.9)
    assert rung == []
    clock.advance(0.2)
    assert rung == ["first"]
    called_off()
    clock.advance(5)
    assert rung == ["first", "second"]


async def test_the_systems_alarm_rings_where_the_loop_has_one(anyio_backend_name):
    rung, called_off = anyio.Event(), anyio.Event()
    cancel = SystemClock().alarm(0.0, called_off.set)
    if anyio_backend_name == "trio":
        assert cancel is None
        return
    cancel()
    assert SystemClock().alarm(0.001, rung.set) is not None
    with anyio.fail_after(60):
        await rung.wait()
    assert not called_off.is_set()
