"""Who may do what: against a naive reading of random policies, and the cases that have names."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from hypothesis import given

from bus.errors import NotPermittedError, PolicyError
from bus.policy import Policy, load
from bus.policy import policy as policy_module
from bus.policy.explain import explain
from bus.policy.model import DEFAULT_TOPIC_RULE, UidGrant
from bus.policy.policy import MAX_REMEMBERED
from bus.protocol.contexts import Purpose
from bus.protocol.names import MAX_TOPIC_BYTES

sys.path.insert(0, str(Path(__file__).parent))

from random_policies import ACTIONS, AGENTS, EVERY_SHAPE, WORLD, Plan, patterns, plans, stands_for

SMALL = """version: 1
agents: {LEAD: lead, WORKER: worker, GUEST: guest}
roles:
  lead:
    key: ecc384/sha3-384
    publish: [tasks.>, control.>]
    subscribe: [">"]
    deny: {subscribe: [secret.>]}
    groups: [all, {group: some, topics: [tasks.>]}]
  worker:
    key: ecc256/sha256
    publish: [results.*]
    subscribe: [tasks.*]
  guest:
    key: ecc256/sha256
topics:
  - {match: control.>, signed_by: identity}
  - {match: results.>, class: durable, retention: 1d, dead_readers: [LEAD, guest]}
  - {match: ">", priority: bulk}
"""


@pytest.fixture
def small() -> Policy:
    return load({"small.yaml": SMALL})


@given(plans())
def test_decisions_agree_with_a_naive_reading(plan: Plan):
    policy = load({"p.yaml": plan.text()})
    for agent in (*AGENTS, "Z"):
        for action in ACTIONS:
            for topic in WORLD:
                cold, warm = policy.decide(agent, action, topic), policy.decide(agent, action, topic)
                assert cold.allowed is warm.allowed is plan.may(agent, action, topic)


@given(plans())
def test_the_audience_is_everybody_who_may_hear(plan: Plan):
    policy = load({"p.yaml": plan.text()})
    for topic in WORLD:
        expected = tuple(sorted(name for name in plan.agents if plan.may(name, "subscribe", topic)))
        assert policy.audience(topic) == expected
        assert all(policy.may_hear(name, topic) is (name in expected) for name in plan.agents)


@given(plans())
def test_the_most_specific_topic_rule_is_for_a_topic(plan: Plan):
    policy = load({"p.yaml": plan.text()})
    for topic in WORLD:
        expected = plan.rule(topic)
        found = policy.topic_rule(topic)
        assert (found.match.text if found.place.line else None) == expected
        assert found.signed_by == ("session" if expected is None else plan.rules[expected].get("signed_by", "session"))


@given(plans(), patterns())
def test_a_subscription_stands_if_all_of_it_is_covered_and_not_all_denied(plan: Plan, pattern: str):
    policy = load({"p.yaml": plan.text()})
    mine = [topic for topic in EVERY_SHAPE if stands_for(pattern, topic)]
    for agent, role in plan.agents.items():
        covered = all(any(stands_for(own, topic) for own in plan.allow[role, "subscribe"]) for topic in mine)
        all_denied = all(any(stands_for(own, topic) for own in plan.deny[role, "subscribe"]) for topic in mine)
        assert policy.decide(agent, "subscribe", pattern).allowed is (covered and not all_denied)


def test_an_empty_policy_refuses_everything():
    decision = Policy().decide("DIRECTOR", "publish", "tasks.build")
    assert (decision.allowed, decision.role, decision.suite) == (False, None, None)
    assert Policy().audience("tasks.build") == ()


def test_a_decision_names_rule_file_line_suite_and_signer(small):
    decision = small.decide("LEAD", "publish", "control.stop")
    assert (decision.allowed, decision.file, decision.line) == (True, "small.yaml", 6)
    assert (decision.suite.name, decision.signed_by, decision.topic_rule.match.text) == ("ecc384/sha3-384", "identity", "control.>")
    assert decision.rule == "publish: control.>"


def test_deny_wins_and_is_named(small):
    decision = small.decide("LEAD", "subscribe", "secret.plan")
    assert (decision.allowed, decision.line, decision.rule) == (False, 8, "deny.subscribe: secret.>")


def test_what_nothing_allows_is_refused_at_the_role(small):
    decision = small.decide("GUEST", "publish", "tasks.build")
    assert (decision.allowed, decision.line) == (False, 14)


@pytest.mark.parametrize(
    ("pattern", "allowed"),
    [
        (">", True),  # secret.> is taken away topic by topic
        ("tasks.>", True),
        ("secret.>", False),
        ("secret.*", False),
        ("*.plan", True),
    ],
)
def test_a_denial_inside_a_subscription_takes_only_its_part_away(small, pattern, allowed):
    assert small.decide("LEAD", "subscribe", pattern).allowed is allowed
    assert not small.may_hear("LEAD", "secret.plan")


@pytest.mark.parametrize(
    ("pattern", "allowed"), [("tasks.*", True), ("tasks.build", True), ("tasks.>", False), ("*.build", False), (">", False)]
)
def test_a_subscription_must_be_covered(small, pattern, allowed):
    assert small.decide("WORKER", "subscribe", pattern).allowed is allowed


def test_patterns_together_can_cover_a_subscription():
    policy = load({"p": "version: 1\nagents: {A: x}\nroles: {x: {key: ecc256/sha256, subscribe: [a.*, a.*.>]}}\n"})
    assert policy.decide("A", "subscribe", "a.>").allowed
    assert not policy.decide("A", "subscribe", ">").allowed


@pytest.mark.parametrize(
    "topic",
    [
        "",
        ".",
        "a..b",
        "_reply.LEAD.00",
        "tasks._x",
        "tasks.*",
        ">",
        "tasks.bäu",
        "tasks.\ud800",
        "a b",
        "x" * 10_000_000,
        "." * 10_000_000,
        ".".join("a" * 17),
    ],
)
def test_what_is_no_topic_is_refused_and_not_remembered(small, topic):
    for agent in ("LEAD", "NOBODY"):
        decision = small.decide(agent, "publish", topic)
        assert not decision.allowed
        assert len(decision.rule) < 300
    assert not small._decisions
    assert small.audience(topic) == ()


def test_a_topic_of_the_longest_is_one_and_a_longer_one_is_none(small):
    longest = ".".join(["tasks", *["x" * 64] * 7, "x" * 51])
    assert len(longest) == MAX_TOPIC_BYTES
    assert small.decide("LEAD", "publish", longest).allowed
    assert not small.decide("LEAD", "publish", f"{longest}x").allowed


@pytest.mark.parametrize("pattern", ["_reply.>", "tasks.>.x", "a*", "\ud800.>"])
def test_what_is_no_pattern_is_refused(small, pattern):
    assert not small.decide("LEAD", "subscribe", pattern).allowed


def test_nobody_hears_reserved_topics_through_a_wildcard(small):
    """Whoever may hear `>` must not become a reader of other agents' replies."""
    assert not small.may_hear("LEAD", "_reply.WORKER.00")
    assert small.audience("_reply.WORKER.00") == ()


