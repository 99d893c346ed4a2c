"""What a receiver judges by, and that nobody leads it back."""

from __future__ import annotations

import pytest
from small_authority import DAY, HOUR, NOW

from bus.errors import VerificationError
from bus.trust.revocations import Reason, Revocation
from bus.trust.view import NOTHING_SEEN, Highest, TrustView, advance, advance_policy


def reason(call, *arguments, **named) -> str:
    with pytest.raises(VerificationError) as caught:
        call(*arguments, **named)
    return caught.value.reason


@pytest.fixture
def view(authority):
    return TrustView(authority.root, authority.domain, authority.statement(), authority.crl)


# ---- what it says --------------------------------------------------------------------------------------------------------------


def test_it_answers_for_those_who_are_listed_and_for_all_others(view):
    assert (view.generation("DIRECTOR"), view.generation("MONITOR")) == (1, 0)
    assert (view.sessions_not_before_ms("DIRECTOR"), view.sessions_not_before_ms("MONITOR")) == (NOW - 5, 0)
    assert (view.ml_dsa_hash("DIRECTOR"), view.ml_dsa_hash("MONITOR")) == (bytes(32), None)


def test_nothing_of_it_can_be_changed(view):
    with pytest.raises(AttributeError):
        view.statement = None


def test_it_is_fresh_until_the_next_one_is_due_and_not_a_millisecond_longer(view):
    view.check_fresh(NOW)
    view.check_fresh(NOW + HOUR)
    assert reason(view.check_fresh, NOW + HOUR + 1) == "trust_stale"


