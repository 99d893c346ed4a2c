"""The books of the reference traffic: what is due, and that every difference has its reason or is shown."""

from __future__ import annotations

import pytest

from bus.fleet.books import books, readers
from bus.fleet.mix import Hears, Mix
from bus.policy import open_policy

HEARS = (
    Hears("MONITOR", ">", None, None, answers=False),
    Hears("WEB", "tasks.*", None, None, answers=False),
    Hears("PYTHON", "tasks.>", "builders", None, answers=False),
    Hears("RUST", "tasks.>", "builders", None, answers=False),
    Hears("LINTER", "tasks.>", "linters", None, answers=False),
)
MIX = Mix((), HEARS, open_policy())


@pytest.mark.parametrize(("topic", "count"), [("tasks.a", 4), ("tasks.a.b", 3), ("other", 1), ("incidents.seen", 0)])
def test_a_group_takes_a_message_once_and_nobody_what_they_may_not_hear(topic, count):
    assert readers(MIX, topic) == count


def play(**changes):
    return {
        "published": {"tasks.a": 10, "other": 5},
        "delivered": {"tasks.a": 40, "other": 5},
        "dropped": {},
        "not_sent": {},
    } | changes


def test_what_was_published_was_delivered():
    found = books(MIX, play(), dropped={}, refused={})
    assert (found["messages"], found["published"], found["delivered"], found["unaccounted"]) == (15, 45, 45, 0)


def test_what_was_dropped_or_refused_is_accounted_for_by_reason():
    seen = play(delivered={"tasks.a": 33, "other": 4}, dropped={"missed": 3})
    found = books(MIX, seen, dropped={"expired": 2, "link_full": 0}, refused={"replayed": 3})
    assert found["dropped"] == {"missed": 3, "expired": 2}
    assert found["refused"] == {"replayed": 3}
    assert found["unaccounted"] == 0


def test_what_nobody_explains_is_shown_and_so_is_what_came_twice():
    assert books(MIX, play(delivered={"other": 5}), dropped={}, refused={})["unaccounted"] == 40
    assert books(MIX, play(delivered={"tasks.a": 41, "other": 5}), dropped={}, refused={})["unaccounted"] == -1


def test_what_was_dropped_or_refused_of_other_messages_explains_nothing():
    found = books(MIX, play(delivered={"tasks.a": 39, "other": 5}), dropped={"expired": 2}, refused={"missing_key": 3})
    assert (found["dropped"], found["refused"], found["unaccounted"]) == ({"expired": 1}, {}, 0)
    assert found["besides"] == {"dropped": {"expired": 1}, "refused": {"missing_key": 3}}


def test_what_was_never_sent_is_no_part_of_it():
    found = books(MIX, play(not_sent={"overloaded": 7}), dropped={}, refused={})
    assert (found["not_sent"], found["unaccounted"]) == ({"overloaded": 7}, 0)