def test_no_rule_of_a_policy_is_for_reserved_topics(small):
    """Nor for what is no topic: what it says of `>` is for topics of applications."""
    assert small.topic_rule("other").priority == "bulk"
    for topic in ("_reply.WORKER.00", "a..b", "x" * 600):
        assert small.topic_rule(topic) is DEFAULT_TOPIC_RULE


def test_something_else_than_publish_and_subscribe_is_misuse(small):
    with pytest.raises(ValueError, match="publish or subscribe"):
        small.decide("LEAD", "delete", "tasks.build")


def test_readers_of_dead_letters_are_in_the_audience_but_may_not_subscribe(small):
    assert small.audience("results.build") == ("GUEST", "LEAD")
    assert not small.may_hear("GUEST", "results.build")


def test_two_topics_with_the_same_readers_have_their_own_readers_of_dead_letters(small):
    """Whichever of them somebody asks about first."""
    assert (small.audience("plans.a"), small.audience("results.a")) == (("LEAD",), ("GUEST", "LEAD"))
    again = load({"small.yaml": SMALL})
    assert (again.audience("results.a"), again.audience("plans.a")) == (("GUEST", "LEAD"), ("LEAD",))


def test_topics_without_a_rule_get_the_built_in_one():
    rule = Policy().topic_rule("anything.at.all")
    assert (rule.class_, rule.signed_by, rule.unit, rule.ttl_ms, rule.priority) == ("live", "session", "envelope", 60_000, "normal")


def test_a_role_is_what_its_words_say():
    words = """{key: rsa3072/sha3-384, publish: [a], subscribe: [b], deny: {publish: [c], subscribe: [d]}, may: [revoke],
                uids: [1, {uid: 2, purposes: [session, inbox]}], key_origin: hardware, session: 5m, inbox: hybrid, pcrs: [0, 7]}"""
    role = load({"p.yaml": f"version: 1\nroles:\n  one: {words}\n"}).roles["one"]
    assert role.suite.name == "rsa3072/sha3-384"
    patterns = (role.publish, role.subscribe, role.deny_publish, role.deny_subscribe)
    assert [[str(pattern) for pattern in found] for found in patterns] == [["a"], ["b"], ["c"], ["d"]]
    assert role.uids == (UidGrant(1, frozenset(Purpose)), UidGrant(2, frozenset({Purpose.SESSION, Purpose.INBOX})))
    assert (role.may, role.key_origin, role.session_ms, role.inbox) == ({"revoke"}, "hardware", 300_000, "hybrid")
    assert (role.environment, role.pcrs) == ("forbid", (0, 7))


