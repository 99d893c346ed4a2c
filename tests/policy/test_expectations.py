"""Expectations beside a policy: what they catch, and that they are checked themselves."""

from __future__ import annotations

import re

import pytest

from bus.errors import PolicyError
from bus.policy import load
from bus.policy.expectations import run

POLICY = load(
    {
        "p.yaml": """version: 1
agents: {LEAD: lead, ONE: worker, TWO: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [tasks.>, control.>], subscribe: [results.>]}
  worker: {key: ecc256/sha256, publish: [results.>], subscribe: [tasks.>], groups: [{group: g, topics: [tasks.*]}]}
topics:
  - {match: control.>, signed_by: identity, priority: critical}
"""
    }
)


def failures(line: str, section: str = "allow") -> list[str]:
    outcome = run(POLICY, {"t.test.yaml": f"version: 1\n{section}:\n  - {line}\n"})
    assert outcome.count == 1
    return [f"{failure.line}:{failure.column}" for failure in outcome.failures]


@pytest.mark.parametrize(
    "line",
    [
        "{agent: LEAD, publish: tasks.build}",
        "{agent: LEAD, publish: control.stop, signed_by: identity, priority: critical, class: live, ttl: 60s}",
        "{agent: LEAD, publish: control.stop, suite: ecc384/sha3-384, kem: x25519, unit: envelope}",
        "{role: worker, subscribe: tasks.>}",
        "{role: worker, subscribe: tasks.build, group: g}",
    ],
)
def test_what_is_allowed_as_expected_passes(line):
    assert failures(line) == []
    assert failures(re.sub(r", (signed_by|suite).*", "}", line), "deny") == ["3:5"]


@pytest.mark.parametrize(
    "line",
    [
        "{agent: ONE, publish: tasks.build}",
        "{agent: NOBODY, publish: tasks.build}",
        "{role: nobody, publish: tasks.build}",
        "{role: worker, publish: tasks.build}",
        "{role: worker, subscribe: tasks.>, group: g}",
        "{role: worker, subscribe: tasks.build, group: other}",
    ],
)
def test_what_is_refused_fails_once(line):
    assert failures(line) == ["3:5"]


@pytest.mark.parametrize(
    "words",
    ["signed_by: session", "priority: normal", "suite: ecc256/sha256", "class: durable", "unit: record", "kem: hybrid", "ttl: 5s"],
)
def test_what_travels_otherwise_fails(words):
    assert failures(f"{{agent: LEAD, publish: control.stop, {words}}}") == ["3:5"]


def test_denials():
    assert failures("{role: worker, publish: control.stop}", "deny") == []
    assert failures("{agent: LEAD, publish: control.stop}", "deny") == ["3:5"]
    assert failures("{role: worker, subscribe: tasks.build, group: other}", "deny") == []
    assert failures("{agent: TYPO, publish: control.stop}", "deny") == ["3:5"]


@pytest.mark.parametrize(
    ("line", "passes"),
    [
        ("{topic: tasks.build, includes: [worker], excludes: [LEAD]}", True),
        ("{topic: tasks.build, exactly: [ONE, TWO]}", True),
        ("{topic: tasks.build, exactly: [ONE]}", False),
        ("{topic: tasks.build, includes: [lead]}", False),
        ("{topic: tasks.build, excludes: [TWO]}", False),
        ("{topic: tasks.build, excludes: [THREE]}", False),
        ("{topic: nothing.here, exactly: []}", True),
    ],
)
def test_audiences(line, passes):
    assert failures(line, "audience") == ([] if passes else ["3:5"])


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("alow: []\n", "2:1"),
        ("allow:\n  - {agent: A, role: b, publish: c}\n", "3:5"),
        ("allow:\n  - {publish: c}\n", "3:5"),
        ("allow:\n  - {agent: A}\n", "3:5"),
        ("deny:\n  - {agent: A, publish: b, subscribe: c}\n", "3:5"),
        ("deny:\n  - {agent: A, publish: b, signed_by: session}\n", "3:28"),
        ("allow:\n  - {agent: A, publish: _b}\n", "3:25"),
        ("deny:\n  - {agent: ONE, publish: control.>}\n", "3:27"),
        ("deny:\n  - {agent: LEAD, publish: tasks.a, group: g}\n", "3:44"),
        ("audience:\n  - {topic: tasks.*, excludes: [ONE]}\n", "3:13"),
        ("allow: [\n", "3:1"),
    ],
)
def test_expectations_that_are_written_wrong_are_a_policy_error(text, place):
    with pytest.raises(PolicyError) as caught:
        run(POLICY, {"t.test.yaml": f"version: 1\n{text}"})
    assert [f"{problem.line}:{problem.column}" for problem in caught.value.problems] == [place]
