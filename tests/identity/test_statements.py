"""The authority signs statements and policy: no two alike, at once when something changed, and nothing that nobody would take."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from anyio.from_thread import start_blocking_portal

from bus.errors import PolicyError, VaultError, VerificationError
from bus.identity.authority import Authority, Passphrase, open_authority, policies, statements
from bus.identity.authority.statements import INTERVAL_SECONDS, RETRY_SECONDS, Statements
from bus.identity.public_trust import ML_DSA_ROOT, read_public
from bus.identity.trust_memory import TrustMemory
from bus.protocol.suites import IDENTITY_SUITES
from bus.testing import ManualClock
from bus.trust.revocations import Reason

DOMAIN = "tpmbus.test"
PASSPHRASE = Passphrase("only for tests", log_n=10)
HOUR = 3_600_000

FLEET = (
    "version: 1\ndomain: tpmbus.test\nagents: ../agents/roster.yaml\ntrust: {max_age: 2h}\nroles:\n  x:\n    key: ecc256/sha256\n"
)
ROSTER = "version: 1\nagents:\n  DIRECTOR: x\n  MONITOR: x\n"


@contextmanager
def opened(folder: Path, clock: ManualClock) -> Iterator[Authority]:
    """For tests that do not wait."""
    manager = open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=clock)
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(manager) as authority:
        yield authority


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with an authority, made once: its keys take a second."""
    folder = tmp_path_factory.mktemp("authority") / "trust"
    with opened(folder, ManualClock()):
        pass
    return folder


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def folder(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "trust"))


@pytest.fixture
def authority(folder, clock) -> Iterator[Authority]:
    with opened(folder, clock) as authority:
        yield authority


def texts(**changes: str) -> dict[str, bytes]:
    files = {"policies/fleet.yaml": FLEET, "agents/roster.yaml": ROSTER, **changes}
    return {path: text.encode() for path, text in files.items()}


def enroll(authority: Authority, name: str) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    authority.issue_identity(name, key, IDENTITY_SUITES["ecc256/sha256"], "software", 0, b"")


# ---- statements ----------------------------------------------------------------------------------------------------------------


def test_a_statement_says_what_the_authority_knows(authority, clock):
    enroll(authority, "DIRECTOR")
    authority.register_ml_dsa("DIRECTOR", bytes(32))
    crl = authority.revoke("DIRECTOR", Reason.RETIRED)
    authority.end_sessions("MONITOR")
    statement = Statements(authority, clock=clock).issue()
    assert (statement.domain, statement.issued_ms, statement.next_update_ms) == (DOMAIN, clock.ms, clock.ms + HOUR)
    assert (statement.crl_number, statement.crl_digest) == (crl.number, crl.digest)
    assert statement.agents == {"DIRECTOR": (1, 0), "MONITOR": (0, clock.ms)}
    assert statement.ml_dsa == {}
    assert (statement.policy_version, statement.policy_digest) == (0, bytes(32))


def test_everybody_can_read_what_was_issued_without_any_key(authority, folder, clock):
    statement = Statements(authority, clock=clock).issue()
    found = read_public(folder / "public")
    assert found.statement is not None
    assert found.statement.raw == statement.raw
    assert found.domain == DOMAIN
    assert found.ml_dsa_root == authority.ml_dsa_root
    found.view().check_fresh(clock.ms)


def test_numbers_only_rise_also_over_restarts(folder, clock):
    numbers = []
    for _ in range(3):
        with opened(folder, clock) as authority:
            numbers += [Statements(authority, clock=clock).issue().number, Statements(authority, clock=clock).issue().number]
    assert numbers == sorted(set(numbers))


def test_a_process_that_dies_after_signing_has_used_its_number(folder, clock, monkeypatch):
    with opened(folder, clock) as authority:
        seen = []

        def dies(path: str, data: bytes) -> None:
            seen.append((path, data))
            raise KeyboardInterrupt

        ours = Statements(authority, clock=clock)
        ours.issue()
        monkeypatch.setattr(authority, "publish", dies)
        with pytest.raises(KeyboardInterrupt):
            ours.issue()
    lost = statements.wire.read(seen[0][1], root=authority.root, domain=DOMAIN, ml_dsa_root=authority.ml_dsa_root)
    with opened(folder, clock) as authority:
        assert Statements(authority, clock=clock).issue().number > lost.number


def test_a_clock_that_is_turned_back_does_not_turn_back_what_is_issued(folder, clock):
    with opened(folder, clock) as authority:
        first = Statements(authority, clock=clock).issue()
    clock.ms -= 50 * HOUR
    with opened(folder, clock) as authority:
        again = Statements(authority, clock=clock).issue()
    assert again.number > first.number
    assert again.issued_ms == first.issued_ms


