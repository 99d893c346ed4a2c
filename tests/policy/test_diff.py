"""Differences are about what is allowed: held against a naive count of every topic of a small world."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus.policy import load
from bus.policy.diff import diff

sys.path.insert(0, str(Path(__file__).parent))

from random_policies import ACTIONS, AGENTS, EVERY_SHAPE, ROLES, Plan, plans, stands_for

OLD = """version: 1
agents: {A: x, B: x, C: y, GONE: y}
roles:
  x: {key: ecc256/sha256, publish: [a.>], subscribe: [">"], deny: {publish: [a.*]}, may: [revoke]}
  y: {key: ecc256/sha256}
topics:
  - {match: a.>, priority: high}
  - {match: a.b}
rollout: {tpm_percent: 30}
"""


USERS = ("{uid: 7, purposes: [session]}", "{uid: 7, purposes: [session, envelope]}")


def changed(*pairs: tuple[str, str]) -> str:
    text = OLD
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after)
    return text


def between(old: str, new: str):
    return diff(load({"p": old}), load({"p": new}))


def test_a_policy_does_not_differ_from_itself():
    assert not between(OLD, OLD)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('subscribe: [">"]', 'subscribe: ["*", "*.>"]'),
        ('subscribe: [">"]', 'subscribe: [">", a.b]'),
        ("publish: [a.>], ", "publish: [a.*.>], "),
        ("  - {match: a.b}\n", "  - {match: a.b}\n  - {match: a.b.c, priority: high}\n"),
    ],
)
def test_the_same_said_otherwise_is_no_difference(before, after):
    assert not between(OLD, changed((before, after)))


def test_identical_agents_are_one_group():
    (role,) = between(OLD, changed(("publish: [a.>]", "publish: [a.>, b.c]"))).roles
    assert role.agents == ("A", "B")
    assert (dict(role.gains), dict(role.loses), dict(role.changes)) == ({"publish": ("b.c",)}, {}, {})


def test_a_denial_that_goes_is_a_gain_of_just_that():
    (role,) = between(OLD, changed(("publish: [a.*]", "publish: [a.b]"))).roles
    assert dict(role.gains) == {"publish": ("a.* except a.b",)}


def test_a_loss_names_what_stays():
    (role,) = between(OLD, changed(('subscribe: [">"]', "subscribe: [a.b]"))).roles
    assert dict(role.loses) == {"subscribe": ("> except a.b",)}


def test_a_loss_within_what_stays_is_named_too():
    """Of `>` everything but `a.>` is lost, and of that `a.a`."""
    rights = "version: 1\nagents: {{A: x}}\nroles: {{x: {{key: ecc256/sha256, {}}}}}\n"
    new = rights.format("publish: [a.>], deny: {publish: [a.a]}")
    (role,) = between(rights.format('publish: [">"]'), new).roles
    assert dict(role.loses) == {"publish": ("> except a.>", "a.a")}
    (role,) = between(new, rights.format('publish: [">"]')).roles
    assert dict(role.gains) == {"publish": (">",)}


def test_agents_that_come_go_and_move():
    result = between(OLD, changed(("{A: x, B: x, C: y, GONE: y}", "{A: x, B: y, C: y, NEW: x}")))
    assert (dict(result.added), dict(result.removed)) == ({"NEW": "x"}, {"GONE": "y"})
    (role,) = result.roles
    assert (role.agents, role.before, role.after) == (("B",), "x", "y")
    assert dict(role.loses) == {"publish": ("a.>",), "subscribe": (">",), "may": ("revoke",)}


GUESTS = """version: 1
agents: {EVIL: quiet, "*": guest}
roles:
  quiet: {key: ecc256/sha256, subscribe: [news]}
  guest: {key: ecc256/sha256, publish: [chat.>], may: [revoke]}
