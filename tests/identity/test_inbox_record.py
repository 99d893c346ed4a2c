"""Which inbox key is due, which one counts, and how long each is kept: decided without a clock and without a disk."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from bus.errors import VerificationError
from bus.identity import inbox_record, kem_keys
from bus.identity.inbox_record import (
    LIFETIME_MS,
    LONGEST_EPOCH_MS,
    MAX_LEAP,
    ROTATED_AFTER_MS,
    InboxKey,
    Phase,
    Place,
    Record,
    Wanted,
    Why,
)
from bus.policy import load, open_policy
from bus.protocol import kem
from bus.protocol.papers import MAX_COUNTER, InboxBody, InboxCertificate
from bus.protocol.proof import Proof
from bus.protocol.skew import SKEW_MS
from bus.tpm.interface import SOFTWARE, SOFTWARE_TPM

NOW = 1_800_000_000_000
DAY = 86_400_000
TPM = Place(SOFTWARE_TPM, b"\x00\x0b" + bytes(32))
WANTED = Wanted(b"i" * 32, kem.X25519, TPM, retention_ms=7 * DAY, passed_ms=NOW * 2)
PROOF = Proof(32, b"i" * 32, 1, 0, b"", bytes(64), b"", bytes(16))


def key(counter=1, *, made=NOW, ends=None, name="MONITOR", needed=0, kind=kem.X25519, identity=b"i" * 32, place=TPM):
    body = InboxBody(
        "tpmbus.local",
        name,
        identity,
        counter,
        kind,
        kem_keys.generate(kind).public,
        made - SKEW_MS,
        ends or made - SKEW_MS + LIFETIME_MS,
    )
    found = InboxKey(InboxCertificate(body.encode(), PROOF).encode(), b"sealed", place, needed)
    return replace(found, needed_until_ms=needed or inbox_record.needed_until(body, WANTED))


def record(*keys, name="MONITOR"):
    return Record(name, keys[-1].counter if keys else 0, keys)


# ---- what is due ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "wanted", "at", "reason"),
    [
        (record(), WANTED, NOW, Why.MISSING),
        (record(key()), WANTED, NOW, None),
        (record(key()), WANTED, NOW + ROTATED_AFTER_MS - 1, None),
        (record(key()), WANTED, NOW + ROTATED_AFTER_MS, Why.AGE),
        (record(key(ends=NOW + DAY)), WANTED, NOW + DAY - 1, None),
        (record(key(ends=NOW + DAY)), WANTED, NOW + DAY, Why.AGE),
        (record(key()), WANTED, NOW - DAY, None),  # a clock that was set back is no reason
        (record(key()), replace(WANTED, identity=b"j" * 32), NOW, Why.IDENTITY),
        (record(key()), replace(WANTED, kem=kem.HYBRID), NOW, Why.KIND),
        (record(key(kind=kem.HYBRID)), WANTED, NOW, Why.KIND),
        (record(key()), replace(WANTED, place=Place(SOFTWARE, b"")), NOW, Why.PLACE),
        (record(key()), replace(WANTED, place=Place(SOFTWARE_TPM, b"another")), NOW, Why.PLACE),
        (record(key(3)), replace(WANTED, floor=3), NOW, None),
        (record(key(3)), replace(WANTED, floor=4), NOW, Why.LOST),
        (replace(record(key(3)), counter=4), WANTED, NOW, Why.LOST),
        (record(key(1), key(2, identity=b"j" * 32)), WANTED, NOW, Why.IDENTITY),  # the newest decides
    ],
)
def test_a_new_key_is_due_for_one_of_these_reasons(found, wanted, at, reason):
    assert inbox_record.why(found, wanted, now_ms=at) is reason


@pytest.mark.parametrize(("counter", "floor", "following"), [(0, 0, 1), (3, 0, 4), (3, 3, 4), (3, 5, 6), (0, 9, 10)])
def test_the_next_counter_is_above_all_that_are_known(counter, floor, following):
    assert inbox_record.next_counter(Record("MONITOR", counter), replace(WANTED, floor=floor)) == following


def test_a_counter_that_is_far_ahead_is_somebody_elses_and_nobody_follows_it():
    highest = replace(WANTED, floor=3 + MAX_LEAP)
    assert inbox_record.next_counter(Record("MONITOR", 3), highest) == 4 + MAX_LEAP
    for floor in (4 + MAX_LEAP, MAX_COUNTER):
        with pytest.raises(VerificationError) as caught:
            inbox_record.next_counter(Record("MONITOR", 3), replace(WANTED, floor=floor))
        assert (caught.value.reason, caught.value.agent) == ("inbox_rollback", "MONITOR")


def test_a_certificate_lies_within_the_time_of_its_identity_and_lives_thirty_days_at_most():
    begins, ends = inbox_record.times(now_ms=NOW, identity_not_before_ms=0, identity_not_after_ms=NOW * 2)
    assert (begins, ends) == (NOW - SKEW_MS, NOW - SKEW_MS + 30 * DAY)
    assert inbox_record.times(now_ms=NOW, identity_not_before_ms=NOW - 1, identity_not_after_ms=NOW + 5) == (NOW - 1, NOW + 5)


# ---- how long each is kept -----------------------------------------------------------------------------------------------------


def test_a_key_is_kept_until_nothing_that_was_sealed_to_it_can_wait_any_more():
    old, new = key(1), key(2, made=NOW + 7 * DAY)
    over = old.body.not_after_ms + LONGEST_EPOCH_MS + 7 * DAY
    assert inbox_record.kept(record(old, new), WANTED, now_ms=over) == record(old, new)
    assert inbox_record.kept(record(old, new), WANTED, now_ms=over + 1) == record(new)


@pytest.mark.parametrize("years", [1, 10])
def test_a_clock_that_is_ahead_destroys_nothing_before_trust_says_that_it_is_so_late(years):
    old, new = key(1), key(2, made=NOW + 7 * DAY)
    over = old.body.not_after_ms + LONGEST_EPOCH_MS + 7 * DAY
    ahead = NOW + years * 365 * DAY
    assert inbox_record.kept(record(old, new), replace(WANTED, passed_ms=over), now_ms=ahead) == record(old, new)
    assert inbox_record.kept(record(old, new), replace(WANTED, passed_ms=over + 1), now_ms=ahead) == record(new)
    assert inbox_record.kept(record(old, new), replace(WANTED, passed_ms=0), now_ms=ahead) == record(old, new)


def test_a_longer_retention_keeps_older_keys_longer_and_a_shorter_one_takes_nothing_back():
    old = key(1)
    longer = inbox_record.kept(record(old), replace(WANTED, retention_ms=90 * DAY), now_ms=NOW)
    (kept,) = longer.keys
    assert kept.needed_until_ms == old.body.not_after_ms + LONGEST_EPOCH_MS + 90 * DAY
    assert inbox_record.kept(longer, replace(WANTED, retention_ms=DAY), now_ms=NOW) == longer


def test_the_counter_outlives_its_key():
    gone = inbox_record.kept(record(key(8)), WANTED, now_ms=NOW * 2)
    assert (gone.keys, gone.counter) == ((), 8)
    assert inbox_record.next_counter(gone, WANTED) == 9


def test_each_key_is_in_one_of_three_phases():
    found = record(key(1), key(2, made=NOW + 7 * DAY), key(3, made=NOW + 14 * DAY))
    phases = [inbox_record.phase(found, one, now_ms=NOW + 31 * DAY) for one in found.keys]
    assert phases == [Phase.WAITING, Phase.OVERLAPPING, Phase.CURRENT]
    assert inbox_record.phase(found, found.keys[-1], now_ms=NOW + 60 * DAY) is Phase.WAITING


def test_the_longest_retention_is_that_of_durable_topics():
    policy = load(
        {
            "p.yaml": """version: 1
