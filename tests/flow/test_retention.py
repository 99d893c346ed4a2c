"""When something that is kept may go."""

from __future__ import annotations

import pytest

from bus.flow.retention import Limits, Retention

DAY = 86_400_000


@pytest.mark.parametrize(
    ("passed_ms", "floor", "until_ms", "goes"),
    [
        (9 * DAY, 0, 9 * DAY, True),  # nobody would accept it, whoever did not read it
        (9 * DAY - 1, 0, 9 * DAY, False),
        (8 * DAY, 40, 9 * DAY, True),  # its class keeps nothing so old, and everybody is past it
        (8 * DAY - 1, 40, 9 * DAY, False),
        (8 * DAY, 39, 9 * DAY, False),  # somebody is not
    ],
)
def test_a_record_goes_when_it_is_of_no_use_or_old_and_read(passed_ms, floor, until_ms, goes):
    retention = Retention(passed_ms, {"work.>": Limits(7 * DAY, floor)})
    assert retention.ended("work.>", last=40, stored_ms=DAY, until_ms=until_ms) is goes


def test_a_class_that_nobody_knows_goes_when_it_is_of_no_use():
    retention = Retention(9 * DAY, {})
    assert not retention.ended("work.>", last=1, stored_ms=0, until_ms=9 * DAY + 1)
    assert retention.ended("work.>", last=1, stored_ms=0, until_ms=9 * DAY)
