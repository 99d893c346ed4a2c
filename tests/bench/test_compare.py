"""What changed beyond the noise, and what only looks like it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from made import latency, result, step

from bus.bench.compare import compare, verdict
from bus.bench.result import Result, spread

VERDICTS = {
    "the same": ([10, 11, 12], [10, 11, 12], "same"),
    "less than the noise": ([10, 12, 14], [11, 14, 16], "same"),
    "slower beyond it": ([10, 10.5, 11], [20, 20.5, 21], "worse"),
    "quicker beyond it": ([20, 20.5, 21], [10, 10.5, 11], "better"),
    "quiet, and yet next to nothing": ([10, 10, 10], [10.2, 10.2, 10.2], "same"),
    "quiet, and more than that": ([10, 10, 10], [10.5, 10.5, 10.5], "worse"),
    "two runs that lie close together by chance": ([10, 11], [16, 17], "same"),
    "two runs, and far beyond it": ([10, 10.5], [20, 20.5], "worse"),
    "three runs that lie close together by chance": ([10, 11, 12], [15, 16, 17], "same"),
    "the same with a run more": ([10, 11, 11, 12], [15, 16, 16, 17], "worse"),
    "a hundred times as long, and as scattered": ([3.7, 4.0, 5.5], [420, 1_000, 2_400], "worse"),
    "scattered, and about the same": ([3.7, 40, 550], [42, 100, 240], "same"),
    "one run each": ([10], [20], "unknown"),
    "one run before": ([10], [20, 20, 20], "unknown"),
    "from nothing to something": ([0, 0, 0], [3, 3, 3], "worse"),
    "nothing": ([0, 0], [0, 0], "same"),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_the_runs_say_what_is_noise(case):
    before, after, expected = VERDICTS[case]
    assert verdict(spread(before), spread(after), more_is_better=False) == expected
    if expected in ("better", "worse"):
        other = {"better": "worse", "worse": "better"}[expected]
        assert verdict(spread(before), spread(after), more_is_better=True) == other


def runs(*p50s: float, lost: int = 0) -> Result:
    return result(*([step(latency=latency(p50), lost=lost)] for p50 in p50s))


def test_a_change_is_told_with_its_rate_and_its_figures():
    comparison = compare(runs(1.0, 1.1, 1.0), runs(2.0, 2.1, 2.0))
    changed = {change.what: change for change in comparison.changes if change.verdict == "worse"}
    assert set(changed) == {"p50", "p99", "p99.9"}
    assert changed["p50"].rate == 1_000
    assert changed["p50"].percent == pytest.approx(100)
    assert comparison.is_worse


def test_what_is_better_is_not_worse():
    comparison = compare(runs(2.0, 2.1, 2.0), runs(1.0, 1.1, 1.0))
    assert {change.verdict for change in comparison.changes} == {"better", "same"}
    assert not comparison.is_worse


def test_what_was_lost_stands_out():
    comparison = compare(runs(1.0, 1.0, 1.0), runs(1.0, 1.0, 1.0, lost=2))
    assert [change.what for change in comparison.changes if change.verdict == "worse"] == ["lost, twice or reordered"]


def damaged(*lost: int, **words: object) -> Result:
    return result(*([step(lost=count)] for count in lost), **words)


DAMAGE = {
    "in one run of three": (damaged(0, 0, 0), damaged(0, 0, 100), "worse"),
    "in each, and not the same": (damaged(0, 0, 0), damaged(10, 20, 30), "worse"),
    "there was one run": (damaged(0), damaged(7), "worse"),
    "much more than before": (damaged(0, 0, 2), damaged(0, 0, 2_000), "worse"),
    "about as before": (damaged(0, 0, 2), damaged(0, 1, 3), "same"),
    "none any more": (damaged(9, 9, 9), damaged(0, 0, 0), "better"),
    "where the broker is killed": (damaged(0, 0, 0, kill_broker=True), damaged(0, 0, 9, kill_broker=True), "same"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_is_no_noise(case):
    before, after, expected = DAMAGE[case]
    [change] = [change for change in compare(before, after).changes if change.what == "lost, twice or reordered"]
    assert change.verdict == expected


def test_settings_that_differ_are_told():
    notes = compare(result([step()], tpm="swtpm"), result([step()], tpm="software")).notes
    assert [note for note in notes if "software" in note]


def test_a_search_that_finds_nothing_is_worse_than_one_that_found_something():
    kept, failed = [step(rate=1_000.0)], [step(rate=1_000.0, in_time=0)]
    found, nothing = result(kept, kept, kept, is_search=True), result(failed, failed, failed, is_search=True)
    comparison = compare(found, nothing)
    [highest] = comparison.changes
    assert (highest.after.median, highest.verdict) == (0, "worse")
    assert comparison.notes
    [highest, *_] = compare(found, result(kept, failed, failed, is_search=True)).changes
    assert highest.after.least == 0, "runs that found nothing are not left out"


def test_of_a_single_run_nothing_counts_and_it_is_said():
    comparison = compare(runs(1.0), runs(9.0))
    assert {change.verdict for change in comparison.changes} == {"unknown"}
    assert comparison.notes
    assert not comparison.is_worse


def test_the_highest_rates_of_two_searches_are_compared():
    def searched(*rates: float) -> Result:
        return result(*([step(rate=rate), step(rate=2 * rate, in_time=0)] for rate in rates), is_search=True)

    [first, *_] = compare(searched(1_000, 1_050, 1_020), searched(500, 510, 505)).changes
    assert (first.rate, first.verdict) == (None, "worse")
    assert (first.before.median, first.after.median) == (1_020, 505)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (result([step()], size=1_024), "size"),
        (result([step()], transport="tls"), "transport"),
        (result([step()], is_search=True), "search"),
        (result([step(rate=7.0)]), "rate"),
        (result([step()], tpm_delay={"ecc": 0.04, "rsa": 0.12}), "tpm_delay"),
    ],
    ids=["size", "transport", "search", "rate", "delay"],
)
def test_two_different_things_are_not_compared(other, why):
    with pytest.raises(ValueError, match=why):
        compare(result([step()]), other)


# ---- documents -------------------------------------------------------------------------------------------------------------------


def test_a_result_is_the_same_after_it_was_written_and_read():
    one = result([step(), step(rate=2_000.0)], [step(), step(rate=2_000.0)])
    assert Result.of_document(one.document()) == one


@pytest.mark.parametrize("document", [None, [], {}, {"format": "tpmbus bench"}, {"format": "tpmbus bench", "version": 1}])
def test_what_is_no_result_is_refused(document):
    with pytest.raises(ValueError, match=r"."):
        Result.of_document(document)


def test_a_damaged_result_is_refused():
    document = result([step()]).document()
    del document["runs"][0]["steps"][0]["latency"]["p50"]
    document["runs"][0]["steps"][0]["latency"]["p51"] = 1
    with pytest.raises(ValueError, match="damaged"):
        Result.of_document(document)
