"""Suggestions: near ones, and in bounded time whatever is asked."""

from __future__ import annotations

import pytest

from bus.policy import load
from bus.policy.near import MAX_HINTS, Hints, hint, nearest

NAMES = ["DIRECTOR", "COORDINATOR", "MONITOR", "WEB"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [("DIRCTOR", "DIRECTOR"), ("director", "DIRECTOR"), ("MONITR", "MONITOR"), ("XYZ", None), ("", None), ("D" * 1_000_000, None)],
)
def test_the_nearest_name_or_none(word, expected):
    assert nearest(word, NAMES) == expected
    assert hint(word, NAMES) == ("" if expected is None else f"; did you mean {expected!r}?")


def test_among_very_many_names_only_likely_ones_are_compared(monkeypatch):
    compared = []
    monkeypatch.setattr("bus.policy.near.get_close_matches", lambda _word, names, **_: compared.extend(names) or [])
    nearest("B12X", [f"A{number}" for number in range(50_000)] + [f"B{number}" for number in range(50_000)])
    assert len(compared) == 500
    assert {name[0] for name in compared} == {"B"}


def test_help_for_an_unknown_agent_of_a_large_fleet():
    agents = "".join(f"  AGENT{number}: x\n" for number in range(10_000))
    policy = load({"p": f"version: 1\nroles: {{x: {{key: ecc256/sha256}}}}\nagents:\n{agents}"})
    assert nearest("AGENT1234X", policy.agents) is not None


def test_a_budget_of_hints_is_for_different_words():
    hints = Hints(NAMES)
    for number in range(MAX_HINTS):
        hints(f"nothing like it {number}")
    assert hints("DIRCTOR") == ""
    fresh = Hints(NAMES)
    assert all(fresh("DIRCTOR").endswith("'DIRECTOR'?") for _ in range(2 * MAX_HINTS))