def test_at_half_of_its_life_it_is_time_to_worry(view):
    assert not view.half_life_passed(NOW + HOUR // 2 - 1)
    assert view.half_life_passed(NOW + HOUR // 2)


def test_the_time_is_never_before_the_statement_was_issued(view):
    assert view.now_ms(NOW - DAY) == NOW
    assert view.now_ms(NOW + 7) == NOW + 7


# ---- what belongs together -----------------------------------------------------------------------------------------------------


def test_a_revocation_list_that_the_statement_does_not_name_is_not_believed(authority):
    older = authority.revocations(2)
    another = authority.revocations(3)
    newer = authority.revocations(4)
    for revocations in (older, another, newer):
        assert reason(TrustView, authority.root, authority.domain, authority.statement(), revocations) == "untrusted"


def test_a_view_is_of_one_domain(authority):
    assert reason(TrustView, authority.root, "other.test", authority.statement(), authority.crl) == "untrusted"


def test_a_trust_signer_that_was_revoked_signs_no_more(authority):
    revoked = authority.revocations(4, {7: Revocation(NOW + DAY, Reason.COMPROMISED)})
    statement = authority.statement(crl=(revoked.number, revoked.digest))
    assert reason(TrustView, authority.root, authority.domain, statement, revoked) == "revoked"


def test_a_trust_signer_that_was_rotated_is_believed_for_what_it_signed_before(authority):
    revoked = authority.revocations(4, {7: Revocation(NOW + 1_000, Reason.ROTATED)})
    before = authority.statement(crl=(revoked.number, revoked.digest))
    after = authority.statement(crl=(revoked.number, revoked.digest), issued_ms=NOW + 1_000)
    assert TrustView(authority.root, authority.domain, before, revoked).statement is before
    assert reason(TrustView, authority.root, authority.domain, after, revoked) == "revoked"


# ---- nobody is led back --------------------------------------------------------------------------------------------------------


def test_the_first_statement_is_taken_and_the_next_one_too(authority):
    first = authority.statement(number=5)
    seen = advance(NOTHING_SEEN, first)
    assert (seen.number, seen.digest) == (5, first.body_digest)
    assert (seen.crl_number, seen.policy_version) == (3, 2)
    assert advance(seen, authority.statement(number=9)).number == 9


def test_the_same_statement_again_changes_nothing(authority):
    statement = authority.statement()
    seen = advance(NOTHING_SEEN, statement)
    assert advance(seen, statement) == seen
    again = authority.statement()  # the same body, signed again: another ECDSA signature
    assert again.digest != statement.digest
    assert advance(seen, again) == seen


def test_a_statement_that_is_rolled_back_is_refused(authority):
    seen = advance(NOTHING_SEEN, authority.statement(number=5))
    assert reason(advance, seen, authority.statement(number=4)) == "trust_rollback"


def test_two_statements_of_one_number_are_a_fork(authority):
    seen = advance(NOTHING_SEEN, authority.statement(number=5))
    assert reason(advance, seen, authority.statement(number=5, agents={})) == "trust_fork"


def test_a_newer_statement_that_names_an_older_revocation_list_is_refused(authority):
    """What a thief of the trust signer's key would do, to be revoked no more."""
    seen = advance(NOTHING_SEEN, authority.statement(number=5))
    older = authority.revocations(2)
    assert reason(advance, seen, authority.statement(number=6, crl=(2, older.digest))) == "trust_rollback"


def test_two_revocation_lists_of_one_number_are_a_fork(authority):
    seen = advance(NOTHING_SEEN, authority.statement(number=5))
    another = authority.revocations(3)
    assert reason(advance, seen, authority.statement(number=6, crl=(3, another.digest))) == "trust_fork"


def test_an_older_policy_is_refused(authority):
    seen = advance_policy(NOTHING_SEEN, authority.bundle(version=2))
    assert reason(advance_policy, seen, authority.bundle(version=1)) == "policy_rollback"
    assert advance_policy(seen, authority.bundle(version=3)).policy_version == 3


def test_two_policies_of_one_version_are_a_fork(authority):
    seen = advance_policy(NOTHING_SEEN, authority.bundle(version=2))
    assert advance_policy(seen, authority.bundle(version=2)) == seen  # signed again: the same policy
    assert reason(advance_policy, seen, authority.bundle(version=2, made_ms=NOW + 1)) == "policy_fork"


def test_a_policy_that_is_older_than_the_one_that_the_statement_names_is_refused(authority):
    """Who withholds the newest policy, but not the statement, gains nothing."""
    newest = authority.bundle(version=3)
    seen = advance(NOTHING_SEEN, authority.statement(policy=(3, newest.digest)))
    assert reason(advance_policy, seen, authority.bundle(version=2)) == "policy_rollback"
    assert reason(advance_policy, seen, authority.bundle(version=3, made_ms=NOW + 1)) == "policy_fork"
    assert advance_policy(seen, newest) == seen


def test_a_statement_that_names_another_policy_of_the_version_that_is_here_is_refused(authority):
    seen = advance_policy(NOTHING_SEEN, authority.bundle(version=2))
    assert reason(advance, seen, authority.statement(policy=(2, bytes(32)))) == "policy_fork"


def test_a_policy_may_arrive_before_the_statement_that_names_it(authority):
    here = authority.bundle(version=3)
    seen = advance_policy(advance(NOTHING_SEEN, authority.statement(number=5)), here)
    for number in (5, 6):
        again = advance(seen, authority.statement(number=number))  # it still names version 2
        assert (again.policy_version, again.policy_digest) == (3, here.digest)


def test_before_a_policy_was_signed_a_statement_names_none_and_that_is_no_fork(authority):
    seen = advance(NOTHING_SEEN, authority.statement(number=5, policy=(0, bytes(32))))
    assert advance(seen, authority.statement(number=6, policy=(0, bytes(32)))).number == 6
    first = authority.bundle(version=1)
    assert advance_policy(seen, first).policy_digest == first.digest


def test_the_highest_is_as_plain_as_what_is_kept_on_disk():
    assert Highest(*NOTHING_SEEN) == NOTHING_SEEN == Highest(0, b"", 0, b"", 0, b"")
