"""The authority's clock: years ahead, behind, before there was any; what is refused then, and that no harm stays afterwards."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from authorities import DAY, DOMAIN, KEYS, OTHER_EK, copied, enroll, opened

from bus.errors import VaultError
from bus.identity.authority import policies
from bus.identity.authority.dates import MOST_AHEAD_MS, RELEASED_MS
from bus.identity.authority.index import Change
from bus.identity.authority.records import Records
from bus.identity.authority.statements import Statements
from bus.identity.authority.store import Store
from bus.identity.trust_memory import TrustMemory
from bus.testing import ManualClock
from bus.trust import certificates
from bus.trust.revocations import Reason, Revocation

POLICY = b"version: 1\ndomain: tpmbus.test\nroles:\n  x:\n    key: ecc256/sha256\nagents:\n  ALPHA: x\n"
YEARS = 3 * 365 * DAY


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority") / "trust"
    with opened(folder):
        return folder


@pytest.fixture
def folder(made, tmp_path):
    return copied(made, tmp_path / "trust")


@pytest.fixture
def clock():
    return ManualClock()


def refused(code, call):
    with pytest.raises(VaultError) as caught:
        call()
    assert caught.value.code == code
    return str(caught.value)


def everything(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != "lock"}


# ---- ahead ---------------------------------------------------------------------------------------------------------------------


def test_by_a_clock_that_is_years_ahead_nothing_is_done(folder, clock):
    with opened(folder, clock=clock) as authority:
        enroll(authority)
        ours = Statements(authority, clock=clock)
        ours.issue()
        before, right = everything(folder), clock.ms
        clock.ms += YEARS
        for call in (
            ours.issue,
            authority.revocations,
            lambda: enroll(authority, "BETA", KEYS[1], OTHER_EK),
            lambda: authority.renew("ALPHA"),
            lambda: authority.issue_tls("ALPHA", KEYS[1]),
            lambda: authority.revoke("ALPHA", Reason.COMPROMISED),
            lambda: authority.end_sessions("ALPHA"),
            lambda: authority.register_ml_dsa("ALPHA", bytes(32)),
            lambda: policies.sign(authority, {"p.yaml": POLICY}, clock=clock),
            lambda: authority.sign_statement(b"body"),
            authority.next_statement_number,
        ):
            text = refused("clock", call)
            assert "2030-01-14" in text
            assert "2027-01-15" in text
        assert everything(folder) == before
        clock.ms = right + 1_000
        assert ours.issue().issued_ms == clock.ms
        enroll(authority, "BETA", KEYS[1], OTHER_EK)


def test_an_authority_is_not_even_opened_by_such_a_clock(folder, clock):
    before = everything(folder)
    clock.ms += YEARS
    with pytest.raises(VaultError) as caught, opened(folder, clock=clock):
        pass
    assert caught.value.code == "clock"
    assert everything(folder) == before


def test_ninety_days_are_believed_and_no_more(folder, clock):
    with opened(folder, clock=clock) as authority:
        last = authority.end_sessions("ALPHA")
        clock.ms = last + MOST_AHEAD_MS + 1
        refused("clock", lambda: authority.end_sessions("ALPHA"))
        clock.ms -= 1
        assert authority.end_sessions("ALPHA") == last + 90 * DAY


def test_who_says_that_the_clock_is_right_says_it_once(folder, clock):
    clock.ms += YEARS
    with opened(folder, clock=clock, clock_is_right=True) as authority:
        assert Statements(authority, clock=clock).issue().issued_ms == clock.ms
        clock.ms += YEARS
        refused("clock", authority.revocations)
        clock.ms -= YEARS
    with opened(folder, clock=clock) as authority:
        assert Statements(authority, clock=clock).issue().issued_ms == clock.ms


def test_it_goes_by_what_was_published_where_the_journal_is_an_old_one(folder, clock, tmp_path):
    """A backup of half a year ago is put back: the published statement tells that the clock is right."""
    backup = copied(folder / "private", tmp_path / "backup")
    for _ in range(3):
        clock.ms += 60 * DAY
        with opened(folder, clock=clock) as authority:
            Statements(authority, clock=clock).issue()
    shutil.rmtree(folder / "private")
    copied(backup, folder / "private")
    with opened(folder, clock=clock) as authority:
        assert Statements(authority, clock=clock).issue().issued_ms == clock.ms


def test_no_clock_takes_a_revocation_back(folder, clock):
    """Not even one that somebody called right: the journal is rewritten then, without what ended by that date."""
    with opened(folder, clock=clock) as authority:
        serial = certificates.read(enroll(authority), root=authority.root, domain=DOMAIN).serial
        enroll(authority, "BETA", KEYS[1], OTHER_EK)
        authority.revoke("ALPHA", Reason.COMPROMISED)
    right = clock.ms
    clock.ms += YEARS
    with opened(folder, clock=clock, clock_is_right=True) as authority:
        for _ in range(1_200):
            authority.next_policy_version()
        assert [one.name for one, _ in authority.issued()] == ["BETA"], "it was rewritten"
    clock.ms = right + 1_000
    with opened(folder, clock=clock) as authority:
        assert authority.revocations().revoked[serial].reason is Reason.COMPROMISED


def test_ten_thousand_revocations_fit_into_the_list(folder, clock):
    many = {(1 << 158) + number: Revocation(clock.ms // 1000 * 1000, Reason.COMPROMISED) for number in range(10_000)}
    records = Records(Store(folder))
    records.load()
    records.commit(Change(revoked=many), now_ms=clock.ms)
    records.close()
    with opened(folder, clock=clock) as authority:
        assert authority.revocations().revoked == many
        assert len(authority.revocations().der) < 54 * 10_000
        enroll(authority)
        assert len(authority.revoke("ALPHA", Reason.COMPROMISED).revoked) == 10_001


# ---- behind --------------------------------------------------------------------------------------------------------------------


def test_by_a_clock_that_is_behind_sessions_that_run_are_ended_all_the_same(folder, clock):
    with opened(folder, clock=clock) as authority:
        last = Statements(authority, clock=clock).issue()
        clock.ms -= 5 * DAY
        assert authority.end_sessions("ALPHA") == last.issued_ms
        assert Statements(authority, clock=clock).issue().issued_ms == last.issued_ms


def test_a_clock_that_is_behind_does_not_make_the_authority_forget_how_late_it_is(folder, clock):
    with opened(folder, clock=clock) as authority:
        clock.ms += 85 * DAY
        last = authority.end_sessions("ALPHA")
        clock.ms -= 80 * DAY
        enroll(authority)
        clock.ms = last + 89 * DAY
        assert authority.end_sessions("ALPHA") == clock.ms


# ---- the root's own time -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ms", [0, 20 * DAY, 1_420_000_000_000, RELEASED_MS - 1])
def test_no_root_is_made_before_this_software_was(tmp_path, ms):
    with pytest.raises(VaultError) as caught, opened(tmp_path / "trust", clock=ManualClock(ms=ms)):
        pass
    assert caught.value.code == "clock"
    assert list((tmp_path / "trust" / "public").rglob("*.pem")) == []
    with opened(tmp_path / "trust", clock=ManualClock(ms=RELEASED_MS)) as authority:
        assert authority.root.not_before_ms == RELEASED_MS - 60_000


@pytest.mark.parametrize("clock_is_right", [False, True])
def test_a_root_that_has_ended_says_so(folder, clock, clock_is_right):
    with opened(folder, clock=clock) as authority:
        clock.ms = authority.root.not_after_ms
        refused("root_ended", lambda: enroll(authority))
        refused("root_ended", Statements(authority, clock=clock).issue)
    with pytest.raises(VaultError) as caught, opened(folder, clock=clock, clock_is_right=clock_is_right):
        pass
    assert caught.value.code == "root_ended"


# ---- restored ------------------------------------------------------------------------------------------------------------------


def test_what_was_done_after_the_backup_stays_done_where_the_statement_tells(folder, clock, tmp_path):
    memory = TrustMemory(tmp_path / "agent")
    with opened(folder, clock=clock) as authority:
        enroll(authority)
        authority.end_sessions("GAMMA")
        authority.register_ml_dsa("ALPHA", b"a" * 32)
    backup = copied(folder / "private", tmp_path / "backup")
    clock.ms += DAY
    with opened(folder, clock=clock) as authority:
        authority.revoke("ALPHA", Reason.COMPROMISED)
        authority.end_sessions("BETA")
        authority.register_ml_dsa("DELTA", b"d" * 32)
        memory.accept(Statements(authority, clock=clock).issue())
        before = authority.standings(), authority.ml_dsa_hashes()
    shutil.rmtree(folder / "private")
    copied(backup, folder / "private")
    clock.ms -= 3 * 3_600_000
    for _ in range(2):
        with opened(folder, clock=clock) as authority:
            assert (authority.standings(), authority.ml_dsa_hashes()) == before
            memory.accept(Statements(authority, clock=clock).issue())
    assert before[0] == {"ALPHA": (1, 0), "BETA": (0, before[0]["BETA"][1]), "GAMMA": (0, before[0]["GAMMA"][1])}
    assert before[1] == {"DELTA": b"d" * 32}


def test_an_older_statement_in_its_place_takes_nothing_back(folder, clock):
    with opened(folder, clock=clock) as authority:
        enroll(authority)
        ours = Statements(authority, clock=clock)
        authority.register_ml_dsa("ALPHA", b"a" * 32)
        older = ours.issue().raw
        authority.revoke("ALPHA", Reason.COMPROMISED)
        ours.issue()
        authority.publish("statement.bin", older)
    with opened(folder, clock=clock) as authority:
        assert (authority.standings(), authority.ml_dsa_hashes()) == ({"ALPHA": (1, 0)}, {})
