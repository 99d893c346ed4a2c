"""What may be logged: one of a kind a minute, whoever causes it."""

from __future__ import annotations

import pytest

from bus.flow import quiet
from bus.flow.quiet import Quiet


def test_one_of_a_kind_is_said_a_minute():
    log = Quiet()
    assert [log.may_say("junk", now=second) for second in (0.0, 0.0, 1.0, 59.9)] == [True, False, False, False]
    assert log.may_say("junk", now=60.0)
    assert not log.may_say("junk", now=119.0)


def test_kinds_are_told_apart_by_all_that_they_are():
    log = Quiet()
    kinds = [("in", "LEAD", "junk"), ("out", "LEAD", "junk"), ("in", "PAINTER", "junk"), ("in", "LEAD", "expired")]
    assert all(log.may_say(*kind, now=0.0) for kind in kinds)
    assert not any(log.may_say(*kind, now=1.0) for kind in kinds)


def test_kinds_that_are_remembered_have_a_bound(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(quiet, "MOST", 10)
    log = Quiet()
    for number in range(1_000):
        log.may_say(number, now=0.0)
        assert len(log._until) <= 10
