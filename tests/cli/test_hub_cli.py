"""What is asked of a hub that runs: another policy, and somebody cut off, by commands beside it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from running_hub import Running, running

pytestmark = pytest.mark.slow

POLICY = """
version: 1
domain: tpmbus.test
agents: {LEAD: lead, PAINTER: worker, CARPENTER: worker}
roles:
  lead: {key: ecc256/sha256, publish: [tasks.>]}
  worker: {key: ecc256/sha256, subscribe: [tasks.>]}
"""


@pytest.fixture
def home(fleet, tmp_path):
    """A hub that runs in a process of its own, under a policy that a test may change."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(POLICY)
    fleet.environ["TPMBUS_POLICY"] = str(policy)
    with running(fleet, "run", "--fleet", "none") as hub:
        hub.until("The bus listens at")
        fleet.policy = policy
        yield fleet


def call(fleet, *arguments: str) -> tuple[int, dict]:
    result = fleet.run(*arguments, "--json")
    return result.returncode, json.loads(result.stdout)


def listening(fleet, agent: str) -> Running:
    listener = Running(fleet, "sub", "tasks.>", "--as", agent)
    listener.until(f"{agent} listens to tasks.>")
    return listener


def test_a_reload_shuts_out_who_may_no_longer_hear(home):
    listener = listening(home, "PAINTER")
    code, said = call(home, "policy", "reload")
    assert (code, said["changed"], said["policy_version"]) == (0, False, 1)
    home.policy.write_text(POLICY.replace("subscribe: [tasks.>]", "subscribe: [tasks.paint]"))
    code, said = call(home, "policy", "reload")
    assert (code, said["policy_version"]) == (0, 2)  # or it has seen the file by itself, a moment before
    listener.until("may not subscribe")
    assert listener.wait() == 4


def test_to_sign_beside_a_hub_has_that_one_sign_and_act_by_it(home):
    """Its own files, however they are named or not named; the hub may have seen the change by itself a moment before."""
    listener = listening(home, "PAINTER")
    code, said = call(home, "policy", "sign", str(home.policy))
    assert (code, said["version"], said["changed"]) == (0, 1, False)
    home.policy.write_text(POLICY.replace("subscribe: [tasks.>]", "subscribe: [tasks.paint]"))
    code, said = call(home, "policy", "sign", str(home.policy))
    assert (code, said["version"]) == (0, 2)
    listener.until("may not subscribe")
    assert listener.wait() == 4
    code, status = call(home, "status")
    assert (code, status["policy_version"], status["trust_statement"]) == (0, 2, said["statement"])
    del home.environ["TPMBUS_POLICY"]
    code, again = call(home, "policy", "sign")
    assert (code, again["changed"], again["digest"]) == (0, False, said["digest"])


def test_another_policy_is_not_signed_beside_a_hub_and_changes_nothing(home):
    other = home.policy.with_name("other.yaml")
    other.write_text(POLICY.replace("subscribe: [tasks.>]", "subscribe: [other.>]"))
    code, said = call(home, "policy", "sign", str(other))
    assert (code, said["error"]["type"]) == (4, "NotPermittedError")
    other.write_text(POLICY.replace("lead: {key", "lead: {keys"))
    code, said = call(home, "policy", "sign", str(other))
    assert (code, said["error"]["type"]) == (3, "PolicyError")
    code, status = call(home, "status")
    assert (code, status["policy_version"]) == (0, 1)


def test_a_policy_that_is_wrong_leaves_the_old_one_in_force(home):
    home.policy.write_text(POLICY.replace("lead: {key", "lead: {keys"))
    code, said = call(home, "policy", "reload")
    assert code != 0
    assert said["error"]["type"] == "PolicyError"
    assert {problem["line"] for problem in said["error"]["problems"]} == {6}
    code, status = call(home, "status")
    assert (code, status["policy_version"]) == (0, 1)


def test_a_revocation_cuts_off_who_is_live(home):
    listener = listening(home, "PAINTER")
    code, said = call(home, "trust", "revoke", "PAINTER", "--reason", "compromised")
    assert (code, said["generation"]) == (0, 1)
    listener.until("was revoked")
    assert listener.wait() == 4


def test_to_end_sessions_leaves_the_agent_its_name(home):
    listener = listening(home, "CARPENTER")
    code, said = call(home, "trust", "revoke", "CARPENTER", "--sessions")
    assert code == 0
    assert said["sessions_not_before_ms"] > 0
    listener.end()


def test_an_agent_that_policy_gains_gets_its_papers_with_nothing_stopped(home):
    home.policy.write_text(POLICY.replace("CARPENTER: worker", "CARPENTER: worker, JOINER: worker"))
    assert call(home, "policy", "reload")[0] == 0
    code, said = call(home, "provision", "JOINER")
    assert (code, said["enrolled"], said["policy_version"]) == (0, 1, 2)
    listening(home, "JOINER").end()
    assert call(home, "provision", "JOINER")[1]["enrolled"] == 0
    code, said = call(home, "trust", "enroll", "--token", "JOINER", "--ek", "ab" * 32, "LEAD")
    assert (code, len(said["token"]), said["chips"]) == (0, 32, {"LEAD": ["ab" * 32]})
    code, said = call(home, "trust", "revoke", "--trust-signer", "--reason", "rotated")
    assert (code, said["name"], said["reason"], "signer" in said) == (0, "TRUST", "rotated", True)
