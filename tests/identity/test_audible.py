"""Whom a host may hear, counted: too few would shut somebody out."""

from __future__ import annotations

import pytest

from bus.identity.epochs.audible import audible
from bus.policy import load

POLICY = """
version: 1
agents: {ASKER: asks, ONE: answers, TWO: answers, DEAF: quiet, DEAD: quiet, EAR: audits, LOUD: says}
roles:
  asks: {key: ecc256/sha256, publish: [ask.>], subscribe: [news.>]}
  answers: {key: ecc256/sha256, subscribe: ["ask.*"]}
  quiet: {key: ecc256/sha256, publish: [void.x]}
  audits: {key: ecc256/sha256, subscribe: [other]}
  says: {key: ecc256/sha256, publish: [news.today, work.x]}
topics:
  - {match: work.>, class: durable, retention: 1d, dead_readers: [DEAD]}
audit_readers: [EAR]
"""


@pytest.mark.parametrize(
    ("own", "found"),
    [
        ([], 0),
        (["ASKER"], 3),  # what LOUD says, and what ONE and TWO answer
        (["ONE"], 1),
        (["ONE", "TWO"], 1),
        (["ASKER", "ONE"], 4),
        (["DEAF"], 0),
        (["DEAD"], 1),
        (["EAR"], 7),
        (["DEAF", "EAR"], 7),
        (["NOBODY"], 0),
    ],
)
def test_who_says_what_they_hear_answers_what_they_ask_or_is_audited(own, found):
    assert audible(load({"p.yaml": POLICY}), own) == found
