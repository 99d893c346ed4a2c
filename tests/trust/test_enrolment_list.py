"""The enrolment list: whom it lets in, what becomes of its tokens, and that what was written is read again and nothing else is."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_chip import NOW

from bus.errors import AttestationError
from bus.trust.enrolment_list import EVERY_NAME, KEEP_SPENT_MS, TOKEN_MS, EnrolmentList

CHIP, OTHER = b"c" * 32, b"o" * 32
FIRST, SECOND = b"1" * 16, b"2" * 16

names = st.from_regex(r"[A-Z][A-Z0-9]{0,31}", fullmatch=True)
lists = st.lists(
    st.one_of(
        st.tuples(st.just("with_chip"), names, st.binary(min_size=32, max_size=32)),
        st.tuples(st.just("with_uid"), names | st.just(EVERY_NAME), st.integers(0, 2**31)),
        st.tuples(st.just("with_token"), names, st.binary(min_size=16, max_size=16)),
        st.tuples(st.just("without"), names),
    ),
    max_size=12,
)


def reason(call, *arguments, **options) -> str:
    with pytest.raises(AttestationError) as caught:
        call(*arguments, **options)
    return caught.value.reason


def test_an_empty_one_lets_nobody_in():
    empty = EnrolmentList()
    assert reason(empty.check_chip, "LEAD", CHIP) == "not_listed"
    assert reason(empty.check_chip, "LEAD", b"") == "not_listed"
    assert reason(empty.check_token, "LEAD", FIRST, now_ms=NOW) == "token_unknown"
    assert reason(empty.check_uid, "LEAD", 0) == "uid_unknown"


def test_a_chip_is_listed_for_a_name():
    listed = EnrolmentList().with_chip("LEAD", CHIP).with_chip("LEAD", OTHER)
    listed.check_chip("LEAD", CHIP)
    listed.check_chip("LEAD", OTHER)
    assert reason(listed.check_chip, "FREE", CHIP) == "not_listed"


def test_a_user_is_listed_for_a_name_or_for_all():
    listed = EnrolmentList().with_uid("LEAD", 5).with_uid("LEAD", 6).with_uid(EVERY_NAME, 0)
    for uid in (0, 5, 6):
        listed.check_uid("LEAD", uid)
    listed.check_uid("FREE", 0)
    assert reason(listed.check_uid, "FREE", 5) == "uid_unknown"
    assert reason(listed.check_uid, "LEAD", None) == "uid_unknown"


def test_a_token_that_let_somebody_in_is_used_up_and_others_are_not():
    listed = EnrolmentList().with_token("LEAD", FIRST, now_ms=NOW).with_token("FREE", SECOND, now_ms=NOW)
    listed.check_token("LEAD", FIRST, now_ms=NOW)
    after = listed.without_tokens([FIRST, b"3" * 16])
    assert reason(after.check_token, "LEAD", FIRST, now_ms=NOW) == "token_used"
    after.check_token("FREE", SECOND, now_ms=NOW)
    assert after.without_tokens([FIRST]) is after
    assert listed.without_tokens([]) is listed


def test_a_token_that_is_listed_again_stays_what_it_is():
    listed = EnrolmentList().with_token("LEAD", FIRST, now_ms=NOW)
    for known, why in ((listed.without_tokens([FIRST]), "token_used"), (listed, "token_expired")):
        again = known.with_token_hash("LEAD", hashlib.sha256(FIRST).digest(), now_ms=NOW + TOKEN_MS)
        assert reason(again.check_token, "LEAD", FIRST, now_ms=NOW + TOKEN_MS) == why
    other = listed.with_token_hash("FREE", hashlib.sha256(FIRST).digest(), now_ms=NOW)
    assert reason(other.check_token, "FREE", FIRST, now_ms=NOW) == "token_other_name"


def test_a_token_is_good_for_an_hour_and_not_a_millisecond_longer():
    listed = EnrolmentList().with_token("LEAD", FIRST, now_ms=NOW)
    listed.check_token("LEAD", FIRST, now_ms=NOW + TOKEN_MS - 1)
    assert reason(listed.check_token, "LEAD", FIRST, now_ms=NOW + TOKEN_MS) == "token_expired"


def test_what_became_of_a_token_is_forgotten_after_a_day():
    listed = EnrolmentList().with_token("LEAD", FIRST, now_ms=NOW)
    late = NOW + TOKEN_MS + KEEP_SPENT_MS
    assert reason(listed.with_token("LEAD", SECOND, now_ms=late - 1).check_token, "LEAD", FIRST, now_ms=late) == "token_expired"
    assert reason(listed.with_token("LEAD", SECOND, now_ms=late).check_token, "LEAD", FIRST, now_ms=late) == "token_unknown"


def test_a_name_can_be_taken_off():
    listed = EnrolmentList().with_uid(EVERY_NAME, 0)
    for name, token in (("LEAD", FIRST), ("FREE", SECOND)):
        listed = listed.with_chip(name, CHIP).with_uid(name, 5).with_token(name, token, now_ms=NOW)
    after = listed.without("LEAD")
    assert reason(after.check_chip, "LEAD", CHIP) == "not_listed"
    assert reason(after.check_token, "LEAD", FIRST, now_ms=NOW) == "token_unknown"
    assert reason(after.check_uid, "LEAD", 5) == "uid_unknown"
    after.check_uid("LEAD", 0)
    assert after.without(EVERY_NAME).uids == after.uids
    after.check_chip("FREE", CHIP)
    after.check_token("FREE", SECOND, now_ms=NOW)
    after.check_uid("FREE", 5)


def test_what_cannot_be_listed_is_misuse():
    for call in (
        lambda: EnrolmentList().with_chip("lead", CHIP),
        lambda: EnrolmentList().with_chip("LEAD", b"short"),
        lambda: EnrolmentList().with_token("*", FIRST, now_ms=NOW),
        lambda: EnrolmentList().with_token("LEAD", b"short", now_ms=NOW),
        lambda: EnrolmentList().with_uid("lead", 5),
        lambda: EnrolmentList().with_uid("LEAD", -1),
        lambda: EnrolmentList().with_uid("LEAD", 2**32 - 1),
    ):
        with pytest.raises(ValueError, match=r"bytes|agent name|local user"):
            call()


def test_it_cannot_be_changed_in_place():
    listed = EnrolmentList().with_chip("LEAD", CHIP)
    with pytest.raises(TypeError):
        listed.chips["FREE"] = frozenset({CHIP})


@given(lists)
def test_what_was_written_is_read_again(steps):
    listed = EnrolmentList()
    for verb, *arguments in steps:
        listed = getattr(listed, verb)(*arguments, **({"now_ms": NOW} if verb == "with_token" else {}))
    assert EnrolmentList.parse(listed.encode()) == listed


def test_no_token_is_on_disk():
    written = EnrolmentList().with_token("LEAD", FIRST, now_ms=NOW).encode()
    assert FIRST.hex().encode() not in written
    assert hashlib.sha256(FIRST).hexdigest().encode() in written


GOOD = json.loads(EnrolmentList().with_chip("LEAD", CHIP).with_token("LEAD", FIRST, now_ms=NOW).with_uid("LEAD", 5).encode())
DIGEST = hashlib.sha256(FIRST).hexdigest()
BAD = {
    "another version": GOOD | {"version": 2},
    "no version": {},
    "a list": [],
    "a bad name": GOOD | {"chips": {"lead": [CHIP.hex()]}},
    "a chip that is no hash": GOOD | {"chips": {"LEAD": ["xyz"]}},
    "a token without an end": GOOD | {"tokens": {DIGEST: ["LEAD", None, False]}},
    "a token that is used by a number": GOOD | {"tokens": {DIGEST: ["LEAD", NOW, 0]}},
    "a token of two fields": GOOD | {"tokens": {DIGEST: ["LEAD", NOW]}},
    "a user without a number": GOOD | {"uids": {"LEAD": ["5"]}},
    "a user below zero": GOOD | {"uids": {"LEAD": [-5]}},
    "a user that is true": GOOD | {"uids": {"LEAD": [True]}},
    "more than is known": GOOD | {"more": 1},
    "names that are a list": GOOD | {"chips": []},
}


@pytest.mark.parametrize("document", BAD.values(), ids=BAD)
def test_a_file_is_refused_that_is(document):
    with pytest.raises(ValueError, match="enrolment list"):
        EnrolmentList.parse(json.dumps(document, indent=1).encode() + b"\n")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[" * 100_000, json.dumps(GOOD).encode()])
def test_bytes_that_are_no_list_of_ours_are_refused(data):
    with pytest.raises(ValueError, match="enrolment list"):
        EnrolmentList.parse(data)
