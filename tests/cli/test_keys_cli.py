"""`tpmbus provision`, `keys` and `doctor`, as processes, on a real software TPM."""

from __future__ import annotations

import json
import subprocess
from collections import Counter

import pytest

from bus.policy import open_policy

pytestmark = pytest.mark.slow

# ---- provision ------------------------------------------------------------------------------------------------------------------


def test_the_fleet_of_76_gets_the_keys_that_its_roles_name(provisioned):
    policy = open_policy()
    agents = provisioned.first["agents"]
    assert {agent["agent"]: agent["suite"] for agent in agents} == {name: policy.role_of(name).suite.name for name in policy.agents}
    assert len(agents) == provisioned.first["made"] == 76
    assert Counter(agent["suite"] for agent in agents)["rsa3072/sha3-384"] == 4
    assert {agent["origin"] for agent in agents} == {"software-tpm"}
    assert len({agent["fingerprint"] for agent in agents}) == 76


def test_provisioning_again_makes_nothing(provisioned):
    again = provisioned.json("provision")
    assert again["made"] == 0
    assert [agent["fingerprint"] for agent in again["agents"]] == [agent["fingerprint"] for agent in provisioned.first["agents"]]


def test_the_table_for_people_names_every_agent(provisioned):
    shown = provisioned.run("provision").stdout
    assert all(name in shown for name in open_policy().agents)
    assert "76 agents have their keys: 0 made, 76 were there" in shown


def test_an_agent_that_nobody_knows_is_a_clear_error_before_any_key(bare_fleet):
    done = bare_fleet.run("provision", "DIRECTR")
    assert done.returncode == 4
    assert "DIRECTOR" in done.stderr
    assert not bare_fleet.state.swtpm.exists()


def test_single_agents_and_another_roster(fleet, tmp_path):
    roster = tmp_path / "roster.yaml"
    roster.write_text("version: 1\nagents:\n  BILLING: interface\n  LEDGER: data\n")
    document = fleet.json("provision", "--fleet", str(roster), "BILLING")
    assert [(agent["agent"], agent["role"], agent["suite"]) for agent in document["agents"]] == [
        ("BILLING", "interface", "ecc256/sha256")
    ]


def test_a_bad_roster_is_refused_with_its_places(fleet, tmp_path):
    roster = tmp_path / "roster.yaml"
    roster.write_text("version: 1\nagents:\n  BILLING: interfce\n  lower: data\n")
    done = fleet.run("provision", "--fleet", str(roster))
    assert done.returncode == 3
    assert [line.split(": ")[0].removeprefix(str(roster)) for line in done.stderr.splitlines()] == [":3:3", ":4:3"]


def test_a_role_that_needs_a_tpm_gets_no_software_key(fleet):
    done = fleet.run("provision", "DIRECTOR", "--tpm", "software", "--json")
    assert done.returncode == 4
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "NotPermittedError"
    assert "software-tpm" in error["rule"]


def test_a_role_that_may_do_without_gets_a_software_key_that_says_so(bare_fleet):
    software = next(name for name in open_policy().agents if open_policy().role_of(name).key_origin == "software")
    [agent] = bare_fleet.json("provision", software, "--tpm", "software")["agents"]
    assert agent["origin"] == "software"
    assert bare_fleet.state.swtpm.exists() is False
    pem = (bare_fleet.state.vault / f"{software}.1.pem").read_text()
    assert pem.startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")


def test_the_environment_takes_an_ordinary_agent_off_the_tpm_and_back_and_never_a_critical_one(fleet):
    policy = open_policy()
    ordinary = next(name for name in policy.agents if policy.role_of(name).environment == "allow")
    on = fleet.json("provision", ordinary, "DIRECTOR")["agents"]
    off = fleet.json("provision", ordinary, "DIRECTOR", TPM_ENABLED="false")["agents"]
    back = fleet.json("provision", ordinary, "DIRECTOR")
    assert [agent["origin"] for agent in on] == ["software-tpm", "software-tpm"]
    assert [agent["origin"] for agent in off] == ["software", "software-tpm"]
    assert [agent["fingerprint"] for agent in back["agents"]] == [agent["fingerprint"] for agent in on]
    assert back["made"] == 0


def test_naming_another_tpm_than_the_one_that_runs_is_refused(provisioned):
    done = provisioned.run("provision", "MONITOR", "--tpm", "software", "--json")
    assert done.returncode == 4
    assert json.loads(done.stdout)["error"]["type"] == "StateInUseError"


# ---- keys -----------------------------------------------------------------------------------------------------------------------


