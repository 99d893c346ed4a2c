"""What a consumer has outstanding: who is waited for how long, what comes again, what is given up, and what is written down."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.flow.redelivery import redelivery_seconds
from bus.flow.unsettled import Given, Kept, Unsettled, Written


def unsettled(**more):
    return Unsettled(**{"ack_wait": 30.0, "max_deliver": 3, **more})


def handed_out(*positions, now=0.0, **more):
    found = unsettled(**more)
    found.hand_out(positions, now)
    return found


# ---- settling ------------------------------------------------------------------------------------------------------------------


def test_what_is_acknowledged_is_settled_once():
    found = handed_out(1, 2, 5)
    assert found.ack([(1, 2)]) == 2
    assert found.ack([(1, 2)]) == 0
    assert (len(found), 5 in found, 2 in found) == (1, True, False)


def test_a_span_may_reach_past_what_is_outstanding():
    found = handed_out(3, 5, 7)
    assert found.ack([(0, 1 << 62)]) == 3
    assert len(found) == 0
    assert found.ack([(5, 4)]) == 0, "a span that ends before it begins"


def test_the_floor_is_below_the_lowest_that_is_unsettled():
    found = handed_out(3, 5, 7)
    assert found.floor(cursor=10) == 2
    found.ack([(3, 3)])
    assert found.floor(cursor=10) == 4
    found.nak([(5, 5)], delay=9.0, now=0.0)
    assert found.floor(cursor=10) == 4
    found.ack([(5, 7)])
    assert found.floor(cursor=10) == 9


def test_a_nak_brings_it_again_after_its_delay():
    found = handed_out(1, 2)
    assert found.nak([(1, 1)], delay=5.0, now=0.0) == (1, [])
    assert found.nak([(1, 1)], delay=0.0, now=0.0) == (0, []), "it is not in anybody's hands"
    assert found.next_due() == 5.0
    assert found.advance(4.9) == []
    assert not found.has_ready
    found.advance(5.0)
    assert found.take_ready(10, 5.0) == [Given(1, 2)]
    assert found.out == 2


def test_the_usual_delay_doubles_up_to_a_minute():
    assert [redelivery_seconds(deliveries) for deliveries in range(9)] == [1, 1, 2, 4, 8, 16, 32, 60, 60]
    assert redelivery_seconds(10**9) == 60
    found = handed_out(1)
    found.nak([(1, 1)], delay=None, now=0.0)
    found.advance(1.0)
    assert found.take_ready(1, 1.0) == [Given(1, 2)]
    found.nak([(1, 1)], delay=None, now=1.0)
    assert found.next_due() == 3.0


def test_what_waits_may_still_be_acknowledged():
    """The reader's word came late."""
    found = handed_out(1, 2)
    found.nak([(1, 1)], delay=9.0, now=0.0)
    found.advance(30.0)
    assert found.ack([(1, 2)]) == 2
    assert (len(found), found.has_ready, found.take_ready(10, 30.0)) == (0, False, [])


def test_a_touch_gives_more_time():
    found = handed_out(1, 2)
    assert found.touch([(1, 1)], 20.0)
    assert not found.touch([(9, 9)], 20.0)
    found.advance(30.0)
    assert found.take_ready(10, 30.0) == [Given(2, 2)]
    found.touch([(1, 1)], 40.0)
    found.advance(50.0)
    assert not found.has_ready, "the alarm of the first touch is void"
    found.advance(70.0)
    assert found.take_ready(10, 70.0) == [Given(1, 2), Given(2, 3)]


def test_spans_of_others_may_be_many_and_long():
    """What a reader says costs what it has, not what it names."""
    found = handed_out(*range(1, 8_001))
    spans = [(0, 1 << 62), (5, -(1 << 62))] * 512
    begun = time.thread_time()
    assert found.touch(spans, 1.0)
    assert found.nak([(first, first + 7_999) for first in range(1 << 40, 1 << 50, 1 << 40)], delay=None, now=1.0) == (0, [])
    assert found.ack(spans) == 8_000
    assert time.thread_time() - begun < 2.0, "one walk over each pair took minutes"


