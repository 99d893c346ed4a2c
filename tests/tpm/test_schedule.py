"""Who is next: against a naive reading of the rule, and the promises that it makes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.tpm.interface import Priority
from bus.tpm.schedule import LOADED_ADVANTAGE_SECONDS, PATIENCE_SECONDS, Schedule


def schedule_of() -> Schedule:
    return Schedule(lambda job: job[1])


def drain(schedule, *, loaded=(), limit=1000):
    taken = []
    while (batch := schedule.take(loaded=loaded, limit=limit)) is not None:
        taken.append(batch)
    return taken


class NaiveSchedule:
    """The rule read slowly: sort all that waits, every time."""

    def __init__(self):
        self.jobs = []  # (due, arrival, key, job)
        self.arrivals = 0

    def add(self, key, job, *, now, priority):
        self.arrivals += 1
        self.jobs.append((now + PATIENCE_SECONDS[priority], self.arrivals, key, job))

    def discard(self, job):
        before = len(self.jobs)
        self.jobs = [entry for entry in self.jobs if entry[3] is not job]
        return len(self.jobs) < before

    def take(self, *, loaded, limit):
        lines = {}
        for due, arrival, key, job in sorted(self.jobs, key=lambda entry: entry[:2]):
            lines.setdefault(key, []).append((due, arrival, job))
        if not lines:
            return None
        best = min(line[0][0] - (LOADED_ADVANTAGE_SECONDS if key in loaded else 0.0) for key, line in lines.items())
        fair = [key for key, line in lines.items() if line[0][0] - (LOADED_ADVANTAGE_SECONDS if key in loaded else 0.0) == best]
        batches = {}
        for key in fair:
            jobs, room = [], limit
            for _, _, job in lines[key]:
                if jobs and job[1] > room:
                    break
                jobs.append(job)
                room -= job[1]
            batches[key] = jobs
        return batches


actions = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.sampled_from("abcde"), st.integers(1, 9), st.sampled_from(list(Priority))),
        st.tuples(st.just("wait"), st.sampled_from([0.0, 0.001, 0.03, 0.5, 2.0])),
        st.tuples(st.just("discard"), st.integers(0, 50)),
        st.tuples(st.just("take"), st.sets(st.sampled_from("abcde"), max_size=3), st.integers(1, 20)),
    ),
    max_size=60,
)


@given(actions)
def test_it_does_what_a_naive_reading_of_its_rule_does(actions):
    fast, slow, now, made = schedule_of(), NaiveSchedule(), 0.0, []
    for action, *rest in actions:
        if action == "add":
            key, size, priority = rest
            job = (len(made), size)
            made.append((key, job))
            fast.add(key, job, now=now, priority=priority)
            slow.add(key, job, now=now, priority=priority)
        elif action == "wait":
            now += rest[0]
        elif action == "discard" and made:
            key, job = made[rest[0] % len(made)]
            assert fast.discard(key, job) is slow.discard(job)
        elif action == "take":
            loaded, limit = rest
            taken, allowed = fast.take(loaded=loaded, limit=limit), slow.take(loaded=loaded, limit=limit)
            if allowed is None:
                assert taken is None
                continue
            key, jobs = taken
            assert jobs == allowed[key]
            for job in jobs:
                slow.discard(job)
        assert len(fast) == len(slow.jobs)


def test_a_critical_job_overtakes_a_thousand_that_can_wait():
    schedule = schedule_of()
    for number in range(1000):
        schedule.add(f"renewal {number}", (number, 1), now=0.0, priority=Priority.RENEWAL)
    schedule.add("critical", ("now", 1), now=0.5, priority=Priority.CRITICAL)
    assert schedule.take(loaded=(), limit=100) == ("critical", [("now", 1)])


def test_a_critical_job_goes_first_within_its_own_key_too():
    schedule = schedule_of()
    schedule.add("key", ("later", 5), now=0.0, priority=Priority.BACKGROUND)
    schedule.add("key", ("soon", 5), now=0.1, priority=Priority.NORMAL)
    schedule.add("key", ("first", 5), now=0.1, priority=Priority.CRITICAL)
    assert schedule.take(loaded=(), limit=5) == ("key", [("first", 5)])
    assert schedule.take(loaded=(), limit=10) == ("key", [("soon", 5), ("later", 5)])


@pytest.mark.parametrize("priority", list(Priority))
def test_jobs_of_one_key_and_one_priority_keep_their_order(priority):
    schedule = schedule_of()
    for number in range(50):
        schedule.add("key", (number, 1), now=number / 1000, priority=priority)
        schedule.add("key", (f"other {number}", 1), now=number / 1000, priority=Priority((priority + 1) % 4))
    served = [job for _, jobs in drain(schedule, limit=7) for job in jobs if isinstance(job[0], int)]
    assert served == [(number, 1) for number in range(50)]


@pytest.mark.parametrize("patient", [Priority.NORMAL, Priority.RENEWAL, Priority.BACKGROUND])
def test_who_is_patient_is_served_in_bounded_time_though_critical_ones_keep_coming(patient):
    """A chip that takes 40 ms, and critical work for more than all of its time, on keys that sit in it already."""
    schedule, now = schedule_of(), 0.0
    schedule.add("patient", ("patient", 1), now=now, priority=patient)
    while True:
        for number in range(3):
            schedule.add(f"critical {number}", ("critical", 1), now=now, priority=Priority.CRITICAL)
        key, _ = schedule.take(loaded=["critical 0", "critical 1", "critical 2"], limit=100)
        if key == "patient":
            break
        now += 0.040
        assert now <= PATIENCE_SECONDS[patient] + LOADED_ADVANTAGE_SECONDS + 3 * 0.040, "it starves"


def test_76_keys_that_always_have_work_are_served_in_turn():
    """Each is back in the queue the moment it was served: nobody gets a second turn before everybody had a first."""
    schedule, now, seed = schedule_of(), 0.0, random.randrange(2**32)
    print(f"seed {seed}")
    order = random.Random(seed).sample(range(76), 76)
    for number in order:
        schedule.add(number, (number, 1), now=now, priority=Priority.NORMAL)
    served, recent = [], []
    for _ in range(76 * 3):
        key, _ = schedule.take(loaded=recent[-3:], limit=100)
        served.append(key)
        recent.append(key)
        now += 0.040
        schedule.add(key, (key, 1), now=now, priority=Priority.NORMAL)
    assert all(sorted(served[start : start + 76]) == list(range(76)) for start in (0, 76, 152))


def test_a_key_in_the_chip_goes_a_little_before_it_is_due_and_no_more():
    schedule = schedule_of()
    schedule.add("cold", ("cold", 1), now=0.0, priority=Priority.NORMAL)
    schedule.add("warm", ("warm", 1), now=LOADED_ADVANTAGE_SECONDS * 0.9, priority=Priority.NORMAL)
    schedule.add("late", ("late", 1), now=LOADED_ADVANTAGE_SECONDS * 1.1, priority=Priority.NORMAL)
    assert [key for key, _ in drain(schedule, loaded=["warm", "late"])] == ["warm", "cold", "late"]


def test_a_batch_has_no_more_than_its_limit_and_at_least_one_job():
    schedule = schedule_of()
    for number, size in enumerate([50, 3, 3, 3, 1]):
        schedule.add("key", (number, size), now=0.0, priority=Priority.NORMAL)
    assert [[size for _, size in jobs] for _, jobs in drain(schedule, limit=7)] == [[50], [3, 3], [3, 1]]


def test_what_was_taken_back_is_not_served():
    schedule = schedule_of()
    jobs = [(number, 1) for number in range(5)]
    for job in jobs:
        schedule.add("key", job, now=0.0, priority=Priority.NORMAL)
    assert schedule.discard("key", jobs[2])
    assert not schedule.discard("key", jobs[2])
    assert not schedule.discard("another key", jobs[3])
    assert schedule.take(loaded=(), limit=10) == ("key", [jobs[0], jobs[1], jobs[3], jobs[4]])
    assert not schedule.discard("key", jobs[0])
    assert len(schedule) == 0


def test_the_last_one_of_a_key_that_is_taken_back_takes_the_key_along():
    schedule, job = schedule_of(), ("only", 1)
    schedule.add("key", job, now=0.0, priority=Priority.NORMAL)
    assert schedule.discard("key", job)
    assert schedule.take(loaded=(), limit=10) is None
