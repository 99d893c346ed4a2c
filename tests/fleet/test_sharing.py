"""Which agents share a process: nobody is left out, work is even, and an envelope is opened in as few processes as can be."""

from __future__ import annotations

import pytest

from bus import shipped
from bus.fleet.mix import Mix, read_mix
from bus.fleet.sharing import SAYING, share_out
from bus.policy import open_policy

FILE = shipped.folder("agents") / "mix.yaml"
WATCHERS = {"MONITOR", "TRACER", "LOGKEEPER", "ALERTER", "SCHEDULER", "CACHEKEEPER"}


@pytest.fixture(scope="module")
def mix() -> Mix:
    return read_mix(FILE.read_bytes(), file="mix.yaml", policy=open_policy())


def rows(mix):
    """Sender, topic, and how many of a thousand messages."""
    return [
        (agent, topic, row.share / len(row.agents) / len(row.topics))
        for row in mix.sends
        for agent in row.agents
        for topic in row.topics
    ]


def openings(mix, shares) -> float:
    """Of a thousand messages, how often one is opened: once in each process in which somebody hears it."""
    place = {name: number for number, names in enumerate(shares) for name in names}
    opened = {topic: len({place[one.agent] for one in mix.listeners(topic)}) for _, topic, _ in rows(mix)}
    return sum(part * opened[topic] for _, topic, part in rows(mix))


def work(mix, names) -> float:
    """What the agents of one process say, and the copies that they hear."""
    found = 0.0
    for agent, topic, part in rows(mix):
        listeners = mix.listeners(topic)
        found += SAYING * part * (agent in names)
        for one in listeners:
            members = 1 if one.group is None else sum(other.group == one.group for other in listeners)
            found += part * (one.agent in names) / members
    return found


@pytest.mark.parametrize("processes", [1, 2, 3, 4, 10, 76])
def test_everybody_has_a_process_and_no_process_is_empty(processes, mix):
    shares = share_out(mix.agents, processes, mix)
    assert sorted(name for names in shares for name in names) == sorted(mix.agents)
    assert len(shares) == processes
    assert all(shares)


def test_where_there_are_more_processes_than_agents_some_have_nobody(mix):
    shares = share_out(["MONITOR", "C"], 4, mix)
    assert sorted(map(len, shares)) == [0, 0, 1, 1]


@pytest.mark.parametrize("processes", [2, 3, 4])
def test_each_process_has_as_much_to_do_as_the_others(processes, mix):
    shares = share_out(mix.agents, processes, mix)
    even = work(mix, set(mix.agents)) / processes
    assert [work(mix, set(names)) / even for names in shares] == pytest.approx([1.0] * processes, abs=0.12)


def test_who_listens_to_nearly_everything_shares_a_process_and_the_others_open_little(mix):
    first, second = share_out(mix.agents, 2, mix)
    assert set(first) >= WATCHERS
    assert openings(mix, [first, second]) < 0.75 * openings(mix, share_out(mix.agents, 2))


def test_agents_that_a_mix_does_not_know_have_a_place_too(mix):
    shares = share_out([*mix.agents, "GUEST"], 2, mix)
    assert sum(names.count("GUEST") for names in shares) == 1


def test_without_a_mix_roles_are_spread_and_each_process_has_as_many():
    assert share_out(["A", "B", "C", "D", "E"], 2) == [["A", "C", "E"], ["B", "D"]]
