"""Retention classes are policy's rules for durable topics, and a durable pattern lies within one."""

from __future__ import annotations

import random

import pytest

from bus.backbone.classes import LIVE, class_name, class_within, retention_classes
from bus.backbone.interface import RetentionClass
from bus.errors import BackboneError
from bus.policy import load
from bus.protocol.topics import matches

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
RULES = """version: 1
agents: {LEAD: lead}
roles: {lead: {key: ecc384/sha3-384, publish: [">"], subscribe: [">"]}}
topics:
  - {match: work.>, class: durable, retention: 7d, ack_wait: 5m, max_deliver: 3}
  - {match: work.urgent.>, class: durable, retention: 1h}
  - {match: work.*.note, class: live}
  - {match: records.>, class: durable, retention: 30d}
  - {match: "*.all", class: durable, retention: 2d}
  - {match: tasks.>, class: live}
"""
POLICY = load({"policy.yaml": RULES})


def test_each_rule_for_durable_topics_is_a_class():
    assert retention_classes(POLICY) == [
        RetentionClass("work.>", 7 * DAY_MS, 5 * 60_000, 3),
        RetentionClass("work.urgent.>", HOUR_MS, 30_000, 5),
        RetentionClass("records.>", 30 * DAY_MS, 30_000, 5),
        RetentionClass("*.all", 2 * DAY_MS, 30_000, 5),
    ]


@pytest.mark.parametrize(
    ("pattern", "class_"),
    [
        ("records.>", "records.>"),
        ("records.a.>", "records.>"),
        ("records.all", "records.>"),
        ("work.urgent.>", "work.urgent.>"),
        ("work.urgent.note", "work.urgent.>"),
        ("work.*", "work.>"),
        ("work.a.b.*", "work.>"),
        ("plans.all", "*.all"),
        (f"records.{'.'.join(['x' * 64] * 7)}.{'x' * 40}.>", "records.>"),  # some of its topics would be longer than one may be
        ("_dead.records.a", "records.>"),
        ("_dead.work.a.b.>", "work.>"),
    ],
)
def test_a_pattern_within_one_class_has_it(pattern, class_):
    assert class_within(POLICY, pattern) == class_


@pytest.mark.parametrize(
    ("pattern", "code", "classes"),
    [
        ("work.*.a", "several_classes", {"work.>", "work.urgent.>"}),
        ("_dead.work.*.a", "several_classes", {"work.>", "work.urgent.>"}),
        ("work.>", "not_durable", {LIVE, "work.>", "work.urgent.>"}),
        ("work.*.*", "not_durable", {LIVE, "work.>", "work.urgent.>"}),
        ("tasks.a", "not_durable", {LIVE}),
        ("tasks.*", "not_durable", {LIVE}),
        ("*.all", "not_durable", {"*.all", LIVE, "records.>", "work.>"}),
        (">", "not_durable", {"*.all", LIVE, "records.>", "work.>", "work.urgent.>"}),
    ],
)
def test_a_pattern_of_several_classes_or_with_live_topics_is_refused_with_their_names(pattern, code, classes):
    with pytest.raises(BackboneError) as refused:
        class_within(POLICY, pattern)
    assert (refused.value.code, set(refused.value.classes)) == (code, classes)


TOKENS = ["work", "urgent", "note", "records", "all", "tasks", "x", "y"]


def test_it_agrees_with_every_topic_that_one_can_think_of():
    dice = random.Random(11)
    topics = [".".join(dice.choice(TOKENS) for _ in range(length)) for length in (1, 2, 2, 3, 3, 3, 4) for _ in range(300)]
    for _ in range(300):
        tokens = [dice.choice([*TOKENS, "*"]) for _ in range(dice.randrange(1, 4))]
        pattern = ".".join(tokens + [">"] * dice.randrange(2))
        rules = [POLICY.topic_rule(topic) for topic in topics if matches(pattern, topic)]
        seen = {class_name(rule) if rule.is_durable else LIVE for rule in rules}
        try:
            found = {class_within(POLICY, pattern)}
        except BackboneError as refused:
            found = set(refused.classes)
        assert seen <= found, pattern