def test_keys_list_needs_no_tpm(provisioned):
    keys = provisioned.json("keys", "list", TPMBUS_TPM="device:/dev/null")["keys"]
    assert len(keys) == 76
    assert all(key["current"] and key["generation"] == 1 for key in keys)


def test_showing_the_auth_value_asks_first(provisioned):
    declined = provisioned.run("keys", "show", "MONITOR", "--auth", typed="n\n")
    assert declined.returncode != 0
    assert "auth" not in declined.stdout
    confirmed = provisioned.run("keys", "show", "MONITOR", "--auth", typed="y\n")
    shown = dict(line.split(maxsplit=1) for line in confirmed.stdout.splitlines() if line.startswith("auth"))
    assert len(shown["auth"]) == 32
    assert provisioned.json("keys", "show", "MONITOR", "--auth", "--yes")["auth"] == shown["auth"]
    assert "auth" not in provisioned.json("keys", "show", "MONITOR")


def test_an_unknown_key_is_an_error_with_the_next_step(provisioned):
    done = provisioned.run("keys", "show", "NOBODY")
    assert done.returncode == 5
    assert "tpmbus keys list" in done.stderr


def test_an_exported_ssh_key_parses_with_ssh_keygen(provisioned, tmp_path):
    for agent in ("DIRECTOR", "ARCHITECT", "MONITOR"):
        file = tmp_path / f"{agent}.pub"
        file.write_text(provisioned.run("keys", "export", agent, "--format", "ssh").stdout)
        said = subprocess.run(["ssh-keygen", "-l", "-f", str(file)], capture_output=True, text=True, check=True).stdout
        assert provisioned.json("keys", "show", agent)["fingerprint"] in said


def test_rotation_keeps_the_old_key_until_its_end_date(fleet):
    fleet.json("provision", "MONITOR")
    [new] = fleet.json("keys", "rotate", "MONITOR", "--keep", "1h")["keys"]
    assert (new["key"], new["current"]) == ("MONITOR.2", True)
    old, current = fleet.json("keys", "list")["keys"]
    assert (old["key"], old["current"]) == ("MONITOR.1", False)
    assert old["ends_ms"] - new["created_ms"] == pytest.approx(3_600_000, abs=60_000)
    assert current["ends_ms"] is None
    [again] = fleet.json("provision", "MONITOR")["agents"]
    assert (again["generation"], again["made"]) == (2, False)


def test_a_bad_duration_is_wrong_usage(fleet):
    assert fleet.run("keys", "rotate", "MONITOR", "--keep", "soon").returncode == 2


# ---- doctor ---------------------------------------------------------------------------------------------------------------------


def test_doctor_finds_no_problem_and_measures_every_suite(provisioned):
    report = provisioned.json("doctor")
    assert report["problems"] == 0
    assert len(report["timings"]) == 12
    assert all(timing["sign"] > 0 for timing in report["timings"])
    paths = {timing["suite"]: timing["path"] for timing in report["timings"]}
    assert paths["rsa3072/sha3-384"] == "software padding, bare RSA"
    assert paths["ecc384/sha3-256"] == "software digest"
    assert paths["ecc256/sha256"] == "native"
    assert provisioned.json("keys", "list")["keys"].__len__() == 76


def test_doctor_names_what_others_can_read_and_what_is_damaged(fleet):
    fleet.json("provision", "MONITOR")
    (fleet.state.vault / "MONITOR.1.pem").write_text("cut short")
    for place in (fleet.state.folder, fleet.state.vault, fleet.state.vault / "secret"):
        place.chmod(0o755)
    done = fleet.run("doctor", "--no-timing", "--json")
    assert done.returncode == 1
    problems = {
        finding["about"]: finding["next_step"] for finding in json.loads(done.stdout)["findings"] if finding["status"] == "problem"
    }
    secret = str(fleet.state.vault / "secret")
    assert problems["key MONITOR.1"] == "tpmbus keys rotate MONITOR"
    assert problems[secret] == f"chmod go= {secret}"


# ---- tpm ------------------------------------------------------------------------------------------------------------------------


def test_the_service_is_stopped_by_hand_and_starts_again_when_needed(bare_fleet):
    assert bare_fleet.json("tpm", "stop") == {"ended": False}
    bare_fleet.json("provision", "MONITOR")
    assert bare_fleet.json("tpm", "status")["keys"] == 1
    assert bare_fleet.json("tpm", "stop") == {"ended": True}
    assert bare_fleet.run("tpm", "status").returncode == 6
    assert bare_fleet.json("provision", "MONITOR")["made"] == 0
