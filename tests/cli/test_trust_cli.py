"""`tpmbus trust` and `policy sign`: what they print, how they end, and that other tools read what they write."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import anyio
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bus.cli.main import cli
from bus.cli.revoking import Wanted, next_steps
from bus.clock import SystemClock
from bus.identity.authority import Passphrase, open_authority
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import ManualClock

pytestmark = pytest.mark.slow

POLICY = "version: 1\ndomain: tpmbus.test\nroles:\n  x:\n    key: ecc256/sha256\nagents:\n  DIRECTOR: x\n  MONITOR: x\n"


class Place:
    """A state folder whose authority is protected by a passphrase, and the command line in it."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir(mode=0o700, exist_ok=True)
        self.passphrase = folder / "passphrase"
        self.passphrase.write_text("only for tests\n")
        self.policy = folder / "policy.yaml"
        self.policy.write_text(POLICY)

    @property
    def public(self) -> Path:
        return self.state / "trust" / "public"

    def run(self, *arguments: str, **options) -> Result:
        environment = {"TPMBUS_STATE": str(self.state), "TPMBUS_POLICY": str(self.policy)}
        return CliRunner().invoke(cli, arguments, env=environment, **options)

    def keyed(self, *arguments: str, **options) -> Result:
        """A command that needs the authority's keys."""
        return self.run(*arguments, "--passphrase-file", str(self.passphrase), **options)

    def json(self, *arguments: str) -> dict:
        done = self.keyed(*arguments, "--json") if arguments[1] in ("sign", "revoke", "enroll") else self.run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def enroll(self, name: str) -> str:
        """As a desk does, in the end. Gives the place of the certificate."""
        key = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.with_authority(
            lambda authority: authority.issue_identity(name, key, IDENTITY_SUITES["ecc256/sha256"], "software", 0, b"")
        )
        return str(self.public / "certificates" / f"{name}.pem")

    def with_authority(self, work, clock=None):
        async def run():
            protection = Passphrase("only for tests", log_n=10)  # to stretch it well takes half a second each time
            manager = open_authority(
                self.state / "trust", domain="tpmbus.test", protection=protection, clock=clock or SystemClock()
            )
            async with manager as authority:
                return await anyio.to_thread.run_sync(work, authority)

        return anyio.run(run)


@pytest.fixture(scope="module")
def signed_once(tmp_path_factory) -> Path:
    place = Place(tmp_path_factory.mktemp("signed"))
    place.with_authority(lambda _: None)
    assert place.keyed("policy", "sign").exit_code == 0
    return place.state.parent


@pytest.fixture
def place(signed_once, tmp_path) -> Place:
    """With an authority, a signed policy and a statement."""
    shutil.copytree(signed_once, tmp_path, dirs_exist_ok=True, symlinks=True)
    return Place(tmp_path)


@pytest.fixture
def empty(tmp_path) -> Place:
    return Place(tmp_path)


def openssl(*arguments: str, typed: bytes | None = None) -> str:
    done = subprocess.run(["openssl", *arguments], input=typed, capture_output=True, timeout=30, check=False)
    return (done.stdout + done.stderr).decode()


# ---- policy sign ---------------------------------------------------------------------------------------------------------------


def test_the_first_signature_makes_the_authority(empty):
    document = empty.json("policy", "sign")
    assert (document["domain"], document["version"], document["changed"]) == ("tpmbus.test", 1, True)
    assert (document["files"], document["agents"], document["changes"]) == (["policy.yaml"], 2, None)
    assert (empty.public / "bundle.bin").exists()
    assert (empty.state / "trust" / "private").stat().st_mode & 0o777 == 0o700
    status = empty.json("trust", "status")
    assert status["statement"]["number"] == document["statement"]
    assert status["policy"]["digest"] == document["digest"]


def test_what_changes_is_said_and_what_does_not_is_not_signed(place):
    again = place.json("policy", "sign")
    assert (again["changed"], again["version"], again["changes"]) == (False, 1, None)
    place.policy.write_text(POLICY.replace("MONITOR: x", "BUILDER: x"))
    shown = place.keyed("policy", "sign")
    assert "Signed version 2 of the policy of tpmbus.test: 1 file, 2 agents" in shown.stdout
    assert "+ agent BUILDER (x)" in shown.stdout
    assert "- agent MONITOR (x)" in shown.stdout
    assert place.json("trust", "status")["statement"]["policy_version"] == 2