def test_a_published_statement_that_is_damaged_is_no_reason_to_issue_none(authority, clock):
    authority.publish(statements.FILE, b"damaged")
    assert Statements(authority, clock=clock).issue().number


def test_agents_follow_what_is_issued_and_nothing_older(authority, clock, tmp_path):
    memory = TrustMemory(tmp_path / "agent")
    ours = Statements(authority, clock=clock)
    older, newer = ours.issue(), ours.issue()
    memory.accept(newer)
    with pytest.raises(VerificationError) as caught:
        memory.accept(older)
    assert caught.value.reason == "trust_rollback"


def test_it_knows_whether_the_last_one_says_what_is_so(authority, clock):
    ours = Statements(authority, clock=clock)
    assert not ours.is_current()
    ours.issue()
    assert ours.is_current()
    changes = [
        lambda: enroll_and_revoke(authority),
        lambda: authority.end_sessions("MONITOR"),
        lambda: authority.register_ml_dsa("DIRECTOR", bytes(32)),
        lambda: policies.sign(authority, texts(), clock=clock),
    ]
    for change in changes:
        change()
        assert not ours.is_current()
        ours.issue()
        assert ours.is_current()
    assert Statements(authority, clock=clock).is_current()


def enroll_and_revoke(authority: Authority) -> None:
    enroll(authority, "DIRECTOR")
    assert authority.revoke("DIRECTOR", Reason.COMPROMISED)


# ---- the loop ------------------------------------------------------------------------------------------------------------------


class Disk:
    """An authority whose disk can be full, or which nobody publishes with before a test says so."""

    def __init__(self, authority: Authority, monkeypatch) -> None:
        self.full = False
        publish = authority.publish

        def write(path: str, data: bytes) -> None:
            if self.full and path == statements.FILE:
                raise VaultError("disk_full", "no room", path=path)
            publish(path, data)

        monkeypatch.setattr(authority, "publish", write)


async def until_issued(ours: Statements, count: int) -> None:
    """The loop works in a thread, so that it is not enough to let the others run."""
    with anyio.fail_after(60):
        while ours.issued < count:
            await anyio.wait_all_tasks_blocked()
            await anyio.lowlevel.checkpoint()
        await anyio.wait_all_tasks_blocked()


@pytest.mark.anyio
async def test_it_issues_at_once_then_every_five_minutes_and_at_each_change(folder, clock):
    async with open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=clock) as authority:
        ours = Statements(authority, clock=clock)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.run)
            await until_issued(ours, 1)
            clock.advance(INTERVAL_SECONDS - 1)
            await anyio.wait_all_tasks_blocked()
            assert ours.issued == 1
            clock.advance(1)
            await until_issued(ours, 2)
            await anyio.to_thread.run_sync(authority.end_sessions, "MONITOR")
            ours.changed()
            await until_issued(ours, 3)
            found = await anyio.to_thread.run_sync(statements.in_force, authority)
            assert found is not None
            assert "MONITOR" in found.agents
            clock.advance(INTERVAL_SECONDS)
            await until_issued(ours, 4)
            assert ours.issued == 4
            tasks.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_failure_is_kept_and_tried_again_soon(folder, clock, monkeypatch):
    async with open_authority(folder, domain=DOMAIN, protection=PASSPHRASE, clock=clock) as authority:
        disk, ours = Disk(authority, monkeypatch), Statements(authority, clock=clock)
        disk.full = True
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ours.run)
            with anyio.fail_after(60):
                while ours.failure is None:
                    await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert isinstance(ours.failure, VaultError)
            assert ours.issued == 0
            disk.full = False
            clock.advance(RETRY_SECONDS)
            await until_issued(ours, 1)
            with anyio.fail_after(60):
                while ours.failure is not None:  # its thread has counted before the loop hears of it
                    await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()


# ---- policy --------------------------------------------------------------------------------------------------------------------


def test_what_is_signed_is_what_everybody_decides_by(authority, folder, clock):
    signed = policies.sign(authority, texts(), clock=clock)
    assert (signed.changed, signed.before, signed.bundle.version) == (True, None, 1)
    assert signed.bundle.made_ms == clock.ms
    statement = Statements(authority, clock=clock).issue()
    assert (statement.policy_version, statement.policy_digest) == (1, signed.bundle.digest)
    assert statement.next_update_ms - statement.issued_ms == 2 * HOUR
    found = read_public(folder / "public")
    assert found.bundle is not None
    assert found.bundle.policy().agents == {"DIRECTOR": "x", "MONITOR": "x"}


