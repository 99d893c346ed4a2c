"""The reference traffic is what it says of itself, fits the default policy, and is the same for the same seed."""

from __future__ import annotations

import statistics
from collections import Counter
from itertools import islice

import pytest

from bus import shipped
from bus.errors import PolicyError
from bus.fleet.mix import Mix, Sends, read_mix
from bus.policy import open_policy
from bus.protocol.topics import matches

FILE = shipped.folder("agents") / "mix.yaml"
WATCHERS = {"MONITOR", "TRACER", "LOGKEEPER"}
COUNT = 50_000


@pytest.fixture(scope="module")
def policy():
    return open_policy()


@pytest.fixture(scope="module")
def mix(policy) -> Mix:
    return read_mix(FILE.read_bytes(), file="mix.yaml", policy=policy)


@pytest.fixture(scope="module")
def sendings(mix):
    return list(islice(mix.schedule(rate=10_000, seed=7), COUNT))


def share(sendings, condition) -> float:
    return sum(map(condition, sendings)) / len(sendings)


# ---- what it holds ---------------------------------------------------------------------------------------------------------------


def test_everybody_of_the_fleet_takes_part(mix, policy):
    assert set(mix.agents) == set(policy.agents)
    assert len({agent for row in mix.sends for agent in row.agents}) > 70


def test_one_in_ten_is_a_request(sendings):
    assert share(sendings, lambda one: one.request) == pytest.approx(0.10, abs=0.01)


def test_one_in_twenty_is_kept(sendings, policy):
    assert share(sendings, lambda one: policy.topic_rule(one.topic).is_durable) == pytest.approx(0.05, abs=0.005)


def test_one_in_two_hundred_is_signed_by_the_identity_keys_of_command(sendings, policy):
    signed = [one for one in sendings if policy.topic_rule(one.topic).needs_identity]
    assert len(signed) / len(sendings) == pytest.approx(0.005, abs=0.0015)
    assert {one.agent for one in signed} == set(policy.members("command"))


def test_bodies_are_of_64_bytes_to_4_kib(sendings):
    sizes = [one.size for one in sendings]
    assert (min(sizes), max(sizes)) == (pytest.approx(64, abs=1), pytest.approx(4_096, abs=40))
    assert 128 < statistics.median(sizes) < 512


def readers_of(mix, topic) -> set[str]:
    """Who gets a message of this topic; a group takes it once."""
    return {row.group or row.agent for row in mix.listeners(topic)}


def test_the_median_message_has_three_readers_beside_the_watchers(mix, sendings):
    assert statistics.median(len(readers_of(mix, one.topic) - WATCHERS) for one in sendings[:5_000]) == 3


def test_the_watchers_listen_to_everything(mix):
    assert {row.agent for row in mix.hears if row.pattern == ">"} == WATCHERS


def test_every_topic_has_a_reader_beside_the_watchers(mix):
    topics = {topic for row in mix.sends for topic in row.topics}
    assert [topic for topic in topics if not readers_of(mix, topic) - WATCHERS] == []


def test_every_request_is_answered_by_somebody_and_nothing_else_is(mix):
    asked = {topic for row in mix.sends if row.request for topic in row.topics}
    answered = {row.pattern for row in mix.hears if row.answers}
    assert asked == answered


def test_what_is_kept_is_waited_for_under_a_name(mix, policy):
    kept = {topic for row in mix.sends for topic in row.topics if policy.topic_rule(topic).is_durable}
    assert all(any(row.durable and matches(row.pattern, topic) for row in mix.hears) for topic in kept)


# ---- the schedule ----------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_schedule_and_another_gives_another(mix):
    def first(seed):
        return list(islice(mix.schedule(rate=100, seed=seed), 200))

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_the_schedule_keeps_its_rate_and_only_goes_forward(sendings):
    times = [one.at for one in sendings]
    assert times == sorted(times)
    assert COUNT / times[-1] == pytest.approx(10_000, rel=0.03)


def test_agents_and_topics_of_a_row_take_turns(mix, sendings):
    row = next(row for row in mix.sends if "telemetry.load.queue" in row.topics)
    counts = Counter((one.agent, one.topic) for one in sendings if one.topic in row.topics)
    assert len(counts) == len(row.agents) * len(row.topics)
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_a_mix_without_senders_has_nothing_to_send(policy):
    assert list(Mix((), (), policy).schedule(rate=1, seed=1)) == []


# ---- mistakes --------------------------------------------------------------------------------------------------------------------

GOOD = """version: 1
sends:
  - {who: [command], topics: [tasks.load.a], share: 1000, bytes: [64B, 128B]}
hears:
  - {who: [MONITOR], topics: [tasks.load.>]}
"""


def problems(text, policy):
    with pytest.raises(PolicyError) as caught:
        read_mix(text, file="m", policy=policy)
    return [(problem.line, problem.column) for problem in caught.value.problems]


def test_a_small_mix(policy):
    mix = read_mix(GOOD, file="m", policy=policy)
    assert mix.sends == (Sends(policy.members("command"), ("tasks.load.a",), 1_000, 64, 128, request=False),)
    assert [(row.agent, row.pattern) for row in mix.hears] == [("MONITOR", "tasks.load.>")]


def test_agents_that_are_not_in_this_fleet_are_left_out():
    policy = open_policy("tutorial")
    text = GOOD.replace("[command]", "[LEAD, DIRECTOR]").replace("[MONITOR]", "[PAINTER]")
    assert read_mix(text, file="m", policy=policy).agents == ("LEAD", "PAINTER")


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (("[command]", "[comand]"), 3),
        (("[command]", "[language]"), 3),
        (("share: 1000", "share: 999"), 3),
        (("[64B, 128B]", "[128B, 64B]"), 3),
        (("[64B, 128B]", "[64B]"), 3),
        (("tasks.load.a", "telemetry.load.a"), 3),
        (("share: 1000", "shares: 1000"), 3),
        (("[MONITOR], topics: [tasks.load.>]", "[WEB], topics: [work.load.>]"), 5),
        (("topics: [tasks.load.>]", "topics: [tasks.load.>], group: builders"), 5),
        (("topics: [tasks.load.>]", "topics: [tasks.load.>], durable: x"), 5),
    ],
    ids=lambda value: value[1] if isinstance(value, tuple) else None,
)
def test_a_mistake_is_named_with_its_line(change, line, policy):
    text = GOOD.replace(*change)
    assert text != GOOD
    assert problems(text, policy)[0][0] == line


def test_yaml_that_cannot_be_read_is_a_mistake_too(policy):
    assert problems("version: 1\nsends: [", policy)
