"""Parking beside a naive one that looks at everything each time: the same goes on, in the same order, and nothing is lost."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.identity.epochs import parking as module
from bus.identity.epochs.asking import FIRST_ASK_MS, LAST_ASK_MS, MAX_ASKS, MAX_REMEMBERED, Asks, Missing
from bus.identity.epochs.parking import MAX_BYTES, MAX_ENVELOPES, MAX_WAIT_MS, LetGo, Parking, lane_of
from bus.protocol.header import Header

KEY, PAPERS = "missing_key", "missing_papers"


def header(sender: str = "DIRECTOR", *, priority: int = 3, epoch: int = 0, session: int = 0) -> Header:
    ids = {"session": session.to_bytes(16, "big"), "epoch": epoch.to_bytes(32, "big")}
    return Header(1, 1, 0, "tasks.build", sender, ids["session"], ids["epoch"], 0, 0, 1, priority, 1, bytes(16), b"", 0)


@dataclass(eq=False)
class Envelope:
    header: Header
    size: int = 100

    @property
    def needs(self) -> tuple[Missing, Missing]:
        return Missing(KEY, self.header.epoch), Missing(PAPERS, self.header.session)


@dataclass
class Host:
    """What a host does with its parking: judge, park, release; `told` is what its agents got."""

    there: set[Missing] = field(default_factory=set)
    told: list[Envelope] = field(default_factory=list)
    gone: list[LetGo[Envelope]] = field(default_factory=list)
    now: int = 0

    def __post_init__(self) -> None:
        self.asks = Asks()
        self.parking: Parking[Envelope] = Parking(self.asks)
        self.judged = 0

    def judge(self, one: Envelope) -> Missing | None:
        self.judged += 1
        missing = next((need for need in one.needs if need not in self.there), None)
        if missing is None:
            self.told.append(one)
        return missing

    def come(self, one: Envelope) -> None:
        hint = next((need for need in one.needs if need not in self.there), None)
        missing = hint if self.parking.blocks(one.header) else self.judge(one)
        if missing is None and not self.parking.blocks(one.header):
            return
        gone = self.parking.park(one, one.header, one.size, missing, now_ms=self.now)
        if gone is not None:
            self.gone.append(gone)

    def learn(self, missing: Missing) -> None:
        self.there.add(missing)
        self.parking.found(missing, self.judge, now_ms=self.now)

    def lose(self, missing: Missing) -> None:
        self.there.discard(missing)

    def tick(self, ms: int) -> None:
        self.now += ms
        self.gone += self.parking.expire(self.judge, now_ms=self.now)


class Naive:
    """A list of all that wait; after each step it is looked through, again and again, until nothing moves."""

    def __init__(self) -> None:
        self.there: set[Missing] = set()
        self.told: list[Envelope] = []
        self.gone: list[tuple[Envelope, str]] = []
        self.waits: list[tuple[int, Envelope]] = []
        self.now = 0

    def missing(self, one: Envelope) -> Missing | None:
        return next((need for need in one.needs if need not in self.there), None)

    def lane(self, one: Envelope) -> list[tuple[int, Envelope]]:
        return [other for other in self.waits if lane_of(other[1].header) == lane_of(one.header)]

    def come(self, one: Envelope) -> None:
        lane = self.lane(one)
        if not lane and self.missing(one) is None:
            self.told.append(one)
        elif len(lane) >= module.MAX_ENVELOPES or sum(other.size for _, other in lane) + one.size > module.MAX_BYTES:
            self.gone.append((one, "busy"))
        else:
            self.waits.append((self.now, one))

    def learn(self, missing: Missing) -> None:
        self.there.add(missing)
        self.look()

    def lose(self, missing: Missing) -> None:
        self.there.discard(missing)

    def look(self) -> None:
        for first in list(self.waits):
            if self.lane(first[1])[0] is first and self.missing(first[1]) is None:
                self.waits.remove(first)
                self.told.append(first[1])
                return self.look()
        return None

    def tick(self, ms: int) -> None:
        self.now += ms
        for first in list(self.waits):
            if first in self.waits and self.now - first[0] >= MAX_WAIT_MS:
                missing = self.missing(first[1])
                assert missing is not None
                self.waits.remove(first)
                self.gone.append((first[1], missing.what))
                self.look()


envelopes = st.builds(
    Envelope,
    st.builds(header, st.sampled_from(["A", "B"]), priority=st.integers(1, 2), epoch=st.integers(0, 3), session=st.integers(0, 2)),
    st.sampled_from([1, 40, 200]),
)
things = st.one_of(
    st.builds(lambda n: Missing(KEY, n.to_bytes(32, "big")), st.integers(0, 3)),
    st.builds(lambda n: Missing(PAPERS, n.to_bytes(16, "big")), st.integers(0, 2)),
)
steps = st.one_of(
    st.tuples(st.just("come"), envelopes),
    st.tuples(st.just("come"), envelopes),
    st.tuples(st.just("learn"), things),
    st.tuples(st.just("tick"), st.integers(0, 2_500)),
)


@given(st.lists(steps, max_size=60))
@settings(max_examples=400)
def test_it_does_what_a_naive_one_does_and_counts_add_up(story):
    host, naive = Host(), Naive()
    most, room = module.MAX_ENVELOPES, module.MAX_BYTES
    module.MAX_ENVELOPES, module.MAX_BYTES = 4, 500
    try:
        for verb, what in story:
            getattr(host, verb)(what)
            getattr(naive, verb)(what)
            for lane in {lane_of(one.header) for one in host.told}:
                ours, theirs = ([one for one in told if lane_of(one.header) == lane] for told in (host.told, naive.told))
                assert ours == theirs
            assert sorted((id(gone.item), gone.reason) for gone in host.gone) == sorted((id(one), why) for one, why in naive.gone)
            assert host.parking.parked == len(naive.waits)
            counts = host.parking.statistics()
            assert counts["parked_ever"] == counts["went_on"] + counts["parked"] + len(host.gone)
            assert len(host.asks) >= len({naive.missing(naive.lane(one)[0][1]) for _, one in naive.waits})
            assert host.parking.parked or not len(host.asks)
    finally:
        module.MAX_ENVELOPES, module.MAX_BYTES = most, room


@given(st.lists(st.one_of(steps, st.tuples(st.just("lose"), things)), max_size=60))
def test_what_was_there_may_go_again_and_still_nothing_is_lost_or_overtaken(story):
    host, came = Host(), []
    for verb, what in story:
        came += [what] if verb == "come" else []
        getattr(host, verb)(what)
    host.tick(MAX_WAIT_MS)
    assert not host.parking.parked
    assert not host.asks
    assert not host.parking._first
    assert not host.parking._bytes
    assert Counter(map(id, came)) == Counter(map(id, host.told)) + Counter(id(gone.item) for gone in host.gone)
    for lane in {lane_of(one.header) for one in came}:
        order = [one for one in came if lane_of(one.header) == lane and one in host.told]
        assert [one for one in host.told if lane_of(one.header) == lane] == order


# ---- order, room and time --------------------------------------------------------------------------------------------------------


def test_later_ones_queue_behind_although_nothing_is_missing_for_them():
    host = Host({Missing(KEY, header(epoch=1).epoch), Missing(PAPERS, bytes(16))})
    first, second = Envelope(header(epoch=0)), Envelope(header(epoch=1))
    host.come(first)
    host.come(second)
    assert host.told == []
    host.learn(Missing(KEY, bytes(32)))
    assert host.told == [first, second]


def test_another_sender_or_priority_does_not_wait():
    host = Host({Missing(KEY, header(epoch=1).epoch), Missing(PAPERS, bytes(16))})
    host.come(Envelope(header(epoch=0)))
    others = [Envelope(header(epoch=1, priority=1)), Envelope(header("MONITOR", epoch=1))]
    for one in others:
        host.come(one)
    assert host.told == others


def test_first_the_key_then_the_papers():
    host, one = Host(), Envelope(header())
    host.come(one)
    host.learn(one.needs[0])
    assert host.told == []
    assert [wanted.what for wanted in host.asks.due(now_ms=0)] == [PAPERS]
    host.learn(one.needs[1])
    assert host.told == [one]
    assert not len(host.asks)


def test_what_is_let_go_lets_the_next_one_be_judged_and_not_be_let_go_with_it():
    host = Host({Missing(KEY, header(epoch=1).epoch), Missing(PAPERS, bytes(16))})
    lost, whole = Envelope(header(epoch=0)), Envelope(header(epoch=1))
    host.come(lost)
    host.come(whole)
    host.tick(MAX_WAIT_MS - 1)
    assert not host.gone
    host.tick(100_000)  # the loop was busy elsewhere
    assert [(gone.item, gone.reason) for gone in host.gone] == [(lost, KEY)]
    assert host.told == [whole]


@pytest.mark.parametrize(("size", "fit"), [(1, MAX_ENVELOPES), (MAX_BYTES // 4, 4)])
def test_a_lane_has_its_room_and_another_one_its_own(size, fit):
    host = Host()
    for _ in range(fit):
        host.come(Envelope(header(), size))
    assert not host.gone
    host.come(Envelope(header(), size))
    assert [gone.reason for gone in host.gone] == ["busy"]
    host.come(Envelope(header("MONITOR"), size))
    assert len(host.gone) == 1


def test_many_lanes_have_a_limit_together():
    host = Host()
    for number in range(100):
        host.come(Envelope(header(f"A{number}"), MAX_BYTES))
    assert host.parking.parked == module.MAX_ALL_BYTES // MAX_BYTES
    assert {gone.reason for gone in host.gone} == {"busy"}
    host.gone += host.parking.empty(now_ms=0)
    assert len(host.gone) == 100
    assert not len(host.asks)


def test_small_ones_have_a_limit_together_too(monkeypatch):
    monkeypatch.setattr(module, "MAX_ALL_ENVELOPES", 10)
    host = Host()
    for number in range(12):
        host.come(Envelope(header(f"A{number}"), 1))
    assert (host.parking.parked, len(host.gone)) == (10, 2)


@pytest.mark.parametrize(("size", "fit"), [(module.MAX_SENDER_BYTES // 8, 8), (1, 20)])
def test_one_sender_has_its_share_however_many_lanes_it_makes_up(monkeypatch, size, fit):
    monkeypatch.setattr(module, "MAX_SENDER_ENVELOPES", 20)
    host = Host({Missing(KEY, bytes(32))})
    asked = [header(session=number)._replace(kind=2, priority=0) for number in range(1, 30)]
    for one in asked:
        host.come(Envelope(one, size))
    assert (host.parking.parked, {gone.reason for gone in host.gone}) == (fit, {"busy"})
    host.come(Envelope(header("MONITOR"), module.MAX_BYTES))
    assert host.parking.parked == fit + 1, "another one has its own"
    host.learn(Missing(PAPERS, asked[0].session))
    host.come(Envelope(asked[-1], size))
    assert host.parking.parked == fit + 1, "who leaves makes room"
    host.tick(MAX_WAIT_MS)
    assert not host.parking._shares


def test_grants_wait_with_those_of_their_session_alone():
    asked = [header(session=number)._replace(kind=2, priority=0, epoch=bytes(31) + bytes([number])) for number in (1, 2)]
    host = Host({Missing(KEY, one.epoch) for one in asked} | {Missing(PAPERS, asked[1].session)})
    for one in asked:
        host.come(Envelope(one))
    assert [one.header for one in host.told] == asked[1:]


def test_a_lane_cannot_begin_with_one_that_misses_nothing():
    with pytest.raises(ValueError, match="waits for something"):
        Host().parking.park(Envelope(header()), header(), 1, None, now_ms=0)


def test_a_key_that_comes_costs_what_waits_for_it_and_not_what_else_is_parked():
    def cost(lanes: int) -> float:
        host = Host({Missing(PAPERS, bytes(16))})
        for number in range(lanes):
            host.come(Envelope(header(f"A{number}", epoch=1), 1))
        best = 1.0
        for number in range(2, 102):
            host.come(Envelope(header("DIRECTOR", epoch=number)))
            judged, begun = host.judged, time.perf_counter()
            host.learn(Missing(KEY, number.to_bytes(32, "big")))
            best = min(best, time.perf_counter() - begun)
            assert host.judged == judged + 1
        return best

    assert cost(20_000) < 20 * cost(1) + 0.000_02


# ---- asking ----------------------------------------------------------------------------------------------------------------------


def test_it_is_asked_once_and_then_ever_more_rarely():
    asks, wanted = Asks(), Missing(KEY, bytes(32))
    asks.need(wanted, header(), now_ms=0)
    asked = [second for second in range(200) if asks.due(now_ms=second * 1000)]
    assert asked == [0, 1, 3, 7, 15, 31, 63, 123, 183]
    assert asks.asked == 9
    assert LAST_ASK_MS == 60_000


def test_what_is_delivered_again_and_again_is_not_asked_for_each_time():
    asks, wanted = Asks(), Missing(KEY, bytes(32))
    asked = []
    for second in range(0, 100, 5):  # each time it is parked for two seconds, and let go
        asks.need(wanted, header(), now_ms=second * 1000)
        asked += [second + part for part in (0, 1) if asks.due(now_ms=(second + part) * 1000)]
        asks.release(wanted)
    assert len(asked) <= 7
    asks.need(wanted, header(), now_ms=1_000_000)
    assert asks.due(now_ms=1_000_000), "after a long time it begins anew"
    assert asks.due(now_ms=1_001_000), "and as quickly"


def test_nobody_waits_for_what_is_asked_for_in_vain():
    host, one = Host(), Envelope(header())
    waited = []
    for _ in range(9):
        before = len(host.gone)
        host.come(one)
        waited.append(len(host.gone) == before)
        if not waited[-1]:
            assert host.gone[-1].again_in_ms == max(7_000 - host.now, FIRST_ASK_MS)
        host.asks.due(now_ms=host.now)
        host.tick(1_000)
    assert waited == [True] * 5 + [False] * 2 + [True] * 2, "asked at 0, 1, 3 and 7 seconds"
    host.learn(one.needs[0])
    host.learn(one.needs[1])
    assert host.told
    host.come(one)
    assert host.told[-1] is one


def test_garbage_ids_make_no_storm_and_keep_nobody_from_asking_for_long():
    host, asked = Host(), []
    for number in range(1_000):
        host.come(Envelope(header(f"A{number}", epoch=number), 1))
    for _ in range(20):
        asked.append(len(host.asks.due(now_ms=host.now)))
        host.tick(100)
    assert asked[0] == MAX_ASKS
    assert sum(asked) <= 2 * MAX_ASKS
    host.tick(MAX_WAIT_MS)
    assert not host.parking.parked
    one = Envelope(header("DIRECTOR", epoch=7_000))
    host.come(one)
    assert [wanted.epoch for wanted in host.asks.due(now_ms=host.now)] == [one.header.epoch]
    for number in range(2 * MAX_REMEMBERED):
        host.asks.need(Missing(KEY, number.to_bytes(32, "little")), header(), now_ms=host.now)
        host.asks.release(Missing(KEY, number.to_bytes(32, "little")))
    assert len(host.asks._idle) == MAX_REMEMBERED
    assert len(host.asks._known) == MAX_REMEMBERED + 1


def test_questions_that_nobody_answers_leave_their_turn_to_others():
    asks = Asks()
    for number in range(MAX_ASKS + 1):
        asks.need(Missing(KEY, number.to_bytes(32, "big")), header(epoch=number), now_ms=0)
    assert len(asks.due(now_ms=0)) == MAX_ASKS
    assert asks.due(now_ms=FIRST_ASK_MS - 1) == []
    assert asks.due(now_ms=FIRST_ASK_MS)[0].epoch == header(epoch=MAX_ASKS).epoch


def test_what_is_answered_or_needed_no_more_leaves_its_turn_at_once():
    asks, ids = Asks(), [Missing(KEY, number.to_bytes(32, "big")) for number in range(MAX_ASKS + 2)]
    for one in ids:
        asks.need(one, header(), now_ms=0)
    asks.due(now_ms=0)
    asks.answered(ids[0])
    assert [wanted.id for wanted in asks.due(now_ms=1)] == [ids[MAX_ASKS].id]
    asks.release(ids[1])
    assert [wanted.id for wanted in asks.due(now_ms=1)] == [ids[MAX_ASKS + 1].id]


def test_a_refusal_frees_the_turn_and_is_not_believed_for_good():
    asks, wanted = Asks(), Missing(KEY, bytes(32))
    asks.need(wanted, header(), now_ms=0)
    asks.due(now_ms=0)
    asks.refused(wanted)
    assert asks.again_in_ms(wanted, now_ms=0) == FIRST_ASK_MS
    assert [one.id for one in asks.due(now_ms=FIRST_ASK_MS)] == [wanted.id]


def test_what_was_answered_and_is_missing_again_is_asked_for_at_once():
    asks, wanted = Asks(), Missing(PAPERS, bytes(16))
    for now in (0, 5, 10):
        asks.need(wanted, header(), now_ms=now)
        assert len(asks.due(now_ms=now)) == 1
        asks.answered(wanted)
        assert not len(asks)
    for _ in range(3):
        asks.release(wanted)
    assert not asks._known