"""
GUESTS_ALONE = GUESTS.replace("EVIL: quiet, ", "")


def test_a_name_that_is_no_longer_listed_gets_what_all_others_have():
    result = between(GUESTS, GUESTS_ALONE)
    assert dict(result.removed) == {"EVIL": "quiet"}
    (role,) = result.roles
    assert (role.agents, role.before, role.after) == (("EVIL",), "quiet", "guest")
    assert (dict(role.gains), dict(role.loses)) == ({"publish": ("chat.>",), "may": ("revoke",)}, {"subscribe": ("news",)})


def test_a_name_that_is_listed_now_loses_what_all_others_have():
    result = between(GUESTS_ALONE, GUESTS)
    assert dict(result.added) == {"EVIL": "quiet"}
    (role,) = result.roles
    assert (role.agents, role.before, role.after) == (("EVIL",), "guest", "quiet")
    assert (dict(role.gains), dict(role.loses)) == ({"subscribe": ("news",)}, {"publish": ("chat.>",), "may": ("revoke",)})


def test_a_name_that_moves_between_the_list_and_the_star_of_one_role_changes_nothing_else():
    result = between(GUESTS.replace("EVIL: quiet", "EVIL: guest"), GUESTS_ALONE)
    assert (dict(result.removed), result.roles) == ({"EVIL": "guest"}, ())


def test_keys_groups_uids_and_settings():
    new = changed(
        ("x: {key: ecc256/sha256,", "x: {key: ecc384/sha3-256, session: 5m, groups: [g, {group: h, topics: [a.>]}], uids: [7],"),
        ("tpm_percent: 30", "tpm_percent: 60"),
    )
    result = between(OLD, new)
    (role,) = result.roles
    assert set(role.changes) == {"key", "session"}
    assert role.gains["groups"] == ("g", "h on a.>")
    assert role.gains["uids"][0].startswith("7 for ")
    assert set(result.settings) == {"rollout"}


@pytest.mark.parametrize(
    ("word", "value"),
    [("key_origin", "hardware"), ("session", "5m"), ("inbox", "hybrid"), ("pcrs", "[0, 7]"), ("key", "ecc384/sha3-384")],
)
def test_a_role_says_what_changes_of_its_keys(word, value):
    words = value if word == "key" else f"ecc256/sha256, {word}: {value}"
    (role,) = between(OLD, changed(("y: {key: ecc256/sha256}", f"y: {{key: {words}}}"))).roles
    assert (role.before, role.after, set(role.changes)) == ("y", "y", {word})


def test_whether_the_environment_counts_is_a_change():
    words = "y: {key: ecc256/sha256, key_origin: software, environment: %s}"
    old, new = (changed(("y: {key: ecc256/sha256}", words % word)) for word in ("forbid", "allow"))
    (role,) = between(old, new).roles
    assert dict(role.changes) == {"environment": ("forbid", "allow")}


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("domain: fleet.example", "domain"),
        ("trust: {max_age: 10m}", "trust_max_age_ms"),
        ("tpm: {handle: 0x81000002}", "primary_handle"),
        ("audit_readers: [x]", "audit_readers"),
    ],
)
def test_settings_say_what_changes(line, name):
    result = between(OLD, f"{OLD}{line}\n")
    assert (set(result.settings), result.roles, result.topics) == ({name}, (), ())


def test_a_user_who_may_sign_for_more_is_a_gain():
    old, new = (changed(("y: {key: ecc256/sha256}", f"y: {{key: ecc256/sha256, uids: [{uid}]}}")) for uid in USERS)
    (role,) = between(old, new).roles
    assert role.gains["uids"] == ("7 for envelope, session",)
    assert role.loses["uids"] == ("7 for session",)


def test_topics_say_what_changes_and_for_whom():
    (topic,) = between(OLD, changed(("  - {match: a.b}\n", "  - {match: a.b, signed_by: session, ttl: 5s}\n"))).topics
    assert (topic.match, dict(topic.changes), topic.roles) == ("a.b", {"ttl_ms": (60_000, 5_000)}, ("x",))


def test_whoever_may_use_only_a_part_of_the_topics_is_concerned():
    """The rule for `a.>` changes, and y hears nothing of it but `a.c`."""
    hears = ("y: {key: ecc256/sha256}", "y: {key: ecc256/sha256, subscribe: [a.c]}")
    (topic,) = between(changed(hears), changed(hears, ("a.>, priority: high", "a.>, priority: bulk"))).topics
    assert (topic.match, topic.roles) == ("a.>", ("x", "y"))


def test_a_rule_that_goes_shows_what_takes_over():
    (topic,) = between(OLD, changed(("  - {match: a.b}\n", ""))).topics
    assert (topic.match, topic.changes["priority"]) == ("a.b", ("normal", "high"))


def test_a_rule_under_a_more_specific_one_is_not_blamed():
    new = changed(("priority: high}\n", "priority: high}\n  - {match: a.*, priority: bulk}\n"))
    assert [topic.match for topic in between(OLD, new).topics] == ["a.*"]


@given(plans(), plans())
def test_gains_and_losses_are_those_of_a_naive_count(old: Plan, new: Plan):
    new.agents = dict(old.agents)  # the same people, other rights
    result = between(old.text(), new.text())
    told = {agent: role for role in result.roles for agent in role.agents}
    for agent in old.agents:
        for action in ACTIONS:
            gained = {topic for topic in EVERY_SHAPE if new.may(agent, action, topic) and not old.may(agent, action, topic)}
            lost = {topic for topic in EVERY_SHAPE if old.may(agent, action, topic) and not new.may(agent, action, topic)}
            role = told.get(agent)
            said = (role.gains.get(action, ()), role.loses.get(action, ())) if role else ((), ())
            for topics, patterns in zip((gained, lost), said, strict=True):
                parts = [
                    (outer, inner.split(", ") if inner else [])
                    for outer, _, inner in (text.partition(" except ") for text in patterns)
                ]
                assert {topic for topic in topics if any(covers_it(part, topic) for part in parts)} == topics
                assert all(any(covers_it(part, topic) for topic in topics) for part in parts)


@given(plans(), plans(), st.sampled_from((None, *ROLES)), st.sampled_from((None, *ROLES)))
def test_nobody_gains_or_loses_unsaid(old: Plan, new: Plan, old_others: str | None, new_others: str | None):
    """Listed before, after, both times or never: whose rights change is named, or is one of the others and these are."""
    for plan, others in ((old, old_others), (new, new_others)):
        plan.agents |= {} if others is None else {"*": others}
    result = between(old.text(), new.text())
    moved = {agent for role in result.roles if role.gains or role.loses for agent in role.agents}
    for agent in (*AGENTS, "NOBODY"):
        rights = [
            {(action, topic) for action in ACTIONS for topic in EVERY_SHAPE if plan.may(agent, action, topic)}
            for plan in (old, new)
        ]
        named = agent if agent in {*old.agents, *new.agents} else "*"
        assert (rights[0] != rights[1]) <= (named in {*moved, *result.added, *result.removed})
        if old_others is not None and new_others is not None:
            assert (rights[0] != rights[1]) is (named in moved)


def covers_it(part: tuple[str, list[str]], topic: str) -> bool:
    outer, excepted = part
    return stands_for(outer, topic) and not any(stands_for(one, topic) for one in excepted)


@given(plans(), plans())
def test_topics_that_change_are_those_of_a_naive_count(old: Plan, new: Plan):
    before, after = load({"p": old.text()}), load({"p": new.text()})

    def words(policy, topic):
        rule = policy.topic_rule(topic)
        return (rule.signed_by, rule.priority)

    moved = {topic for topic in EVERY_SHAPE if words(before, topic) != words(after, topic)}
    told = [topic.match for topic in diff(before, after).topics]
    assert bool(moved) is bool(told)
    assert all(any(stands_for(match, topic) for match in told) for topic in moved)
    assert all(any(stands_for(match, topic) for topic in moved) for match in told)
