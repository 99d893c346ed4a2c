"""`tpmbus policy` and `tpmbus rollout`, as somebody types them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bus.cli.main import cli

GOOD = """version: 1
agents: {LEAD: lead, ONE: worker, TWO: worker}
roles:
  lead: {key: ecc384/sha3-384, publish: [tasks.>], subscribe: [">"], deny: {subscribe: [secret.>]}}
  worker: {key: ecc256/sha256, key_origin: software, environment: allow, subscribe: [tasks.>], groups: [g]}
topics:
  - {match: tasks.>, signed_by: identity}
  - {match: tasks.small.>, class: durable, retention: 1d}
"""


def run(*arguments: str, **environment: str) -> Result:
    for name in ("TPM_ENABLED", "TPM_ENABLE_PERCENT", "TPM_SAMPLE_RATE", "TPMBUS_POLICY"):
        environment.setdefault(name, None)  # type: ignore[arg-type]  # click takes None for "unset"
    return CliRunner().invoke(cli, arguments, env=environment)


def document(result: Result) -> Any:
    return json.loads(result.stdout)


@pytest.fixture
def good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p").mkdir()
    (tmp_path / "p/policy.yaml").write_text(GOOD)
    return tmp_path / "p"


@pytest.fixture
def bad(good: Path) -> Path:
    (good / "policy.yaml").write_text("version: 1\nrols: {}\nagents: {lower: x}\n")
    return good


# ---- lint -----------------------------------------------------------------------------------------------------------------------


def test_lint_says_every_mistake_with_its_place_and_exits_3(bad):
    result = run("policy", "lint", "p")
    assert result.exit_code == 3
    lines = result.stdout.splitlines()
    assert [line.split(": ")[0] for line in lines[:2]] == ["p/policy.yaml:2:1", "p/policy.yaml:3:10"]
    assert lines[2].startswith("2 mistakes, 0 warnings in 1 file:")


def test_lint_in_json(bad):
    result = run("policy", "lint", "p", "--json")
    assert result.exit_code == 3
    said = document(result)
    assert said["ok"] is False
    assert [(problem["line"], problem["column"]) for problem in said["problems"]] == [(2, 1), (3, 10)]


def test_lint_shows_warnings_and_exits_0(good):
    (good / "policy.yaml").write_text(GOOD.replace("tasks.>, signed_by: identity}", "tasks.>, kem: hybrid}"))
    result = run("policy", "lint", "p")
    assert result.exit_code == 0
    assert "(warning)" in result.stdout
    assert document(run("policy", "lint", "p", "--json"))["warnings"]


@pytest.mark.parametrize("arguments", [[], ["default"], ["minimal"], ["tutorial"], ["--policy", "minimal"]])
def test_lint_of_shipped_policies(arguments):
    assert run("policy", "lint", *arguments).exit_code == 0


def test_a_policy_that_is_not_there_exits_3(tmp_path):
    result = run("policy", "lint", str(tmp_path / "nowhere"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "nowhere" in result.stderr
    assert document(run("policy", "lint", str(tmp_path / "nowhere"), "--json"))["error"]["type"] == "PolicyError"


# ---- explain --------------------------------------------------------------------------------------------------------------------


def test_explain_names_rule_line_suite_signer_and_audience(good):
    result = run("policy", "explain", "LEAD", "publish", "tasks.build", "--policy", "p")
    assert result.exit_code == 0
    for fact in (
        "LEAD may publish tasks.build",
        "tasks.>  (p/policy.yaml:4)",
        "ecc384/sha3-384",
        "identity key",
        "3: LEAD, ONE, TWO",
    ):
        assert fact in result.stdout


def test_explain_in_json(good):
    said = document(run("policy", "explain", "ONE", "subscribe", "tasks.small.x", "--policy", "p", "--json"))
    assert (said["allowed"], said["file"], said["line"], said["role"]) == (True, "p/policy.yaml", 5, "worker")
    assert (said["topic_rule"]["match"], said["class"], said["signed_by"], said["groups"]) == (
        "tasks.small.>",
        "durable",
        "session",
        ["g"],
    )
    assert said["audience"] == ["LEAD", "ONE", "TWO"]


def test_explain_of_a_refusal_exits_1_and_says_where_it_was_decided(good):
    result = run("policy", "explain", "ONE", "publish", "tasks.build", "--policy", "p")
    assert (result.exit_code, "ONE may not publish tasks.build" in result.stdout) == (1, True)
    assert "p/policy.yaml:5" in result.stdout
    assert (
        document(run("policy", "explain", "LEAD", "subscribe", "secret.x", "--policy", "p", "--json"))["rule"]
        == "deny.subscribe: secret.>"
    )


def test_explain_of_a_pattern_names_what_is_taken_away_and_other_rules(good):
    said = document(run("policy", "explain", "LEAD", "subscribe", ">", "--policy", "p", "--json"))
    assert said["except"] == ["secret.>"]
    assert [rule["match"] for rule in said["other_rules"]] == ["tasks.>", "tasks.small.>"]
    assert "except      secret.>" in run("policy", "explain", "LEAD", "subscribe", ">", "--policy", "p").stdout


def test_explain_of_an_unknown_agent_exits_4_with_the_nearest(good):
    result = run("policy", "explain", "LAED", "publish", "a", "--policy", "p")
    assert (result.exit_code, result.stdout) == (4, "")
    assert "'LEAD'" in result.stderr


def test_explain_takes_the_policy_from_the_environment(good):
    assert run("policy", "explain", "LEAD", "publish", "tasks.x", TPMBUS_POLICY="p").exit_code == 0


# ---- diff -----------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def other(good: Path) -> Path:
    text = GOOD.replace("TWO: worker", "TWO: lead, THREE: worker").replace("publish: [tasks.>]", "publish: [tasks.*, plans.>]")
    text = text.replace("ecc256/sha256", "ecc256/sha384").replace("retention: 1d", "retention: 2d, history: all")
    (good.parent / "q.yaml").write_text(text + "trust: {max_age: 2h}\ntpm: {handle: 0x81000002}\nrollout: {tpm_percent: 30}\n")
    return good.parent / "q.yaml"


def test_diff_says_who_gains_and_loses_what(other):
    result = run("policy", "diff", "p", "q.yaml")
    assert result.exit_code == 0
    for line in (
        "+ agent THREE (worker)",
        "lead: LEAD",
        "  + publish plans.>",
        "  - publish tasks.> except tasks.*",
        "worker -> lead: TWO",
        "worker: ONE",
        "  ~ key: ecc256/sha256 -> ecc256/sha384",
        "topics tasks.small.> (concerns lead, worker)",
        "  ~ retention: 1d -> 2d",
        "  ~ history: entitled -> all",
        "~ trust.max_age: 1h -> 2h",
        "~ tpm.handle: 0x81000001 -> 0x81000002",
        "~ rollout: 100 %, samples 0.01 -> 30 %, samples 0.01",
    ):
        assert line in result.stdout.splitlines()


def test_diff_in_json_and_its_exit_code(other):
    result = run("policy", "diff", "p", "q.yaml", "--json", "--exit-code")
    assert result.exit_code == 1
    said = document(result)
    assert said["added"] == {"THREE": "worker"}
    assert said["roles"][0]["gains"] == {"publish": ["plans.>"]}
    assert said["topics"][0]["changes"]["retention"] == ["1d", "2d"]


def test_diff_of_the_same_is_nothing(good):
    result = run("policy", "diff", "p", "p", "--exit-code")
    assert (result.exit_code, result.stdout) == (0, "no difference\n")
    assert document(run("policy", "diff", "p", "p", "--json"))["different"] is False


def test_diff_of_a_wrong_policy_exits_3(bad):
    assert run("policy", "diff", "default", "p").exit_code == 3


# ---- test -----------------------------------------------------------------------------------------------------------------------


def test_test_runs_what_stands_beside_the_policy(good):
    (good / "a.test.yaml").write_text(
        "version: 1\nallow:\n  - {agent: LEAD, publish: tasks.x}\ndeny:\n  - {agent: LEAD, publish: tasks.y}\n"
    )
    result = run("policy", "test", "p")
    assert result.exit_code == 1
    assert result.stdout.startswith("p/a.test.yaml:5:5: LEAD publish tasks.y is allowed")
    said = document(run("policy", "test", "p", "--json"))
    assert (said["ok"], said["expectations"], said["failures"][0]["line"]) == (False, 2, 5)


@pytest.mark.parametrize("name", ["default", "tutorial"])
def test_test_of_shipped_policies(name):
    assert run("policy", "test", name).exit_code == 0


def test_nothing_tested_is_no_success(good):
    result = run("policy", "test", "p")
    assert (result.exit_code, "nothing was tested" in result.stderr) == (1, True)


def test_expectations_that_are_wrong_exit_3(good):
    (good / "a.test.yaml").write_text("version: 1\nalow: []\n")
    assert run("policy", "test", "p").exit_code == 3


# ---- schema ---------------------------------------------------------------------------------------------------------------------


def test_schema_prints_a_schema_and_a_reference():
    assert document(run("policy", "schema"))["title"] == "tpmbus policy"
    assert document(run("policy", "schema", "--json")) == document(run("policy", "schema"))
    assert "allow" in document(run("policy", "schema", "--expectations"))["properties"]
    assert run("policy", "schema", "--reference").stdout.startswith("# Policy: every key")


# ---- rollout --------------------------------------------------------------------------------------------------------------------


def test_rollout_shows_every_agent_and_what_decided(good):
    result = run("rollout", "--policy", "p", TPM_ENABLED="false")
    assert result.exit_code == 0
    assert "1 of 3 agents use the TPM" in result.stdout
    said = document(run("rollout", "--policy", "p", "--json", "ONE", "LEAD", TPM_ENABLED="false", TPM_SAMPLE_RATE="0.5"))
    assert said["sample_rate"] == 0.5
    assert [(agent["agent"], agent["role"], agent["uses_tpm"], agent["decided_by"]) for agent in said["agents"]] == [
        ("ONE", "worker", False, "environment"),
        ("LEAD", "lead", True, "key_origin"),
    ]
    assert said["agents"][1]["environment_wish"] == 0


def test_rollout_of_a_malformed_environment_exits_3(good):
    result = run("rollout", "--policy", "p", TPM_ENABLE_PERCENT="lots")
    assert (result.exit_code, "TPM_ENABLE_PERCENT" in result.stderr) == (3, True)


def test_rollout_of_an_unknown_agent_exits_4(good):
    assert run("rollout", "--policy", "p", "NOBODY").exit_code == 4