topics:
  - {match: a.>, class: durable, retention: 3d}
  - {match: b.>, class: durable, retention: 10d}
  - {match: c.>, ttl: 30s}
"""
        }
    )
    assert inbox_record.longest_retention(policy) == 10 * DAY
    assert inbox_record.longest_retention(load({"p.yaml": "version: 1\n"})) == 0
    assert inbox_record.longest_retention(open_policy()) >= 7 * DAY


# ---- on disk -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", [record(), record(key()), record(key(4), key(9, kind=kem.HYBRID, place=Place(SOFTWARE, b"")))])
def test_what_is_written_is_read_again(found):
    assert inbox_record.decode(inbox_record.encode(found), name="MONITOR") == found


def _damaged():
    whole = json.loads(inbox_record.encode(record(key(1), key(2))))
    first, second = whole["keys"]
    yield "nothing", b""
    yield "no JSON", b"{"
    yield "no object", b"[]"
    yield "too deep", b"[" * 100_000
    yield "another version", json.dumps(whole | {"version": 2}).encode()
    yield "another agent", json.dumps(whole | {"name": "TRACER"}).encode()
    yield "no counter", json.dumps({name: value for name, value in whole.items() if name != "counter"}).encode()
    yield "a counter below its keys", json.dumps(whole | {"counter": 1}).encode()
    yield "a counter that is none", json.dumps(whole | {"counter": True}).encode()
    yield "a negative one", json.dumps(whole | {"counter": -1, "keys": []}).encode()
    yield "turned round", json.dumps(whole | {"keys": [second, first]}).encode()
    yield "one twice", json.dumps(whole | {"keys": [second, second]}).encode()
    yield "no list", json.dumps(whole | {"keys": {"a": 1}}).encode()
    yield "a certificate that is none", json.dumps(whole | {"keys": [second | {"certificate": "AAAA"}]}).encode()
    yield "no base64", json.dumps(whole | {"keys": [second | {"sealed": "!"}]}).encode()
    yield "somebody else's key", inbox_record.encode(record(key(1, name="TRACER")))


DAMAGED = dict(_damaged())


@pytest.mark.parametrize("what", DAMAGED)
def test_what_nobody_wrote_is_a_value_error(what):
    with pytest.raises(ValueError, match=r"."):
        inbox_record.decode(DAMAGED[what], name="MONITOR")


def test_what_is_sealed_is_not_shown():
    assert "sealed" not in repr(key())