def test_the_path_may_be_an_argument_and_the_shipped_policy_takes_its_roster_along(tmp_path):
    place = Place(tmp_path)
    document = json.loads(place.keyed("policy", "sign", "default", "--json").stdout)
    assert document["agents"] == 76
    assert "agents/roster.yaml" in document["files"]


def test_a_policy_that_is_wrong_is_refused_before_an_authority_is_made(empty):
    empty.policy.write_text("version: 1\nroles: 5\n")
    done = empty.keyed("policy", "sign", "--json")
    assert done.exit_code == 3
    assert json.loads(done.stdout)["error"]["problems"][0]["line"] == 2
    assert not (empty.state / "trust").exists()


def test_a_policy_for_another_domain_is_refused_and_the_old_one_stays(place):
    place.policy.write_text(POLICY.replace("tpmbus.test", "other.test"))
    assert place.keyed("policy", "sign").exit_code == 3
    assert place.json("trust", "status")["policy"]["version"] == 1


# ---- status --------------------------------------------------------------------------------------------------------------------


def test_without_an_authority_status_says_how_to_make_one(empty):
    done = empty.run("trust", "status", "--json")
    assert done.exit_code == 5
    error = json.loads(done.stdout)["error"]
    assert (error["type"], error["code"]) == ("VaultError", "missing")


def test_status_shows_root_statement_list_policy_and_agents(place):
    document = place.json("trust", "status")
    assert (document["fresh"], document["problem"], document["domain"]) == (True, None, "tpmbus.test")
    assert document["agents"] == {"enrolled": [], "revoked": []}
    assert document["statement"]["age_ms"] >= 0
    shown = place.run("trust", "status").stdout
    assert all(word in shown for word in ("tpmbus.test", document["root"]["sha256"], "version 1", "yes"))