def test_touching_without_end_costs_no_memory():
    found = handed_out(*range(1, 11))
    for turn in range(10_000):
        found.touch([(1, 10)], turn / 1000)
    assert len(found._alarms) < 200


# ---- giving up -----------------------------------------------------------------------------------------------------------------


def test_the_last_delivery_ends_in_giving_up():
    found = handed_out(1)
    for deliveries in (2, 3):
        assert found.nak([(1, 1)], delay=0.0, now=0.0) == (1, [])
        assert found.advance(0.0) == []
        assert found.take_ready(1, 0.0) == [Given(1, deliveries)]
    assert found.nak([(1, 1)], delay=0.0, now=0.0) == (1, [Given(1, 3)])
    assert (len(found), found.out, found.has_ready) == (1, 0, False)
    assert found.ack([(1, 1)]) == 0, "it is dying, whatever its reader says now"
    assert found.floor(cursor=2) == 0
    found.settle(1)
    assert (len(found), found.floor(cursor=2)) == (0, 1)


def test_time_gives_up_as_well():
    found = handed_out(1, max_deliver=1)
    assert found.advance(29.9) == []
    assert found.advance(30.0) == [Given(1, 1)]
    assert found.advance(99.0) == []


def test_a_term_gives_up_at_once():
    found = handed_out(1, 2)
    assert found.term([(1, 5)]) == [Given(1, 1), Given(2, 1)]
    assert found.term([(1, 5)]) == []


def test_what_a_reader_had_that_is_gone_is_ready():
    found = handed_out(1, 2, 3)
    found.nak([(2, 2)], delay=9.0, now=0.0)
    found.touch([(3, 3)], 5.0)
    assert found.release() == []
    assert found.take_ready(10, 1.0) == [Given(1, 2), Given(3, 2)]
    assert handed_out(1, max_deliver=1).release() == [Given(1, 1)]


# ---- policy changes ------------------------------------------------------------------------------------------------------------


def test_what_is_out_keeps_its_time_when_policy_changes():
    found = handed_out(1)
    found.follow(ack_wait=5.0, max_deliver=3)
    found.hand_out([2], 10.0)
    found.advance(15.0)
    assert found.take_ready(10, 15.0) == [Given(2, 2)], "which is due before what was handed out earlier"
    found.advance(30.0)
    assert found.take_ready(10, 30.0)[0] == Given(1, 2)


# ---- what is written down ------------------------------------------------------------------------------------------------------


def test_all_that_is_unsettled_is_written_down_with_its_deliveries():
    found = handed_out(1, 2, 3, 4, 5)
    found.nak([(2, 2)], delay=7.0, now=0.0)
    found.ack([(3, 3)])
    found.touch([(4, 4)], 0.0)
    written = found.written()
    assert written == Written([1, 5], [Kept(2, 1, 7.0), Kept(4, 1, 0.0)], {})
    again = unsettled(written=written)
    assert again.advance(0.0) == []
    assert again.take_ready(10, 0.0) == [Given(1, 2), Given(4, 2), Given(5, 2)]
    again.advance(7.0)
    assert again.take_ready(10, 7.0) == [Given(2, 2)]


def test_what_was_given_up_before_a_crash_is_given_up_after_it():
    found = handed_out(1, max_deliver=1)
    found.advance(30.0)
    again = unsettled(max_deliver=1, written=found.written())
    assert again.advance(0.0) == [Given(1, 1)]


# ---- against a naive one -------------------------------------------------------------------------------------------------------


