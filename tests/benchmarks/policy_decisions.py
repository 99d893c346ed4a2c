"""What a decision costs: with the fleet's policy, and with 10,000 agents and 1,000 rules.

python tests/benchmarks/policy_decisions.py
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator

from targets import Row, show

from bus.policy import Policy, load, open_policy
from bus.policy.loader import lint

AGENTS, ROLES, RULES = 10_000, 20, 1_000
LOOPS = 20_000
ROUNDS = 7


def large() -> dict[str, str]:
    """A policy of which every role has a hundred patterns, and every second rule is critical."""
    roles = ["version: 1", "roles:"]
    for role in range(ROLES):
        patterns = ", ".join(f"area{role}.part{number}.>" for number in range(100))
        roles += [f"  r{role}:", "    key: ecc256/sha3-256", f"    publish: [{patterns}]", f"    subscribe: [{patterns}, news.>]"]
        roles += [f"    deny: {{publish: [area{role}.*.secret.>], subscribe: [news.r{(role + 1) % ROLES}.>]}}"]
    rules = [
        f"  - {{match: area{rule % ROLES}.part{rule // ROLES}.>, signed_by: {('session', 'identity')[rule % 2]}}}"
        for rule in range(RULES)
    ]
    agents = [f"  A{number}: r{number % ROLES}" for number in range(AGENTS)]
    return {
        "roles.yaml": "\n".join(roles),
        "topics.yaml": "\n".join(["version: 1", "topics:", *rules]),
        "agents.yaml": "\n".join(["version: 1", "agents:", *agents]),
    }


def questions(policy: Policy, topics: list[str], *, agents: int | None) -> Iterator[tuple[str, str]]:
    """Agents (the first so many, or all) and topics as traffic mixes them."""
    dice = random.Random(1)
    asking = sorted(policy.agents)[:agents]
    return ((dice.choice(asking), dice.choice(topics)) for _ in range(LOOPS))


def median_us(ask: Callable[[str, str], object], asked: list[tuple[str, str]]) -> float:
    """The median of several rounds, less what an empty loop costs."""

    def once(function: Callable[[str, str], object]) -> float:
        begun = time.perf_counter()
        for agent, topic in asked:
            function(agent, topic)
        return (time.perf_counter() - begun) / len(asked) * 1e6

    loop = statistics.median(once(lambda _agent, _topic: None) for _ in range(ROUNDS))
    return statistics.median(once(ask) for _ in range(ROUNDS)) - loop


def warm(policy: Policy, topics: list[str], *, agents: int | None = None) -> float:
    return median_us(lambda agent, topic: policy.decide(agent, "publish", topic), list(questions(policy, topics, agents=agents)))


def cold(policy: Policy, topics: list[str]) -> float:
    def ask(agent: str, topic: str) -> None:
        policy._decisions.clear()
        policy.decide(agent, "publish", topic)

    return median_us(ask, list(questions(policy, topics, agents=None))[:2_000])


def main() -> None:
    fleet = open_policy()
    texts = large()
    begun = time.perf_counter()
    policy = load(texts)
    loading = time.perf_counter() - begun
    assert not lint(texts).warnings
    few = ["tasks.build", "control.stop", "work.build.linux", "nothing.here", "telemetry.cpu"]
    many = [f"area{role}.part{part}.{word}.x" for role in range(ROLES) for part in range(10) for word in ("a", "secret")]
    small, same = warm(fleet, few), warm(policy, many[:5], agents=len(fleet.agents))
    audience = median_us(
        lambda _agent, topic: policy.audience(topic), [("", f"news.r{number % ROLES}.x") for number in range(2_000)]
    )
    show(
        f"Decisions: {len(fleet.agents)} agents and {len(fleet.topics)} rules; {AGENTS:,} agents and {RULES:,} rules",
        [
            Row("warm, 76 agents", small, "us", 2),
            Row("warm, large policy, 76 of its agents asking", same, "us", 2),
            Row("the second over the first: flat", same / small, "x", 1.25),
            Row("warm, large policy, all agents and 400 topics", warm(policy, many), "us", 2),
            Row("cold, 76 agents", cold(fleet, few), "us", 50),
            Row("cold, large policy", cold(policy, many), "us", 50),
            Row("warm audience of 9,500 names", audience, "us", 50),
            Row("loading 10,000 agents and 1,000 rules", loading, "s", 3),
        ],
    )


if __name__ == "__main__":
    main()