def test_a_stale_statement_is_exit_code_1(empty):
    old = ManualClock(ms=SystemClock().now_ms() - 2 * 86_400_000)
    from bus.identity.authority.statements import Statements

    empty.with_authority(lambda authority: Statements(authority, clock=old).issue(), clock=old)
    done = empty.run("trust", "status", "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["fresh"] is False
    assert "trust_stale" in document["problem"]
    assert empty.run("trust", "status").exit_code == 1


def test_at_half_of_its_life_status_worries_and_is_not_yet_stale(empty):
    old = ManualClock(ms=SystemClock().now_ms() - 40 * 60_000)
    from bus.identity.authority.statements import Statements

    empty.with_authority(lambda authority: Statements(authority, clock=old).issue(), clock=old)
    document = empty.json("trust", "status")
    assert document["fresh"] is True
    assert document["problem"]


def test_a_statement_that_was_tampered_with_is_exit_code_1(place):
    data = bytearray((place.public / "statement.bin").read_bytes())
    data[20] ^= 1
    (place.public / "statement.bin").write_bytes(data)
    done = place.run("trust", "status", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["type"] in ("VerificationError", "RemoteProtocolError")


# ---- ca, crl -------------------------------------------------------------------------------------------------------------------


def test_openssl_reads_the_root_in_both_forms(place, tmp_path):
    document = place.json("trust", "ca")
    assert document["sha256"] in openssl("x509", "-noout", "-fingerprint", "-sha256", typed=document["pem"].encode())
    assert place.run("trust", "ca").stdout == document["pem"]
    done = place.run("trust", "ca", "--form", "der", "--out", str(tmp_path / "root.der"))
    assert str(tmp_path / "root.der") in done.stdout
    assert document["sha256"] in openssl(
        "x509", "-inform", "der", "-in", str(tmp_path / "root.der"), "-noout", "-fingerprint", "-sha256"
    )
    der = CliRunner().invoke(cli, ["trust", "ca", "--form", "der"], env={"TPMBUS_STATE": str(place.state)}).stdout_bytes
    assert der == (tmp_path / "root.der").read_bytes()


def test_openssl_obeys_the_revocation_list(place, tmp_path):
    certificate = place.enroll("DIRECTOR")
    kept = shutil.copy(certificate, tmp_path / "director.pem")
    root, crl = str(tmp_path / "root.pem"), str(tmp_path / "crl.pem")
    place.run("trust", "ca", "--out", root)
    verify = ("verify", "-CAfile", root, "-crl_check", "-CRLfile", crl, kept)
    place.run("trust", "crl", "--out", crl)
    assert f"{kept}: OK" in openssl(*verify)
    place.json("trust", "revoke", "DIRECTOR")
    place.run("trust", "crl", "--out", crl)
    assert "certificate revoked" in openssl(*verify)


def test_the_list_is_shown_as_a_table_as_pem_and_as_der(place):
    place.enroll("DIRECTOR")
    place.json("trust", "revoke", "DIRECTOR", "--reason", "retired")
    document = place.json("trust", "crl")
    [entry] = document["revoked"]
    assert entry["reason"] == "retired"
    assert entry["serial"] in place.run("trust", "crl").stdout
    assert place.run("trust", "crl", "--form", "pem").stdout == document["pem"]
    der = place.run("trust", "crl", "--form", "der").stdout_bytes
    assert f"{document['number']:X}" in openssl("crl", "-inform", "der", "-noout", "-crlnumber", typed=der)


def test_a_place_that_cannot_be_written_is_exit_code_6(place, tmp_path):
    for name in ("ca", "crl"):
        assert place.run("trust", name, "--out", str(tmp_path / "nowhere" / "x")).exit_code == 6


# ---- revoke --------------------------------------------------------------------------------------------------------------------


def test_a_revocation_is_told_to_everybody_at_once(place):
    certificate = place.enroll("DIRECTOR")
    before = place.json("trust", "status")
    assert before["agents"]["enrolled"] == ["DIRECTOR"]
    done = place.json("trust", "revoke", "DIRECTOR")
    assert (done["reason"], done["generation"], done["next"]) == ("compromised", 1, [])
    after = place.json("trust", "status")
    assert after["fresh"] is True
    assert after["agents"] == {"enrolled": [], "revoked": ["DIRECTOR"]}
    assert after["statement"]["number"] == done["statement"] > before["statement"]["number"]
    assert after["crl"]["number"] == after["statement"]["crl_number"] == done["crl_number"] > before["crl"]["number"]
    assert not Path(certificate).exists()


@pytest.mark.parametrize(("broker", "count"), [(False, 0), (True, 1)])
def test_what_no_statement_does_to_a_broker_is_said(broker, count):
    wanted = Wanted.of("WEST", "compromised", sessions=False, broker=broker, trust_signer=False)
    assert len(next_steps(wanted)) == count


def test_a_rotation_leaves_the_generation_where_it_is(place):
    place.enroll("DIRECTOR")
    assert place.json("trust", "revoke", "DIRECTOR", "--reason", "rotated")["generation"] == 0


def test_ending_sessions_leaves_the_certificate(place):
    place.enroll("DIRECTOR")
    done = place.json("trust", "revoke", "DIRECTOR", "--sessions")
    assert done["sessions_not_before_ms"]
    status = place.json("trust", "status")
    assert status["agents"] == {"enrolled": ["DIRECTOR"], "revoked": []}
    assert status["statement"]["number"] == done["statement"]


def test_who_was_revoked_is_off_the_enrolment_list_too(place):
    place.enroll("DIRECTOR")
    place.json("trust", "enroll", "--token", "DIRECTOR")
    place.json("trust", "enroll", "--ek", "ab" * 32, "DIRECTOR")
    place.json("trust", "revoke", "DIRECTOR")
    listed = place.json("trust", "enroll", "--list")
    assert (listed["tokens"], listed["chips"]) == ([], {})


def test_the_list_that_a_command_that_was_killed_left_as_it_was_is_mended_by_the_next(place):
    from bus.trust.revocations import Reason

    place.enroll("DIRECTOR")
    place.json("trust", "enroll", "--ek", "ab" * 32, "DIRECTOR")
    place.json("trust", "enroll", "--ek", "cd" * 32, "MONITOR")
    place.with_authority(lambda authority: authority.revoke("DIRECTOR", Reason.COMPROMISED))  # and the chip is still listed
    assert place.keyed("trust", "revoke", "DIRECTOR").exit_code == 1
    assert place.keyed("trust", "revoke", "MONITOR").exit_code == 1  # which waits to be enrolled
    assert place.json("trust", "enroll", "--list")["chips"] == {"MONITOR": ["cd" * 32]}


def test_a_local_user_that_none_can_be_is_wrong_usage_and_spoils_nothing(place):
    for uid in ("-1", str(2**32)):
        assert place.keyed("trust", "enroll", "--uid", uid, "MONITOR").exit_code == 2
    assert place.json("trust", "enroll", "--list")["uids"] == {}


def test_a_list_that_cannot_be_read_stops_a_revocation_before_it_begins(place):
    place.enroll("DIRECTOR")
    place.json("trust", "enroll", "--ek", "ab" * 32, "DIRECTOR")
    (listed,) = place.state.rglob("enrolment.json")
    listed.write_text("{")
    assert place.keyed("trust", "revoke", "DIRECTOR").exit_code == 5
    assert place.json("trust", "status")["agents"] == {"enrolled": ["DIRECTOR"], "revoked": []}


def test_nobody_to_revoke_is_exit_code_1(place):
    done = place.keyed("trust", "revoke", "NOBODY", "--json")
    assert done.exit_code == 1
    assert json.loads(done.stdout)["error"]["reason"] == "not_enrolled"


def test_what_a_command_that_was_killed_left_unsaid_is_said_by_the_next(place):
    from bus.trust.revocations import Reason

    place.enroll("DIRECTOR")
    place.with_authority(lambda authority: authority.revoke("DIRECTOR", Reason.COMPROMISED))  # and no statement
    assert place.run("trust", "status").exit_code == 1
    assert place.keyed("trust", "revoke", "DIRECTOR").exit_code == 1  # there is nothing left to revoke
    status = place.json("trust", "status")
    assert (status["fresh"], status["agents"]["revoked"]) == (True, ["DIRECTOR"])


def test_a_stolen_trust_signer_is_taken_back_and_has_a_successor_at_once(place):
    private = place.state / "trust" / "private"
    before, [key] = place.json("trust", "status"), private.glob("trust-*.key")
    done = place.json("trust", "revoke", "--trust-signer")
    assert (done["name"], done["reason"]) == ("TRUST", "compromised")
    [revoked] = place.json("trust", "crl")["revoked"]
    assert revoked["reason"] == "compromised"
    after = place.json("trust", "status")
    assert (after["fresh"], after["agents"]["revoked"]) == (True, [])
    assert after["statement"]["number"] == done["statement"] > before["statement"]["number"]
    assert after["statement"]["crl_number"] == done["crl_number"] > before["crl"]["number"]
    [new] = private.glob("trust-*.key")
    assert new != key
    assert "a new key signs statements" in place.keyed("trust", "revoke", "--trust-signer", "--reason", "rotated").stdout


def test_a_trust_signer_whose_successor_a_killed_command_left_unmade_gets_one_by_the_next(place):
    from bus.trust.certificates import Profile
    from bus.trust.revocations import Reason

    place.with_authority(lambda authority: authority.revoke("TRUST", Reason.COMPROMISED, profile=Profile.TRUST))
    assert place.run("trust", "status").exit_code == 1
    assert place.keyed("trust", "revoke", "--trust-signer").exit_code == 1  # there is nothing left to revoke
    assert place.json("trust", "status")["fresh"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        ("trust", "revoke"),
        ("trust", "revoke", "DIRECTOR", "--trust-signer"),
        ("trust", "revoke", "--trust-signer", "--sessions"),
        ("trust", "revoke", "--trust-signer", "--broker"),
        ("trust", "revoke", "small"),
        ("trust", "revoke", "DIRECTOR", "--reason", "boredom"),
        ("trust", "revoke", "DIRECTOR", "--sessions", "--broker"),
        ("trust", "enroll", "--token", "small"),
        ("trust", "enroll", "--ek", "abc", "DIRECTOR"),
        ("trust", "enroll", "--ek", "ab", "DIRECTOR"),
        ("trust", "crl", "--form", "txt"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(place, arguments):
    done = place.keyed(*arguments) if arguments[1] != "crl" else place.run(*arguments)
    assert done.exit_code == 2


# ---- enroll --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("who", [("--token", "STRANGER"), ("--ek", "ab" * 32, "STRANGER"), ("--uid", "1000", "STRANGER")])
def test_a_name_that_the_signed_policy_does_not_have_is_let_in_by_nothing(place, who):
    assert place.keyed("trust", "enroll", *who).exit_code == 4
    listed = place.json("trust", "enroll", "--list")
    assert (listed["chips"], listed["tokens"], listed["uids"]) == ({}, [], {})


def test_a_token_is_shown_once_and_kept_nowhere(place):
    done = place.keyed("trust", "enroll", "--token", "DIRECTOR")
    token = done.stdout.strip()
    assert len(bytes.fromhex(token)) == 16
    assert token not in done.stderr
    files = [path.read_bytes() for path in (place.state / "trust").rglob("*") if path.is_file()]
    assert not any(token.encode() in data or bytes.fromhex(token) in data for data in files)
    [listed] = place.json("trust", "enroll", "--list")["tokens"]
    assert (listed["name"], listed["used"]) == ("DIRECTOR", False)


def test_chips_and_local_users_are_listed_and_removed(place):
    chip = "ab" * 32
    place.json("trust", "enroll", "--ek", chip, "DIRECTOR")
    place.json("trust", "enroll", "--uid", "1000", "MONITOR")
    listed = place.json("trust", "enroll", "--uid", "1001", "*")
    assert listed == {"chips": {"DIRECTOR": [chip]}, "tokens": [], "uids": {"*": [1001], "MONITOR": [1000]}}
    shown = place.keyed("trust", "enroll").stdout
    assert all(word in shown for word in (chip, "DIRECTOR", "local user", "1000"))
    removed = place.json("trust", "enroll", "--remove", "DIRECTOR")
    assert "DIRECTOR" not in removed["chips"]
    assert "Nobody may enroll as MONITOR" in place.keyed("trust", "enroll", "--remove", "MONITOR").stdout


def test_a_fingerprint_with_colons_is_a_hash_too(place):
    colons = ":".join(["AB"] * 32)
    assert place.json("trust", "enroll", "--ek", colons, "DIRECTOR")["chips"] == {"DIRECTOR": ["ab" * 32]}


# ---- the clock -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [("policy", "sign"), ("trust", "enroll", "--list"), ("trust", "revoke", "DIRECTOR", "--sessions")], ids=" ".join
)
def test_an_authority_that_rested_for_long_wants_to_hear_that_the_clock_is_right(empty, arguments):
    old = ManualClock(ms=SystemClock().now_ms() - 100 * 86_400_000)
    empty.with_authority(lambda authority: authority.revocations(), clock=old)
    done = empty.keyed(*arguments, "--json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["error"]["code"] == "clock"
    assert empty.keyed(*arguments, "--clock-is-right").exit_code == 0
    assert empty.keyed(*arguments).exit_code == 0


def test_status_says_where_the_clock_is_behind_the_statement(empty):
    from bus.identity.authority.statements import Statements

    ahead = ManualClock(ms=SystemClock().now_ms() + 86_400_000)
    empty.with_authority(lambda authority: Statements(authority, clock=ahead).issue(), clock=ahead)
    done = empty.run("trust", "status", "--json")
    assert done.exit_code == 1
    assert "clock_behind" in json.loads(done.stdout)["problem"]


# ---- who may open it -----------------------------------------------------------------------------------------------------------


def test_a_wrong_passphrase_is_exit_code_5(place):
    place.passphrase.write_text("something else\n")
    done = place.keyed("trust", "enroll", "--json")
    assert done.exit_code == 5
    assert json.loads(done.stdout)["error"]["code"] == "wrong_passphrase"


def test_an_authority_in_use_is_exit_code_4(place):
    def meanwhile(_) -> Result:
        return place.keyed("trust", "enroll")

    assert place.with_authority(meanwhile).exit_code == 4


def test_the_passphrase_may_come_from_stdin_and_is_not_empty(place):
    assert place.run("trust", "enroll", "--passphrase-file", "-", input="only for tests\n").exit_code == 0
    assert place.run("trust", "enroll", "--passphrase-file", "-", input="\n").exit_code == 2
    assert place.run("trust", "enroll", "--passphrase-file", "/nowhere/at/all").exit_code == 2


def test_names_of_agents_are_completed(place):
    environment = {
        "_TPMBUS_COMPLETE": "bash_complete",
        "COMP_WORDS": "tpmbus trust revoke D",
        "COMP_CWORD": "3",
        "TPMBUS_POLICY": str(place.policy),
    }
    done = CliRunner().invoke(cli, [], env=environment, prog_name="tpmbus")
    assert done.stdout.split() == ["plain,DIRECTOR"]


def test_with_the_states_own_tpm(fleet):
    signed = fleet.json("policy", "sign")
    assert (signed["version"], signed["agents"]) == (1, 76)
    assert fleet.json("trust", "enroll", "--list") == {"chips": {}, "tokens": [], "uids": {}}
    assert fleet.json("trust", "status")["fresh"] is True
    wrong = fleet.run("trust", "enroll", "--passphrase-file", "-", "--json", typed="guess\n")
    assert wrong.returncode == 5
    assert json.loads(wrong.stdout)["error"]["code"] == "wrong_protection"