class Naive:
    """One list of everything, looked through each time."""

    def __init__(self, ack_wait, max_deliver):
        self.ack_wait, self.max_deliver = ack_wait, max_deliver
        self.all = {}  # position -> [place, deliveries, when]

    def within(self, spans, *places):
        chosen = [p for p in self.all if any(first <= p <= last for first, last in spans)]
        return sorted(p for p in chosen if self.all[p][0] in places)

    def at(self, *places):
        return self.within([(0, 1 << 62)], *places)

    def hand_out(self, positions, now):
        self.all |= {position: ["out", 1, now + self.ack_wait] for position in positions}

    def give_up(self, position):
        self.all[position][0] = "dying"
        return Given(position, self.all[position][1])

    def overdue(self, position):
        if self.all[position][1] >= self.max_deliver:
            return [self.give_up(position)]
        self.all[position][0] = "ready"
        return []

    def ack(self, spans):
        settled = self.within(spans, "out", "later", "ready")
        for position in settled:
            del self.all[position]
        return len(settled)

    def nak(self, spans, *, delay, now):
        concerned, given = self.within(spans, "out"), []
        for position in concerned:
            state = self.all[position]
            if state[1] >= self.max_deliver:
                given.append(self.give_up(position))
            else:
                state[0], state[2] = "later", now + (redelivery_seconds(state[1]) if delay is None else delay)
        return len(concerned), given

    def give_back(self, spans):
        concerned = self.within(spans, "out")
        for position in concerned:
            state = self.all[position]
            state[0], state[1] = "ready", state[1] - 1
        return len(concerned)

    def term(self, spans):
        return [self.give_up(position) for position in self.within(spans, "out")]

    def touch(self, spans, now):
        concerned = self.within(spans, "out")
        for position in concerned:
            self.all[position][2] = now + self.ack_wait
        return len(concerned)

    def settle(self, position):
        self.all.pop(position, None)

    def advance(self, now):
        due = [p for p, (place, _, when) in sorted(self.all.items()) if place in ("out", "later") and when <= now]
        return [one for position in due for one in self.overdue(position)]

    def release(self):
        return [one for position in self.at("out") for one in self.overdue(position)]

    def take_ready(self, most, now):
        taken = self.at("ready")[:most]
        for position in taken:
            self.all[position] = ["out", self.all[position][1] + 1, now + self.ack_wait]
        return [Given(position, self.all[position][1]) for position in taken]


class Both:
    """The same done to both; each method is one thing that happens."""

    def __init__(self, dice):
        self.dice = dice
        self.ours, self.naive = unsettled(ack_wait=10.0), Naive(10.0, 3)
        self.now, self.cursor = 0.0, 1

    def spans(self):
        firsts = [self.dice.randrange(0, self.cursor + 2) for _ in range(self.dice.choice([1, 1, 2, 5]))]
        return [(first, first + self.dice.choice([-2, 0, 0, 1, 3, 1 << 40])) for first in firsts]

    def new(self):
        positions = sorted(self.dice.sample(range(self.cursor, self.cursor + 6), self.dice.randrange(1, 4)))
        self.cursor = positions[-1] + 1
        self.ours.hand_out(positions, self.now)
        self.naive.hand_out(positions, self.now)

    def ack(self):
        spans = self.spans()
        assert self.ours.ack(spans) == self.naive.ack(spans)

    def nak(self):
        spans, delay = self.spans(), self.dice.choice([None, 0.0, 3.0])
        count, given = self.ours.nak(spans, delay=delay, now=self.now)
        assert (count, sorted(given)) == self.naive.nak(spans, delay=delay, now=self.now)

    def give_back(self):
        spans = self.spans()
        assert self.ours.give_back(spans) == self.naive.give_back(spans)

    def term(self):
        spans = self.spans()
        assert sorted(self.ours.term(spans)) == sorted(self.naive.term(spans))

    def touch(self):
        spans = self.spans()
        assert bool(self.ours.touch(spans, self.now)) == bool(self.naive.touch(spans, self.now))

    def settle(self):
        ((position, _), *_) = self.spans()
        self.ours.settle(position)
        self.naive.settle(position)

    def time(self):
        self.now += self.dice.choice([0.0, 0.5, 4.0, 10.0])
        assert sorted(self.ours.advance(self.now)) == sorted(self.naive.advance(self.now))

    def again(self):
        self.time()
        most = self.dice.randrange(1, 5)
        assert self.ours.take_ready(most, self.now) == self.naive.take_ready(most, self.now)

    def release(self):
        assert sorted(self.ours.release()) == sorted(self.naive.release())

    def crash(self):
        """What was out is ready then, with its deliveries; so is what was given up for a reason that is forgotten."""
        written = self.ours.written()
        found = dict.fromkeys(written.once, 1) | {one.position: one.deliveries for one in written.others}
        assert found == {position: deliveries for position, (_, deliveries, _) in self.naive.all.items()}
        left = unsettled(ack_wait=10.0, written=written)
        left.advance(self.now)
        later = self.naive.at("later")
        ready = [p for p in self.naive.at("out", "ready", "dying") if self.naive.all[p][1] < 3]
        waiting = [p for p in later if self.naive.all[p][2] > self.now]
        assert [one.position for one in left.take_ready(999, self.now)] == sorted({*ready, *later} - {*waiting})

    def check(self):
        ours, everything = self.ours, self.naive.all
        assert len(ours) == len(everything)
        assert ours.out == len(self.naive.at("out"))
        assert ours.has_ready == bool(self.naive.at("ready"))
        assert ours.floor(self.cursor) == min([*everything, self.cursor]) - 1
        dues = [when for place, _, when in everything.values() if place in ("out", "later")]
        assert not dues or (ours.next_due() or 0.0) <= min(dues), "it may be early, never late"