def test_files_lie_in_a_bundle_as_they_lie_beside_each_other(authority, clock, tmp_path):
    place = tmp_path / "a" / "b"
    files = {str(place / "policies" / "fleet.yaml"): FLEET.encode(), str(place / "agents" / "roster.yaml"): ROSTER.encode()}
    bundle = policies.sign(authority, files, clock=clock).bundle
    assert list(bundle.files) == ["agents/roster.yaml", "policies/fleet.yaml"]


def test_one_file_is_enough(authority, clock):
    assert list(policies.sign(authority, {"x/y/p.yaml": b"version: 1\ndomain: tpmbus.test\n"}, clock=clock).bundle.files) == [
        "p.yaml"
    ]


def test_what_is_signed_already_is_not_signed_anew(authority, clock):
    first = policies.sign(authority, texts(), clock=clock)
    again = policies.sign(authority, texts(), clock=clock)
    assert not again.changed
    assert again.bundle.raw == first.bundle.raw
    changed = policies.sign(authority, texts(**{"agents/roster.yaml": ROSTER + "  BUILDER: x\n"}), clock=clock)
    assert changed.changed
    assert (changed.bundle.version, changed.before.version) == (2, 1)


def test_no_version_is_given_twice_when_the_journal_comes_from_a_backup(folder, clock, tmp_path):
    memory = TrustMemory(tmp_path / "agent")
    backup = shutil.copytree(folder / "private", tmp_path / "backup")
    with opened(folder, clock) as authority:
        memory.accept_policy(policies.sign(authority, texts(), clock=clock).bundle)
    shutil.rmtree(folder / "private")
    shutil.copytree(backup, folder / "private")
    clock.advance(60)
    with opened(folder, clock) as authority:
        changed = policies.sign(authority, texts(**{"agents/roster.yaml": ROSTER + "  BUILDER: x\n"}), clock=clock)
        memory.accept(Statements(authority, clock=clock).issue())
    memory.accept_policy(changed.bundle)
    assert (changed.bundle.version, changed.before.version) == (2, 1)


def test_who_joined_is_in_the_next_version_and_stays_until_told_otherwise(authority, clock):
    joined = policies.sign(authority, texts(), agents={"BILLING": "x", "DIRECTOR": "x"}, clock=clock).bundle
    assert joined.files[policies.JOINED] == b"version: 1\nagents:\n  BILLING: x\n"
    assert joined.policy().agents["BILLING"] == "x"
    assert not policies.sign(authority, texts(), clock=clock).changed
    without = policies.sign(authority, texts(), agents={}, clock=clock).bundle
    assert policies.JOINED not in without.files
    assert "BILLING" not in without.policy().agents


def test_who_joined_and_is_then_listed_stands_there_once(authority, clock):
    policies.sign(authority, texts(), agents={"BILLING": "x"}, clock=clock)
    listed = policies.sign(authority, texts(**{"agents/roster.yaml": ROSTER + "  BILLING: x\n"}), clock=clock).bundle
    assert policies.JOINED not in listed.files
    assert listed.policy().agents["BILLING"] == "x"


@pytest.mark.parametrize(
    ("files", "agents"),
    [
        ({"p.yaml": b"nonsense"}, None),
        ({"p.yaml": b"version: 1\ndomain: other.test\n"}, None),
        ({"p.yaml": b"version: 1\n"}, None),
        ({}, None),
        ({"p.yaml": FLEET.encode()}, None),
        ({"/x/p.yaml": FLEET.replace("../agents", "/agents").encode(), "/agents/roster.yaml": ROSTER.encode()}, None),
        ({"pölicy.yaml": b"version: 1\ndomain: tpmbus.test\n"}, None),
        ({"p.yaml": b"version: 1\ndomain: tpmbus.test\n"}, {"BILLING": "x"}),
        ({"p.yaml": b"version: 1\ndomain: tpmbus.test\nroles: {x: {key: ecc256/sha256}}\n"}, {"billing": "x"}),
        (
            {f"{n}.yaml": b"version: 1\n#" + b"x" * 1_000_000 for n in range(9)} | {"p.yaml": b"version: 1\ndomain: tpmbus.test\n"},
            None,
        ),
    ],
    ids=[
        "no policy",
        "another domain",
        "the default domain",
        "nothing",
        "a roster that is missing",
        "a roster at an absolute path",
        "a name that is not ASCII",
        "a role that is missing",
        "an agent that is none",
        "more than a bundle holds",
    ],
)
def test_what_does_not_load_is_refused_before_anything_is_signed(authority, clock, files, agents):
    with pytest.raises(PolicyError) as caught:
        policies.sign(authority, files, agents=agents, clock=clock)
    assert caught.value.problems
    assert authority.published(policies.FILE) is None


