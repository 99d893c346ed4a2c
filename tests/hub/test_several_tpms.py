"""A state folder with several TPMs, from provisioning to the loss of one, by the commands that operators have."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from bus.identity.inbox import InboxFolder
from bus.identity.public_trust import read_public
from bus.tpm.vault import FolderVault

pytestmark = pytest.mark.slow

NAMES = [f"AGENT{number}" for number in range(18)]
"""Chance spreads them: one time in a hundred thousand all fall to one of two TPMs."""
BOTH, ONE = {"TPMBUS_TPM": "swtpm*2"}, {"TPMBUS_TPM": "swtpm"}


@pytest.fixture
def policy(tmp_path: Path) -> str:
    file = tmp_path / "p.yaml"
    agents = "".join(f"  {name}: plain\n" for name in NAMES)
    file.write_text(f"version: 1\nagents:\n{agents}roles:\n  plain: {{key: ecc256/sha256, inbox: x25519}}\n")
    return str(file)


def test_a_fleet_on_two_tpms_outlives_one_of_them(bare_fleet, made_swtpm, policy):
    """Each agent's papers are its own TPM's; without the second the first goes on, and the lost agents come back as documented."""
    fleet = bare_fleet
    shutil.copytree(made_swtpm, fleet.state.swtpm)

    made = fleet.json("provision", "--policy", policy, **BOTH)
    assert (made["made"], made["enrolled"]) == (len(NAMES), len(NAMES))
    vault = FolderVault(fleet.state.vault)
    entries = {entry.info.name: entry for entry in vault.entries() if entry.info.name != "attestation"}
    listed = {key["agent"]: key["tpm"] for key in fleet.json("keys", "list")["keys"]}
    assert listed == {name: entry.tpm for name, entry in entries.items()}
    assert set(listed.values()) == {"swtpm", "swtpm-2"}
    for name in NAMES:
        (inbox,) = InboxFolder(fleet.state.inbox).read(name).keys
        assert inbox.place.parent == entries[name].parent
    proven = read_public(fleet.state.trust / "public").agents
    assert {(one.origin, one.level) for one in proven} == {("software-tpm", 1)}  # each by the chip that its key is in

    status = fleet.json("tpm", "status")["statistics"]["tpms"]
    assert {name: one["is_there"] for name, one in status.items()} == {"swtpm": True, "swtpm-2": True}
    assert sum(one["signatures"] for one in status.values()) >= len(NAMES)
    again = fleet.json("provision", "--policy", policy, **BOTH)
    assert (again["made"], again["enrolled"]) == (0, 0)

    fleet.run("tpm", "stop")
    shutil.rmtree(fleet.state.swtpm.with_name("swtpm-2"))
    kept = next(name for name in NAMES if listed[name] == "swtpm")
    lost = next(name for name in NAMES if listed[name] == "swtpm-2")
    assert fleet.json("provision", kept, "--policy", policy, **ONE)["made"] == 0
    refused = fleet.run("provision", lost, "--policy", policy, "--json", **ONE)
    assert refused.returncode != 0
    assert json.loads(refused.stdout)["error"]["code"] == "wrong_tpm"

    for command in (
        ("trust", "revoke", lost, "--policy", policy),
        ("trust", "enroll", "--uid", str(os.getuid()), lost, "--policy", policy),
        ("keys", "rotate", lost, "--keep", "0s", "--policy", policy),
        ("provision", lost, "--policy", policy),
    ):
        done = fleet.run(*command, **ONE)
        assert done.returncode == 0, (command, done.stderr, done.stdout)
    assert next(entry.tpm for entry in FolderVault(fleet.state.vault).entries() if entry.info.id == f"{lost}.2") == "swtpm"
    found = {one.name: one for one in read_public(fleet.state.trust / "public").agents}
    assert found[lost].spki == vault.find(lost).info.spki