STEPS = [Both.new] * 3 + [Both.ack] * 3 + [Both.nak] * 2 + [Both.again] * 2
STEPS += [Both.term, Both.give_back, Both.touch, Both.settle, Both.time, Both.release, Both.crash]


@given(seed=st.integers(0, 1 << 32))
def test_whatever_is_done_it_does_what_a_naive_one_does(seed):
    dice = random.Random(seed)
    both = Both(dice)
    for _ in range(dice.randrange(1, 60)):
        dice.choice(STEPS)(both)
        both.check()


@pytest.mark.parametrize("deliveries", [0, 1, 2])
def test_what_is_expected_comes_as_soon_as_possible(deliveries):
    found = unsettled()
    found.expect(7, deliveries=deliveries)
    assert found.take_ready(1, 0.0) == [Given(7, deliveries + 1)]


def test_what_is_put_off_was_not_delivered_and_is_given_up_when_that_lasts_too_long():
    waiting = Unsettled(ack_wait=30.0, max_deliver=2)
    waiting.hand_out([1], 0.0)
    for now in (10.0, 20.0, 30.0):
        assert waiting.put_off([(1, 1)], delay=5.0, longest=25.0, now=now) == (1, [])
        assert waiting.advance(now + 5.0) == []
        assert waiting.take_ready(1, now + 5.0) == [Given(1, 1)], "each time is the first"
    assert waiting.put_off([(1, 1)], delay=5.0, longest=25.0, now=36.0) == (1, [Given(1, 1)])


def test_of_what_is_put_off_there_is_a_most_and_who_is_known_goes_on(monkeypatch):
    monkeypatch.setattr("bus.flow.unsettled.MAX_PUT_OFF", 1)
    waiting = Unsettled(ack_wait=30.0, max_deliver=2)
    waiting.hand_out([1, 2], 0.0)
    assert waiting.put_off([(1, 2)], delay=5.0, longest=100.0, now=1.0) == (2, [Given(2, 1)])
    waiting.advance(6.0)
    assert waiting.take_ready(1, 6.0) == [Given(1, 1)]
    assert waiting.put_off([(1, 1)], delay=5.0, longest=100.0, now=7.0) == (1, [])
    waiting.advance(12.0)
    waiting.take_ready(1, 12.0)
    assert waiting.term([(1, 1)]) == [Given(1, 1)]
    waiting.hand_out([3], 12.0)
    assert waiting.put_off([(3, 3)], delay=5.0, longest=100.0, now=13.0) == (1, []), "what was given up makes room"