def test_a_durable_topic_lives_as_long_as_its_retention(small):
    rule = small.topic_rule("results.build")
    assert (rule.is_durable, rule.ttl_ms, rule.retention_ms, rule.unit, rule.max_deliver) == (
        True,
        86_400_000,
        86_400_000,
        "record",
        5,
    )


def test_an_unknown_agent_gets_help(small):
    assert small.role_of("LEAD").name == "lead"
    with pytest.raises(NotPermittedError) as caught:
        small.role_of("LAED")
    assert caught.value.agent == "LAED"
    assert "'LEAD'" in caught.value.rule
    with pytest.raises(NotPermittedError):
        small.role_of("x" * 10_000)


def test_a_role_for_everybody_else():
    agents = 'version: 1\nagents: {"*": any, BOSS: boss}\n'
    policy = load({"p": agents + "roles: {any: {key: ecc256/sha256, publish: [a]}, boss: {key: ecc256/sha256}}\n"})
    assert policy.role_of("WHOEVER").name == "any"
    assert policy.decide("WHOEVER", "publish", "a").allowed
    assert not policy.decide("BOSS", "publish", "a").allowed
    assert not policy.decide("lower", "publish", "a").allowed
    assert dict(policy.agents) == {"BOSS": "boss"}


@pytest.mark.parametrize(
    ("deny", "allowed"), [("[a.*]", True), ("[a.*.>]", True), ("[a.*, a.*.>]", False), ("[a.b, a.c.>]", True), ("[a.>]", False)]
)
def test_denials_that_together_leave_nothing_refuse_a_subscription(deny, allowed):
    text = f"version: 1\nagents: {{A: x}}\nroles: {{x: {{key: ecc256/sha256, subscribe: [a.>], deny: {{subscribe: {deny}}}}}}}\n"
    assert load({"p": text}).decide("A", "subscribe", "a.>").allowed is allowed


def test_groups_are_for_the_subscriptions_they_name(small):
    role = small.role_of("LEAD")
    assert role.may_join("all", ">")
    assert role.may_join("some", "tasks.build")
    assert not role.may_join("some", "results.>")
    assert not role.may_join("other", "tasks.build")
    assert not small.role_of("GUEST").may_join("all", ">")


def test_groups_are_named_where_somebody_subscribes(small):
    assert [grant.group for grant in explain(small, "LEAD", "subscribe", "tasks.>").groups] == ["all", "some"]
    assert [grant.group for grant in explain(small, "LEAD", "subscribe", ">").groups] == ["all"]
    for action, topic in (("publish", "tasks.a"), ("subscribe", "secret.a")):
        assert explain(small, "LEAD", action, topic).groups == ()


def test_agents_can_be_added_to_roles(small):
    more = small.with_agents({"BILLING": "worker", "LEAD": "lead"})
    assert more.decide("BILLING", "publish", "results.x").allowed
    assert "BILLING" in more.audience("tasks.x")
    assert "BILLING" not in small.agents
    for wrong in ({"billing": "worker"}, {"BILLING": "wroker"}, {"LEAD": "worker"}):
        with pytest.raises(PolicyError):
            small.with_agents(wrong)


def test_what_is_remembered_is_bounded(small):
    for number in range(MAX_REMEMBERED + 10):
        small.decide("LEAD", "publish", f"tasks.t{number}")
    assert len(small._decisions) <= MAX_REMEMBERED
    assert small.decide("LEAD", "publish", "tasks.t1").allowed


def test_what_is_remembered_of_audiences_is_bounded(small, monkeypatch):
    monkeypatch.setattr(policy_module, "MAX_REMEMBERED", 2)
    topics = ["tasks.a", "plans.a", "results.a", "secret.a"]
    expected = [("LEAD", "WORKER"), ("LEAD",), ("GUEST", "LEAD"), ()]
    for _ in range(2):
        assert [small.audience(topic) for topic in topics] == expected
        assert len(small._audiences) <= 2


def test_a_policy_cannot_be_changed(small):
    with pytest.raises(AttributeError):
        small.domain = "other"
    with pytest.raises(TypeError):
        small.agents["EVE"] = "lead"


def test_ten_thousand_agents_cost_no_more_steps_than_ten():
    """Counted, not timed: a cold decision asks the tries of one role, a warm one asks none."""
    agents = "".join(f"  A{number}: x\n" for number in range(10_000))
    rules = "".join(f"  - {{match: t{number}.>}}\n" for number in range(1_000))
    policy = load(
        {
            "p": f"version: 1\nroles: {{x: {{key: ecc256/sha256, publish: [t1.>]}}}}\nagents:\n{agents}",
            "q": f"version: 1\ntopics:\n{rules}",
        }
    )
    assert policy.decide("A9999", "publish", "t1.a") is policy.decide("A0", "publish", "t1.a")
