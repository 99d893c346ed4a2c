"""`tpmbus keys inbox`, as a process, on a real software TPM."""

from __future__ import annotations

import json

import pytest

from bus.policy import open_policy
from bus.protocol.papers import InboxCertificate

DAY = 86_400_000


def test_every_agent_has_one_of_the_kind_that_its_role_names(provisioned):
    policy = open_policy()
    keys = provisioned.json("keys", "inbox", TPMBUS_TPM="device:/dev/null")["keys"]  # looking needs no TPM
    assert {key["agent"]: key["kind"] for key in keys} == {name: policy.role_of(name).inbox for name in policy.agents}
    assert len(keys) == len({key["id"] for key in keys}) == 76
    assert {(key["counter"], key["state"], key["origin"]) for key in keys} == {(1, "current", "software-tpm")}
    assert {key["not_after_ms"] - key["not_before_ms"] for key in keys} == {30 * DAY}
    longest = max(rule.retention_ms for rule in policy.topics if rule.is_durable)
    assert {key["needed_until_ms"] - key["not_after_ms"] for key in keys} == {longest + DAY}


def test_what_is_published_is_the_certificate_of_the_newest(provisioned):
    certificates = {agent["agent"]: agent["certificate"]["sha256"] for agent in provisioned.first["agents"]}
    for key in provisioned.json("keys", "inbox", "DIRECTOR", "MONITOR")["keys"]:
        body = InboxCertificate.parse((provisioned.state.trust / "public" / "inbox" / f"{key['agent']}.bin").read_bytes()).body
        assert (body.name, body.counter, body.key_id.hex()) == (key["agent"], key["counter"], key["id"])
        assert body.identity.hex() == key["identity_sha256"] == certificates[key["agent"]]


def test_the_table_for_people_names_every_agent(provisioned):
    shown = provisioned.run("keys", "inbox").stdout
    assert all(name in shown for name in open_policy().agents)
    assert "76 inbox keys of 76 agents" in shown


def test_renewing_makes_the_next_one_and_keeps_the_last(fleet):
    fleet.json("provision", "MONITOR", "DIRECTOR")
    first = fleet.json("keys", "inbox", "MONITOR")["keys"]
    done = fleet.json("keys", "inbox", "MONITOR", "--renew")
    assert done["made"] == 1
    assert [(key["counter"], key["state"], key["made"]) for key in done["keys"]] == [
        (1, "overlapping", False),
        (2, "current", True),
    ]
    assert done["keys"][0]["id"] == first[0]["id"]
    published = InboxCertificate.parse((fleet.state.trust / "public" / "inbox" / "MONITOR.bin").read_bytes())
    assert published.body.counter == 2
    assert fleet.json("keys", "inbox", "DIRECTOR")["keys"][0]["counter"] == 1
    assert fleet.json("provision", "MONITOR")["agents"][0]["inbox"]["counter"] == 2


def test_a_damaged_file_is_an_error_with_its_next_step_which_works(fleet):
    fleet.json("provision", "MONITOR")
    file = fleet.state.inbox / "MONITOR.json"
    file.write_text("cut short")
    done = fleet.run("keys", "inbox", "MONITOR", "--json")
    assert done.returncode == 5
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["path"]) == ("damaged", str(file))
    assert "tpmbus keys inbox MONITOR --renew" in error["message"]
    assert fleet.run("provision", "MONITOR").returncode == 5
    [key] = fleet.json("keys", "inbox", "MONITOR", "--renew")["keys"]
    assert (key["counter"], key["made"]) == (2, True)
    assert fleet.json("provision", "MONITOR")["agents"][0]["inbox"]["counter"] == 2


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["NOBODY"], 5),
        (["lower"], 4),
        (["../MONITOR"], 4),
        (["--renew"], 2),
        (["NOBODY", "--renew"], 4),
        (["MONITOR", "NOBODY", "--renew"], 4),
    ],
)
def test_whom_it_does_not_know_it_says_and_renews_nothing(provisioned, arguments, code):
    done = provisioned.run("keys", "inbox", *arguments)
    assert done.returncode == code, done.stderr
    assert not done.stdout
    assert provisioned.json("keys", "inbox", "MONITOR")["keys"][0]["counter"] == 1