def test_a_process_that_dies_while_it_signs_leaves_the_old_policy_in_force(folder, clock, monkeypatch):
    with opened(folder, clock) as authority:
        policies.sign(authority, texts(), clock=clock)
        monkeypatch.setattr(authority, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            policies.sign(authority, texts(), agents={"BILLING": "x"}, clock=clock)
    with opened(folder, clock) as authority:
        before = policies.in_force(authority)
        assert before is not None
        assert before.version == 1
        assert policies.sign(authority, texts(), agents={"BILLING": "x"}, clock=clock).bundle.version == 3


def test_a_published_policy_that_is_damaged_is_said_to_be_and_can_be_signed_again(authority, clock):
    policies.sign(authority, texts(), clock=clock)
    published = authority.published(policies.FILE)
    for data in (b"damaged", published[:-1] + bytes([published[-1] ^ 1])):
        authority.publish(policies.FILE, data)
        for call in (lambda: policies.sign(authority, texts(), clock=clock), Statements(authority, clock=clock).issue):
            with pytest.raises(VaultError) as caught:
                call()
            assert caught.value.code == "damaged"
    (authority.public / policies.FILE).unlink()
    assert policies.sign(authority, texts(), clock=clock).bundle.version == 2


# ---- what everybody may read ---------------------------------------------------------------------------------------------------


def test_where_no_authority_is_that_is_what_is_said(tmp_path):
    with pytest.raises(VaultError) as caught:
        read_public(tmp_path)
    assert caught.value.code == "missing"


def test_before_the_first_statement_there_is_nothing_to_judge_by(folder):
    found = read_public(folder / "public")
    assert (found.statement, found.bundle, found.agents, found.revoked) == (None, None, (), ())
    with pytest.raises(VerificationError) as caught:
        found.view()
    assert caught.value.reason == "trust_stale"


def test_it_tells_who_is_enrolled_and_who_was_revoked(authority, folder, clock):
    for name in ("DIRECTOR", "MONITOR", "BUILDER"):
        enroll(authority, name)
    authority.revoke("MONITOR", Reason.COMPROMISED)
    authority.revoke("BUILDER", Reason.RETIRED)
    enroll(authority, "BUILDER")
    Statements(authority, clock=clock).issue()
    found = read_public(folder / "public")
    assert [certificate.name for certificate in found.agents] == ["BUILDER", "DIRECTOR"]
    assert found.revoked == ("MONITOR",)


def test_files_that_somebody_else_put_there_are_not_believed(authority, folder, clock, made, tmp_path):
    Statements(authority, clock=clock).issue()
    (folder / "public" / ML_DSA_ROOT).write_bytes(bytes(1_952))
    with pytest.raises(VerificationError) as caught:
        read_public(folder / "public")
    assert caught.value.reason == "untrusted"


@pytest.mark.parametrize("data", [b"", b"\xff", b"-----BEGIN CERTIFICATE-----\n"])
def test_a_root_that_is_no_pem_is_damage(folder, data):
    (folder / "public" / "root.pem").write_bytes(data)
    with pytest.raises(VaultError) as caught:
        read_public(folder / "public")
    assert caught.value.code == "damaged"


def test_many_threads_issue_and_no_two_numbers_are_alike(authority, clock):
    ours, numbers = Statements(authority, clock=clock), []

    async def main() -> None:
        async def one() -> None:
            numbers.append((await anyio.to_thread.run_sync(ours.issue)).number)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(one)

    anyio.run(main)
    assert len(set(numbers)) == 8
    last = statements.in_force(authority)
    assert last is not None
    assert last.number == max(numbers)


def test_killed_at_any_instant_no_number_is_used_twice(folder):
    script = (
        "import sys, anyio; from pathlib import Path; from bus.testing import ManualClock\n"
        "from bus.identity.authority import Passphrase, open_authority; from bus.identity.authority.statements import Statements\n"
        "async def main():\n"
        "    manager = open_authority(Path(sys.argv[1]), domain='tpmbus.test', protection=Passphrase('only for tests', log_n=10),"
        " clock=ManualClock())\n"
        "    async with manager as authority:\n"
        "        ours = Statements(authority, clock=ManualClock())\n"
        "        while True:\n            print((await anyio.to_thread.run_sync(ours.issue)).number, flush=True)\n"
        "anyio.run(main)\n"
    )
    numbers: list[int] = []
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            numbers += [int(process.stdout.readline()) for _ in range(4)]
            process.kill()
            numbers += [int(line) for line in process.stdout.read().split()]
    assert numbers == sorted(set(numbers))
    found = read_public(folder / "public").statement
    assert found is not None
    assert found.number >= numbers[-1]
