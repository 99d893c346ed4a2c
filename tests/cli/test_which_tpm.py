"""Which TPM a command gets: the one that it names, also where a service runs already; never another one unsaid."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def origins(fleet) -> dict[str, str]:
    return {key["agent"]: key["origin"] for key in fleet.json("keys", "list")["keys"]}


def test_a_fleet_that_names_the_software_tpm_has_its_keys_there_whether_its_service_runs_or_not(fleet):
    roster = fleet.folder / "two.yaml"
    roster.write_text("agents:\n  MONITOR: operations\n  TRACER: operations\n")
    words = ("run", "--tpm", "swtpm", "--seconds", "0.1", "--rate", "0", "--json")
    done = fleet.run(*words, "--fleet", "none")
    assert done.returncode == 0, done.stderr
    assert fleet.json("tpm", "status")["facts"]["origin"] == "software-tpm"  # it goes on for a while, and the next one finds it
    done = fleet.run(*words, "--fleet", str(roster))
    assert done.returncode == 0, done.stderr
    assert origins(fleet) == {"MONITOR": "software-tpm", "TRACER": "software-tpm"}


def test_a_state_folder_gets_more_tpms_once_its_service_was_stopped(fleet):
    fleet.json("provision", "MONITOR")
    refused = fleet.run("provision", "MONITOR", TPMBUS_TPM="swtpm*2")
    assert refused.returncode == 4
    assert fleet.run("tpm", "stop").returncode == 0
    assert fleet.json("provision", "MONITOR", "TRACER", TPMBUS_TPM="swtpm*2")["made"] == 1
    assert origins(fleet)["MONITOR"] == "software-tpm"
