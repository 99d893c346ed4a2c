"""Which agents use the TPM: stable for a name, growing with the percentage, and not to be lowered by who must not."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.errors import NotPermittedError, PolicyError
from bus.policy import Policy, load, open_policy, rollout
from bus.policy.rollout import Verdict, is_on, place, sample_rate, wished

names = st.from_regex(r"[A-Z][A-Z0-9]{0,31}", fullmatch=True)
percents = st.integers(0, 100)


def policy(*, percent: int = 100, enabled: bool = True, rate: str = "0.01") -> Policy:
    return load(
        {
            "p.yaml": f"""version: 1
agents: {{CRITICAL: tpm, FREE: free, BOUND: bound}}
roles:
  tpm: {{key: ecc256/sha256}}
  free: {{key: ecc256/sha256, key_origin: software, environment: allow}}
  bound: {{key: ecc256/sha256, key_origin: software}}
rollout: {{tpm_percent: {percent}, enabled: {str(enabled).lower()}, sample_rate: {rate}}}
"""
        }
    )


@given(names, percents)
def test_the_place_is_what_the_protocol_says(name, percent):
    number = int.from_bytes(hashlib.sha256(b"tpmbus/1 rollout" + name.encode()).digest()[:4], "big")
    assert is_on(name, percent) is (number * 100 < percent * 2**32)
    assert is_on(name, place(name))
    assert not is_on(name, place(name) - 1)
    assert 1 <= place(name) <= 100


@given(names, percents, percents)
def test_who_is_on_stays_on_when_the_percentage_grows(name, first, second):
    low, high = sorted((first, second))
    assert not is_on(name, low) or is_on(name, high)


def test_nobody_is_on_at_0_and_everybody_at_100():
    agents = open_policy().agents
    assert not any(is_on(name, 0) for name in agents)
    assert all(is_on(name, 100) for name in agents)


def test_the_fleet_moves_in_steps_and_back_the_same_way():
    agents = open_policy().agents
    on = {percent: {name for name in agents if is_on(name, percent)} for percent in (30, 60, 100)}
    assert on[30] < on[60] < on[100] == set(agents)
    assert on[30] == {name for name in sorted(agents, reverse=True) if is_on(name, 30)}


@pytest.mark.parametrize(
    ("agent", "settings", "environ", "effective", "decided_by"),
    [
        ("FREE", (60, True), {}, 60, "policy"),
        ("FREE", (60, True), {"TPM_ENABLE_PERCENT": "30"}, 30, "environment"),
        ("FREE", (60, True), {"TPM_ENABLE_PERCENT": "60"}, 60, "policy"),
        ("FREE", (60, True), {"TPM_ENABLE_PERCENT": "100"}, 60, "policy"),  # policy is the ceiling
        ("FREE", (60, True), {"TPM_ENABLED": "false"}, 0, "environment"),
        ("FREE", (60, True), {"TPM_ENABLED": "false", "TPM_ENABLE_PERCENT": "50"}, 0, "environment"),
        ("FREE", (60, True), {"TPM_ENABLED": "TRUE"}, 60, "policy"),
        ("FREE", (60, False), {"TPM_ENABLED": "true"}, 0, "policy"),
        ("FREE", (60, False), {}, 0, "policy"),
        ("BOUND", (60, True), {"TPM_ENABLE_PERCENT": "0"}, 60, "policy"),
        ("BOUND", (60, True), {"TPM_ENABLED": "off"}, 60, "policy"),
        ("CRITICAL", (0, False), {"TPM_ENABLED": "0", "TPM_ENABLE_PERCENT": "0"}, 100, "key_origin"),
        ("CRITICAL", (60, True), {}, 100, "key_origin"),
    ],
)
def test_what_decides(agent, settings, environ, effective, decided_by):
    percent, enabled = settings
    verdict = rollout(policy(percent=percent, enabled=enabled), agent, environ)
    assert verdict.uses_tpm is is_on(agent, effective)
    assert verdict.decided_by == decided_by
    assert verdict.policy_percent == (percent if enabled else 0)
    assert verdict.place == place(agent)


@given(
    percents, st.dictionaries(st.sampled_from(["TPM_ENABLE_PERCENT"]), percents.map(str)), st.sampled_from([None, "true", "false"])
)
def test_no_environment_takes_a_bound_agent_off_or_puts_a_free_one_on(percent, environ, enabled):
    if enabled is not None:
        environ["TPM_ENABLED"] = enabled
    opened = policy(percent=percent)
    assert rollout(opened, "CRITICAL", environ).uses_tpm
    assert rollout(opened, "BOUND", environ).uses_tpm is is_on("BOUND", percent)
    assert not (rollout(opened, "FREE", environ).uses_tpm and not is_on("FREE", percent))


def test_the_wish_is_shown_even_where_it_decides_nothing():
    assert rollout(policy(), "CRITICAL", {"TPM_ENABLED": "no"}) == Verdict(
        "CRITICAL", True, place("CRITICAL"), 100, 0, "key_origin"
    )


@pytest.mark.parametrize(
    "environ",
    [
        {"TPM_ENABLE_PERCENT": value}
        for value in ("", " 30", "30 ", "-1", "101", "1e1", "30%", "0x1e", "٣٠", "thirty", "9999999999999")
    ]
    + [{"TPM_ENABLED": value} for value in ("", "maybe", " true", "2", "None")]
    + [{"TPM_SAMPLE_RATE": value} for value in ("", "nan", "inf", "-0.1", "1.1", "1e-3", "5%", "0,5", "1.0000000001")],
)
def test_a_malformed_environment_is_an_error_for_everybody(environ):
    for agent in ("FREE", "BOUND", "CRITICAL"):
        with pytest.raises(PolicyError) as caught:
            rollout(policy(), agent, environ)
        assert next(iter(environ)) in caught.value.problems[0].message
    with pytest.raises(PolicyError):
        sample_rate(policy(), environ)


def test_all_that_is_malformed_is_said_at_once():
    with pytest.raises(PolicyError) as caught:
        wished({"TPM_ENABLE_PERCENT": "x", "TPM_ENABLED": "x", "TPM_SAMPLE_RATE": "x"})
    assert len(caught.value.problems) == 3


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, 0.25),
        ({"TPM_SAMPLE_RATE": "0.5"}, 0.5),
        ({"TPM_SAMPLE_RATE": "0"}, 0.25),
        ({"TPM_SAMPLE_RATE": "1"}, 1.0),
        ({"TPM_SAMPLE_RATE": ".3"}, 0.3),
    ],
)
def test_the_sample_rate_can_only_be_raised(environ, expected):
    assert sample_rate(policy(rate="0.25"), environ) == expected


def test_an_unknown_agent_has_no_verdict():
    with pytest.raises(NotPermittedError):
        rollout(policy(), "NOBODY", {})
