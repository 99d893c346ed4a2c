"""A fleet with its papers: they verify elsewhere, nothing is made twice, and whatever interrupts it is made up for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from bus.clock import SystemClock
from bus.errors import VaultError
from bus.hub.believed_chips import believed_chips
from bus.hub.fleet_papers import KEYS, PAPERS, Order, provision_fleet
from bus.hub.state import State
from bus.hub.tpm_process import open_engine
from bus.identity.authority import Passphrase, open_authority
from bus.identity.envelopes.believe import believe_inbox
from bus.identity.envelopes.verifier import Verifier
from bus.identity.inbox import Inbox, InboxFolder
from bus.identity.public_trust import read_public
from bus.policy import load, open_policy
from bus.protocol import kem
from bus.testing import ManualClock
from bus.tpm.engine import Engine
from bus.tpm.esapi import EsapiTpm
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM
from bus.tpm.software import SoftwareTpm
from bus.tpm.vault import MemoryVault
from bus.trust.revocations import Reason

pytestmark = pytest.mark.slow

ROLES = """roles:
  plain: {key: ecc256/sha256, inbox: x25519}
  free: {key: ecc256/sha256, key_origin: software, environment: allow}
"""
OPENSSL = ["openssl", "verify", "-crl_check", "-x509_strict"]


def public(fleet):
    return read_public(fleet.state.trust / "public")


def certificates(fleet):
    return {path.stem: path for path in (fleet.state.trust / "public" / "certificates").glob("*.pem") if "." not in path.stem}


def accepted_by_openssl(fleet, paths):
    folder = fleet.state.trust / "public"
    command = [*OPENSSL, "-CAfile", str(folder / "root.pem"), "-CRLfile", str(folder / "crl.pem"), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def of(document, name):
    (agent,) = (agent for agent in document["agents"] if agent["agent"] == name)
    return agent


# ---- the whole fleet -----------------------------------------------------------------------------------------------------------


def test_76_agents_have_certificates_that_openssl_accepts(provisioned):
    found = certificates(provisioned)
    assert set(found) == set(open_policy().agents)
    done = accepted_by_openssl(provisioned, found.values())
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(": OK") == 76


def test_what_it_said_adds_up_and_is_what_the_certificates_say(provisioned):
    said, policy = provisioned.first, open_policy()
    assert (said["made"], said["enrolled"], len(said["agents"])) == (76, 76, 76)
    found = {certificate.name: certificate for certificate in public(provisioned).agents}
    for agent in said["agents"]:
        certificate = found[agent["agent"]]
        assert agent["certificate"]["serial"] == f"{certificate.serial:x}"
        assert agent["certificate"]["not_after_ms"] == certificate.not_after_ms
        assert (certificate.origin, certificate.level) == ("software-tpm", 1)
        assert certificate.suite == policy.role_of(agent["agent"]).suite
        assert (agent["inbox"]["counter"], agent["inbox"]["kind"]) == (1, policy.role_of(agent["agent"]).inbox)
    assert len({agent["certificate"]["serial"] for agent in said["agents"]}) == 76


def test_the_policy_is_signed_and_a_statement_vouches_for_it(provisioned):
    said, found = provisioned.first, public(provisioned)
    assert found.bundle.policy().agents == open_policy().agents
    assert said["policy_version"] == found.bundle.version == found.statement.policy_version == 1
    assert found.statement.policy_digest == found.bundle.digest
    assert said["statement"]["number"] == found.statement.number
    found.view().check_fresh(found.statement.issued_ms)
    assert provisioned.json("trust", "status")["fresh"] is True


def test_again_it_makes_and_writes_nothing_and_leaves_the_authority_alone(provisioned):
    files = [path for path in provisioned.state.folder.rglob("*") if path.is_file() and "swtpm" not in path.parts]
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in files if path.name not in ("tpm.lock", "memory.json")}
    again = provisioned.json("provision")
    assert (again["made"], again["enrolled"]) == (0, 0)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before
    assert [agent["certificate"]["serial"] for agent in again["agents"]] == [
        agent["certificate"]["serial"] for agent in provisioned.first["agents"]
    ]
    assert "76 agents have their certificates: 0 issued, 76 were there" in provisioned.run("provision").stdout


def test_nobody_else_can_read_what_is_private(provisioned):
    private = [provisioned.state.trust / "private", provisioned.state.inbox, provisioned.state.vault]
    assert {path.stat().st_mode & 0o77 for folder in private for path in [folder, *folder.rglob("*")]} == {0}


def test_a_sender_believes_what_is_published_and_its_reader_opens_what_is_sealed_to_it(provisioned):
    found, state = public(provisioned), provisioned.state
    verifier = Verifier(found.root, found.domain, ml_dsa_root=found.ml_dsa_root)
    now = found.statement.issued_ms
    believed = {
        one.name: believe_inbox((state.trust / "public" / "inbox" / f"{one.name}.bin").read_bytes(), one.der, verifier, now_ms=now)
        for one in found.agents
    }
    assert set(believed) == set(open_policy().agents)

    async def read(name):
        async with open_engine(state) as engine:
            inbox = await Inbox.open(InboxFolder(state.inbox), engine, name, clock=SystemClock())
            body = believed[name].inbox.body
            private = await inbox.private(body.key_id)
            return private.open(kem.seal(body.kem, body.kem_key, b"a grant", b"info"), b"info")

    assert [anyio.run(read, name) for name in ("DIRECTOR", "MONITOR")] == [b"a grant", b"a grant"]


@pytest.mark.anyio
async def test_it_blocks_no_event_loop_and_tells_of_each_agent_twice(swtpm, swtpm_folder, tmp_path, runtime):
    """In one process with its engine, on both loops."""
    state = State(tmp_path, runtime)
    assert state.swtpm == swtpm_folder  # so that its CA is believed
    texts = {"p.yaml": b"version: 1\nagents: {ONE: plain, TWO: free}\n" + ROLES.encode()}
    order, told = Order(load(texts), texts, ["ONE", "TWO"]), []
    async with Engine(lambda: EsapiTpm(swtpm.tcti, origin=SOFTWARE_TPM), MemoryVault(), software=SoftwareTpm(bytes(32))) as engine:
        for environ in ({}, {"TPM_ENABLED": "false"}, {"TPM_ENABLED": "false"}):
            fleet = await provision_fleet(
                state, engine, order, environ=environ, clock=SystemClock(), tell=lambda *what: told.append(what)
            )
            assert sorted(told) == sorted((phase, name) for phase in (KEYS, PAPERS) for name in ("ONE", "TWO"))
            told.clear()
    assert [(member.name, member.certificate.origin, member.enrolled) for member in fleet.members] == [
        ("ONE", SOFTWARE_TPM, False),
        ("TWO", SOFTWARE, False),
    ]
    assert [member.inbox.record.counter for member in fleet.members] == [1, 2]


# ---- refused before anything is made -------------------------------------------------------------------------------------------


@pytest.fixture
def write_policy(tmp_path):
    def write(agents="  ONE: plain\n", *, domain="tpmbus.local", inbox="x25519", extra=""):
        file = tmp_path / "p.yaml"
        roles = ROLES.replace("x25519", inbox)
        file.write_text(f"version: 1\ndomain: {domain}\nagents:\n{agents}{roles}{extra}")
        return str(file)

    return write


def test_a_wrong_policy_is_refused_before_there_is_a_tpm(bare_fleet, write_policy):
    for policy in (write_policy(extra="nonsense: 1\n"), write_policy(agents="  ONE: nobody\n")):
        assert bare_fleet.run("provision", "--policy", policy).returncode == 3
    assert not bare_fleet.state.swtpm.exists()
    assert not bare_fleet.state.trust.exists()


def test_a_roster_that_gives_a_listed_agent_another_role_is_refused_before_there_is_a_tpm(bare_fleet, write_policy, tmp_path):
    roster = tmp_path / "roster.yaml"
    roster.write_text("version: 1\nagents:\n  ONE: free\n")
    assert bare_fleet.run("provision", "--policy", write_policy(), "--fleet", str(roster)).returncode == 3
    assert not bare_fleet.state.swtpm.exists()


def test_an_authority_that_rested_for_long_wants_to_hear_that_the_clock_is_right(fleet, write_policy):
    folder = fleet.state.trust

    async def long_ago():
        clock = ManualClock(ms=SystemClock().now_ms() - 100 * 86_400_000)
        async with open_authority(folder, domain="tpmbus.local", protection=Passphrase("secret", log_n=10), clock=clock):
            pass

    anyio.run(long_ago)
    command = ["provision", "--policy", write_policy("  ONE: free\n"), "--tpm", "software", "--passphrase-file", "-", "--json"]
    done = fleet.run(*command, typed="secret\n")
    assert (done.returncode, json.loads(done.stdout)["error"]["code"]) == (5, "clock")
    assert fleet.run(*command, "--clock-is-right", typed="secret\n").returncode == 0


def test_a_policy_of_another_domain_is_refused_before_a_key_is_made(fleet, write_policy):
    fleet.json("provision", "--policy", write_policy())
    other = write_policy("  TWO: plain\n", domain="elsewhere.local")
    done = fleet.run("provision", "--policy", other, "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["code"] == "wrong_domain"
    assert [key["agent"] for key in fleet.json("keys", "list")["keys"]] == ["ONE"]


# ---- one agent's life ----------------------------------------------------------------------------------------------------------


def test_the_environment_moves_an_ordinary_agent_to_software_and_back_and_no_critical_one(fleet):
    """With a certificate each time, and no inbox key lost."""
    documents = [fleet.json("provision", "WEB", "DIRECTOR", **environment) for environment in ({}, {"TPM_ENABLED": "false"}, {})]
    web, director = ([of(document, name)["certificate"] for document in documents] for name in ("WEB", "DIRECTOR"))
    assert [(one["origin"], one["issued"]) for one in web] == [("software-tpm", True), ("software", True), ("software-tpm", True)]
    assert [one["level"] for one in web] == [1, 0, 1]
    assert [(one["origin"], one["issued"]) for one in director] == [("software-tpm", True), *[("software-tpm", False)] * 2]
    keys = fleet.json("keys", "inbox", "WEB")["keys"]
    assert [(key["counter"], key["origin"]) for key in keys] == [(1, "software-tpm"), (2, "software"), (3, "software-tpm")]
    found = public(fleet)
    assert [one.reason for one in found.revocations.revoked.values()] == [Reason.ROTATED, Reason.ROTATED]
    assert accepted_by_openssl(fleet, certificates(fleet).values()).returncode == 0
    found.view()  # the statement names this list


def test_a_state_that_began_in_software_goes_on_when_there_is_a_tpm(bare_fleet):
    first = of(bare_fleet.json("provision", "WEB", "--tpm", "software"), "WEB")
    bare_fleet.json("tpm", "stop")
    second = of(bare_fleet.json("provision", "WEB"), "WEB")
    assert [one["certificate"]["origin"] for one in (first, second)] == ["software", "software-tpm"]
    assert [key["origin"] for key in bare_fleet.json("keys", "inbox", "WEB")["keys"]] == ["software", "software-tpm"]


def test_a_rotated_key_gets_a_certificate_of_its_own_and_the_old_one_counts_a_while(fleet):
    first = of(fleet.json("provision", "MONITOR"), "MONITOR")
    fleet.json("keys", "rotate", "MONITOR")
    second = of(fleet.json("provision", "MONITOR"), "MONITOR")
    assert (second["generation"], second["certificate"]["issued"]) == (2, True)
    assert second["certificate"]["serial"] != first["certificate"]["serial"]
    assert second["inbox"]["counter"] == 2
    found = public(fleet)
    revoked = found.revocations.revoked[int(first["certificate"]["serial"], 16)]
    assert revoked.reason is Reason.ROTATED
    assert revoked.date_ms > found.statement.issued_ms


def test_who_was_revoked_stays_out_until_somebody_lets_it_in(fleet):
    fleet.json("provision", "MONITOR", "TRACER")
    fleet.json("trust", "revoke", "MONITOR")
    done = fleet.run("provision", "MONITOR", "TRACER", "--json")
    assert done.returncode == 1
    document = json.loads(done.stdout)
    assert of(document, "MONITOR")["certificate"] is None
    assert of(document, "TRACER")["certificate"]["issued"] is False
    assert "tpmbus trust enroll --uid" in done.stderr
    assert set(certificates(fleet)) == {"TRACER"}
    fleet.json("trust", "enroll", "--uid", str(os.getuid()), "MONITOR")
    again = of(fleet.json("provision", "MONITOR", "TRACER"), "MONITOR")
    assert (again["certificate"]["issued"], again["inbox"]["counter"]) == (True, 2)


def test_agents_of_another_roster_stay_in_the_signed_policy(fleet, write_policy, tmp_path):
    policy, roster = write_policy(), tmp_path / "roster.yaml"
    roster.write_text("version: 1\nagents:\n  BILLING: free\n")
    fleet.json("provision", "--policy", policy, "--fleet", str(roster))
    assert public(fleet).bundle.policy().agents == {"ONE": "plain", "BILLING": "free"}
    fleet.json("provision", "--policy", policy)
    found = public(fleet)
    assert found.bundle.policy().agents == {"ONE": "plain", "BILLING": "free"}
    assert found.bundle.version == 1
    assert {one.name for one in found.agents} == {"ONE", "BILLING"}


def test_a_changed_policy_is_signed_and_what_it_wants_otherwise_is_made(fleet, write_policy):
    fleet.json("provision", "--policy", write_policy())
    document = fleet.json("provision", "--policy", write_policy("  ONE: plain\n  TWO: plain\n", inbox="hybrid"))
    assert (document["made"], document["enrolled"], document["policy_version"]) == (1, 1, 2)
    assert [(agent["inbox"]["kind"], agent["inbox"]["counter"]) for agent in document["agents"]] == [("hybrid", 2), ("hybrid", 1)]
    found = public(fleet)
    assert (found.statement.policy_version, found.statement.policy_digest) == (2, found.bundle.digest)


def test_an_authority_under_a_passphrase_asks_for_it_only_where_it_has_something_to_do(fleet, write_policy, tmp_path):
    secret = tmp_path / "passphrase"
    secret.write_text("correct horse battery staple\n")
    fleet.json("provision", "--policy", write_policy(), "--passphrase-file", str(secret))
    assert fleet.json("provision", "--policy", write_policy())["enrolled"] == 0
    more = write_policy("  ONE: plain\n  TWO: plain\n")
    done = fleet.run("provision", "--policy", more, "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["error"]["code"] == "wrong_protection"
    assert fleet.json("provision", "--policy", more, "--passphrase-file", str(secret))["enrolled"] == 1


# ---- chips ---------------------------------------------------------------------------------------------------------------------


def test_a_chip_that_nobody_vouches_for_gets_no_certificate_until_its_maker_is_believed(fleet, write_policy):
    fleet.json("provision", "--policy", write_policy())
    ca, policy = fleet.state.swtpm / "ca", write_policy("  ONE: plain\n  TWO: plain\n")
    roots = {name: (ca / name).read_bytes() for name in ("swtpm-localca-rootca-cert.pem", "issuercert.pem")}
    (ca / "swtpm-localca-rootca-cert.pem").unlink()
    done = fleet.run("provision", "--policy", policy, "--json")
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["reason"]) == ("AttestationError", "ek_untrusted")
    believed = fleet.state.trust / "chips" / "software"
    believed.mkdir(parents=True)
    (believed / "maker.pem").write_bytes(roots["swtpm-localca-rootca-cert.pem"])
    document = fleet.json("provision", "--policy", policy)
    assert (document["made"], document["enrolled"]) == (0, 1)


def test_a_root_that_is_none_is_said_to_be_damaged(fleet):
    place = fleet.state.trust / "chips" / "hardware" / "maker.pem"
    place.parent.mkdir(parents=True)
    place.write_text("not a certificate")
    with pytest.raises(VaultError) as caught:
        believed_chips(fleet.state)
    assert (caught.value.code, caught.value.path) == ("damaged", str(place))


# ---- at once -------------------------------------------------------------------------------------------------------------------


def test_two_who_provision_one_folder_at_once_make_everything_once(fleet, write_policy):
    arguments = ["provision", "--policy", write_policy("  ONE: plain\n  TWO: plain\n"), "--json"]
    command = [sys.executable, "-c", "from bus.cli.main import main; main()", *arguments]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=fleet.environ) for _ in range(3)
    ]
    said = [process.communicate(timeout=100) for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], said
    documents = [json.loads(out) for out, _ in said]
    assert sum(document["enrolled"] for document in documents) == 2
    assert [key["key"] for key in fleet.json("keys", "list")["keys"]] == ["ONE.1", "TWO.1"]
    assert {document["root"]["sha256"] for document in documents} == {documents[0]["root"]["sha256"]}
    assert [key["counter"] for key in fleet.json("keys", "inbox")["keys"]] == [1, 1]


# ---- interrupted ---------------------------------------------------------------------------------------------------------------


def test_it_may_be_killed_whenever_it_touches_the_disk_and_is_finished_by_calling_it_again(fleet):
    program = Path(__file__).with_name("killed_fleet.py")
    done = subprocess.run(
        [sys.executable, str(program), str(fleet.folder / "state")],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env=fleet.environ,
    )
    print(done.stdout)  # with the seed
    assert done.returncode == 0, done.stderr
    found = public(fleet)
    assert {one.name for one in found.agents} == {f"AGENT{number}" for number in range(12)}
    found.view()
    assert accepted_by_openssl(fleet, certificates(fleet).values()).returncode == 0
