"""What agents remember of whom they believed: it never goes back, whoever is killed when, and whatever the clock does."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from bus.errors import VaultError, VerificationError
from bus.identity import durable
from bus.identity.trust_memory import FILE, TrustMemory
from bus.testing import ManualClock
from bus.trust import bundle as bundles
from bus.trust import statement as statements
from bus.trust.view import NOTHING_SEEN

NOW = 1_800_000_000_000
HOUR = 3_600_000
CRL = (1, bytes(32))


def statement(number: int, *, issued_ms: int = NOW, policy=(1, bytes(32)), crl=CRL, agents=None) -> statements.Statement:
    """As if it had verified: who signed it is nothing that a memory asks."""
    body = statements.body_bytes(
        domain="tpmbus.test",
        number=number,
        issued_ms=issued_ms,
        next_update_ms=issued_ms + HOUR,
        policy=policy,
        crl=crl,
        agents=agents or {},
        ml_dsa={},
    )
    return statements.parse_body(body, signer=SimpleNamespace(), raw=body)  # type: ignore[arg-type]  # nobody asks for the signer


def bundle(version: int, *, made_ms: int = NOW) -> bundles.Bundle:
    body = bundles.body_bytes(domain="tpmbus.test", version=version, made_ms=made_ms, files={"a": b""})
    return bundles.parse_body(body, raw=body)


def refused(call, *arguments) -> str:
    with pytest.raises(VerificationError) as caught:
        call(*arguments)
    return caught.value.reason


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def memory(tmp_path, clock):
    return TrustMemory(tmp_path, clock)


def reopened(memory: TrustMemory, tmp_path: Path) -> TrustMemory:
    again = TrustMemory(tmp_path)
    assert again.highest == memory.highest
    return again


# ---- what is remembered --------------------------------------------------------------------------------------------------------


def test_a_new_one_has_seen_nothing(memory):
    assert memory.highest == NOTHING_SEEN
    assert memory.inbox_counter("DIRECTOR", 0) == 0
    assert memory.now_ms(5) == 5
    assert not memory.clock_is_due()


def test_what_was_accepted_is_there_after_a_restart(memory, tmp_path):
    memory.accept(statement(5))
    memory.accept_policy(bundle(3))
    memory.accept_inboxes({"DIRECTOR": (0, 7), "MONITOR": (0, 1)})
    again = reopened(memory, tmp_path)
    assert (again.highest.number, again.highest.policy_version) == (5, 3)
    assert (again.inbox_counter("DIRECTOR", 0), again.inbox_counter("MONITOR", 0)) == (7, 1)


def test_after_a_restart_nobody_is_led_back(memory, tmp_path):
    memory.accept(statement(5, crl=(4, bytes(32))))
    memory.accept_policy(bundle(3))
    again = reopened(memory, tmp_path)
    assert refused(again.accept, statement(4, crl=(4, bytes(32)))) == "trust_rollback"
    assert refused(again.accept, statement(6, crl=(3, bytes(32)))) == "trust_rollback"
    assert refused(again.accept, statement(5, crl=(4, bytes(32)), agents={"A": (1, 0)})) == "trust_fork"
    assert refused(again.accept_policy, bundle(2)) == "policy_rollback"
    assert refused(again.accept_policy, bundle(3, made_ms=NOW + 1)) == "policy_fork"
    assert TrustMemory(tmp_path).highest == again.highest == memory.highest


def test_an_older_inbox_counter_changes_nothing(memory, tmp_path):
    memory.accept_inboxes({"DIRECTOR": (0, 7)})
    memory.accept_inboxes({"DIRECTOR": (0, 3), "MONITOR": (0, 1)})
    assert reopened(memory, tmp_path).inbox_counter("DIRECTOR", 0) == memory.inbox_counter("DIRECTOR", 0) == 7
    assert memory.inbox_counter("MONITOR", 0) == 1


def test_a_name_that_was_revoked_begins_anew_and_what_it_had_before_counts_no_more(memory, tmp_path):
    memory.accept_inboxes({"DIRECTOR": (0, (1 << 32) - 1)})
    assert memory.inbox_counter("DIRECTOR", 1) == 0
    memory.accept_inboxes({"DIRECTOR": (1, 3)})
    memory.accept_inboxes({"DIRECTOR": (0, (1 << 32) - 1)})
    for one in (memory, reopened(memory, tmp_path)):
        assert [one.inbox_counter("DIRECTOR", generation) for generation in (1, 2)] == [3, 0]
        assert one.inbox_counter("DIRECTOR", 0) > (1 << 32) - 1, "no certificate of the earlier one is above it"


def test_a_file_of_the_version_before_is_read_and_written_anew(memory, tmp_path):
    memory.accept(statement(5))
    document = json.loads((tmp_path / FILE).read_text())
    before = document | {"version": 1, "inbox": {"DIRECTOR": 7, "MONITOR": (1 << 64) - 1}}
    (tmp_path / FILE).write_text(json.dumps(before))
    again = reopened(memory, tmp_path)
    assert (again.inbox_counter("DIRECTOR", 0), again.inbox_counter("DIRECTOR", 1)) == (7, 0)
    again.accept_inboxes({"DIRECTOR": (0, 8)})
    assert json.loads((tmp_path / FILE).read_text())["inbox"] == {"DIRECTOR": [0, 8], "MONITOR": [0, (1 << 32) - 1]}
    assert json.loads((tmp_path / FILE).read_text())["version"] == 2
    assert reopened(again, tmp_path).inbox_counter("DIRECTOR", 0) == 8


def test_what_changes_nothing_is_not_written(memory, tmp_path):
    memory.accept(statement(5))
    memory.accept_inboxes({"DIRECTOR": (0, 7)})
    before = (tmp_path / FILE).stat()
    memory.accept(statement(5))
    memory.accept_inboxes({"DIRECTOR": (0, 7)})
    memory.accept_inboxes({})
    assert (tmp_path / FILE).stat().st_ino == before.st_ino


def test_the_file_is_for_its_owner_alone(memory, tmp_path):
    memory.accept(statement(5))
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600
    assert {path.name for path in tmp_path.iterdir()} == {FILE, f"{FILE}.lock"}


# ---- several of them -----------------------------------------------------------------------------------------------------------


def test_two_processes_of_one_host_judge_by_what_either_has_seen(memory, tmp_path):
    other = TrustMemory(tmp_path)
    memory.accept(statement(5))
    assert refused(other.accept, statement(4)) == "trust_rollback"
    other.accept_inboxes({"A": (0, 2)})
    memory.accept_inboxes({"B": (0, 3)})
    assert (memory.inbox_counter("A", 0), memory.inbox_counter("B", 0)) == (2, 3)
    assert other.inbox_counter("B", 0) == 0
    other.refresh()
    assert other.inbox_counter("B", 0) == 3


def test_many_writers_at_once_lose_nothing(tmp_path):
    script = (
        "import sys; from pathlib import Path; from bus.identity.trust_memory import TrustMemory\n"
        "memory = TrustMemory(Path(sys.argv[1]))\n"
        "for n in range(1, 16): memory.accept_inboxes({sys.argv[2]: (0, n), 'SHARED': (0, n * int(sys.argv[3]))})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), f"W{number}", str(number)]) for number in range(1, 4)]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    memory = TrustMemory(tmp_path)
    assert [memory.inbox_counter(name, 0) for name in ("W1", "W2", "W3", "SHARED")] == [15, 15, 15, 45]


def test_killed_at_any_instant_it_is_whole_and_has_what_was_reported(tmp_path):
    script = (
        "import sys; from pathlib import Path; from bus.identity.trust_memory import TrustMemory\n"
        "memory = TrustMemory(Path(sys.argv[1])); n = memory.inbox_counter('A', 0)\n"
        "while True:\n    n += 1; memory.accept_inboxes({'A': (0, n)}); print(n, flush=True)\n"
    )
    last = 0
    for round_number in range(6):
        with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
            lines = [int(writer.stdout.readline()) for _ in range(3)]
            deadline = time.monotonic() + 0.003 * round_number
            while time.monotonic() < deadline:
                pass
            writer.send_signal(signal.SIGKILL)
            lines += [int(line) for line in writer.stdout.read().split()]
        assert lines[0] > last
        last = lines[-1]
        assert TrustMemory(tmp_path).inbox_counter("A", 0) in (last, last + 1)
    TrustMemory(tmp_path).accept_inboxes({"A": (0, last + 2)})
    assert not list(tmp_path.glob("*.new"))


# ---- the clock -----------------------------------------------------------------------------------------------------------------


def test_a_statement_is_a_floor_for_the_clock(memory, tmp_path):
    memory.accept(statement(5))
    assert memory.now_ms(NOW - HOUR) == NOW
    assert reopened(memory, tmp_path).now_ms(NOW - HOUR) == NOW


def test_a_clock_that_is_turned_back_does_not_turn_back_what_has_passed_meanwhile(memory, clock, tmp_path):
    memory.accept(statement(5))
    clock.advance(500)
    assert memory.passed_ms() == NOW + 500_000
    assert memory.now_ms(NOW + 1) == NOW + 500_000
    assert memory.clock_is_due()
    memory.keep_clock()
    assert not memory.clock_is_due()
    assert reopened(memory, tmp_path).now_ms(0) == NOW + 500_000


def test_a_statement_that_was_issued_earlier_does_not_turn_back_what_has_passed(memory, clock, tmp_path):
    memory.accept(statement(5))
    clock.advance(500)
    memory.accept(statement(6, issued_ms=NOW + 1))
    assert memory.now_ms(0) == NOW + 500_000
    memory.keep_clock()
    assert reopened(memory, tmp_path).now_ms(0) == NOW + 500_000


def test_what_has_passed_is_counted_from_the_newest_statement_alone_so_that_clocks_do_not_drift_apart(memory, clock):
    memory.accept(statement(5))
    for number in range(6, 30):
        clock.advance(301)  # a second more than the authority's clock says
        memory.accept(statement(number, issued_ms=NOW + (number - 5) * 300_000))
    clock.advance(60)
    assert memory.passed_ms() == NOW + 24 * 300_000 + 60_000


def test_what_has_passed_is_written_down_once_a_minute_at_most(memory, clock, tmp_path):
    memory.accept(statement(5))
    clock.advance(59.999)
    memory.passed_ms()
    before = (tmp_path / FILE).read_bytes()
    memory.keep_clock()
    assert (tmp_path / FILE).read_bytes() == before
    clock.advance(0.001)
    memory.passed_ms()
    memory.keep_clock()
    assert (tmp_path / FILE).read_bytes() != before


@pytest.mark.parametrize("ahead_ms", [HOUR, 10 * 365 * 24 * HOUR], ids=["an hour", "years"])
def test_a_clock_that_was_ahead_does_no_harm_once_it_is_right_again(memory, clock, tmp_path, ahead_ms: int):
    memory.accept(statement(5))
    assert memory.now_ms(NOW + ahead_ms) == NOW + ahead_ms, "it is judged by while it is ahead"
    clock.advance(100)
    assert memory.passed_ms() == NOW + 100_000, "and nothing that is kept against replays goes by it"
    memory.keep_clock()
    for one in (memory, reopened(memory, tmp_path)):
        assert one.now_ms(NOW + 100_001) == NOW + 100_001


def test_nothing_passes_before_the_first_statement_and_past_the_end_of_the_newest(memory, clock):
    clock.advance(100)
    assert memory.passed_ms() == 0
    memory.accept(statement(5))
    assert memory.passed_ms() == NOW
    clock.advance(10 * HOUR / 1000)
    assert memory.passed_ms() == NOW + HOUR + 1


def test_turning_the_clock_back_makes_no_statement_fresh_that_has_ended(memory, clock, tmp_path):
    memory.accept(statement(5))
    clock.advance(2 * HOUR / 1000)
    memory.passed_ms()
    memory.keep_clock()
    assert memory.now_ms(NOW) > statement(5).next_update_ms
    assert reopened(memory, tmp_path).now_ms(NOW) > statement(5).next_update_ms


def test_who_begins_again_goes_on_from_what_had_passed(memory, clock, tmp_path):
    memory.accept(statement(5))
    clock.advance(120)
    memory.passed_ms()
    memory.keep_clock()
    again = TrustMemory(tmp_path, clock)
    clock.advance(30)
    assert again.passed_ms() == NOW + 150_000


# ---- what goes wrong -----------------------------------------------------------------------------------------------------------

DAMAGED = {
    "empty": b"",
    "cut short": b'{"version": 1, "highest"',
    "no object": b"[]",
    "another version": b'{"version": 3}',
    "no highest": b'{"version": 1, "inbox": {}, "clock_ms": 0, "until_ms": 0}',
    "deep": b"[" * 100_000,
    "too long": b" " * (5 << 20),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_file_is_said_to_be_and_nothing_begins_anew(tmp_path, case):
    (tmp_path / FILE).write_bytes(DAMAGED[case])
    with pytest.raises(VaultError) as caught:
        TrustMemory(tmp_path)
    assert caught.value.code == "damaged"
    assert caught.value.path == str(tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == DAMAGED[case]


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("highest", "number"), -1),
        (("highest", "number"), True),
        (("highest", "number"), 1 << 64),
        (("highest", "digest"), "00"),
        (("highest", "digest"), "xx"),
        (("highest", "digest"), 5),
        (("inbox", "A"), 7),
        (("inbox", "A"), "07"),
        (("inbox", "A"), [0]),
        (("inbox", "A"), [0, "7"]),
        (("inbox", "A"), [-1, 7]),
        (("inbox", "A"), [0, 1 << 32]),
        (("inbox", "small"), [0, 7]),
        (("clock_ms",), 1.5),
        (("until_ms",), None),
    ],
)
def test_a_value_that_nobody_writes_is_damage(memory, tmp_path, where, value):
    memory.accept(statement(5))
    document = json.loads((tmp_path / FILE).read_text())
    place = document
    for name in where[:-1]:
        place = place[name]
    place[where[-1]] = value
    (tmp_path / FILE).write_text(json.dumps(document))
    with pytest.raises(VaultError) as caught:
        memory.accept(statement(6))
    assert caught.value.code == "damaged"


def test_a_full_disk_is_said_to_be_one_and_nothing_counts_as_accepted(memory, tmp_path):
    memory.accept(statement(5))
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
    try:
        with pytest.raises(VaultError) as caught:
            memory.accept(statement(6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.code == "disk_full"
    assert memory.highest.number == 5
    assert not list(tmp_path.glob(".*.new"))


def test_places_that_cannot_be_used_are_errors_of_the_disk(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    calls = [
        lambda: TrustMemory(tmp_path / "file"),
        lambda: durable.read(tmp_path / "folder", longest=5),
        lambda: durable.replace(tmp_path / "nowhere" / "x", b""),
        lambda: durable.locked(tmp_path / "nowhere" / "x").__enter__(),
    ]
    for call in calls:
        with pytest.raises(VaultError) as caught:
            call()
        assert caught.value.code == "disk"


def test_a_lock_that_leads_elsewhere_is_not_followed(tmp_path):
    (tmp_path / f"{FILE}.lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VaultError):
        TrustMemory(tmp_path).accept(statement(5))
    assert not (tmp_path / "elsewhere").exists()


def test_without_a_folder_it_remembers_as_long_as_it_lives_and_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clock = ManualClock()
    memory = TrustMemory(None, clock)
    memory.accept(statement(5))
    memory.accept_policy(bundle(2))
    memory.accept_inboxes({"DIRECTOR": (0, 7)})
    clock.advance(HOUR / 1000)
    memory.passed_ms()
    memory.keep_clock()
    memory.refresh()
    assert (memory.highest.number, memory.highest.policy_version) == (5, 2)
    assert memory.inbox_counter("DIRECTOR", 0) == 7
    assert memory.now_ms(0) == NOW + HOUR
    assert refused(memory.accept, statement(4)) == "trust_rollback"
    assert refused(memory.accept_policy, bundle(1)) == "policy_rollback"
    assert not memory.on_disk
    assert not list(tmp_path.iterdir())
