"""The system's clock, where it must agree with the one that tests turn."""

from __future__ import annotations

import pytest

from bus.clock import SystemClock
from bus.testing import ManualClock

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("clock", [SystemClock(), ManualClock()], ids=["system", "manual"])
@pytest.mark.parametrize("seconds", [0.0, -1.0])
async def test_an_instant_that_has_passed_is_not_waited_for(clock, seconds):
    await clock.sleep(seconds)
