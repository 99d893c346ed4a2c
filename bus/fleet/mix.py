"""The reference traffic: a file and a seed -> who sends what, when, and who listens.

Nothing here has a clock or a connection: the same file, policy, rate and seed give the same schedule anywhere, so that two
measurements are of the same thing. A mix is held against the policy when it is read; what it asks for and policy forbids is a
mistake in the file, with its line, and not a refusal an hour later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import Final, Literal, NamedTuple

from bus.errors import PolicyError, Problem
from bus.policy import Policy, source
from bus.policy.kinds import GroupName, PatternText, ReaderName, Size
from bus.policy.near import hint
from bus.policy.shape import place_at, shape
from bus.policy.source import Place
from bus.policy.words import Words
from bus.protocol.topics import matches

WHOLE: Final = 1_000
"""Shares are of a thousand messages."""
_AT_ONCE: Final = 1_024
"""Sendings that are drawn together: drawing one by one costs three times as much."""


class SendWords(Words):
    who: list[ReaderName]
    topics: list[PatternText]
    share: int
    bytes: list[Size]
    kind: Literal["message", "request"] = "message"


class HearWords(Words):
    who: list[ReaderName]
    topics: list[PatternText]
    group: GroupName | None = None
    durable: GroupName | None = None
    answers: bool = False


class MixWords(Words):
    version: Literal[1]
    sends: list[SendWords]
    hears: list[HearWords]


@dataclass(frozen=True, slots=True)
class Sends:
    """Some agents on some topics: each pair as often as any other."""

    agents: tuple[str, ...]
    topics: tuple[str, ...]
    share: int
    smallest: int
    largest: int
    request: bool


class Hears(NamedTuple):
    """One subscription of one agent."""

    agent: str
    pattern: str
    group: str | None
    durable: str | None
    answers: bool
    """To requests, with a body of the same size."""


class Sending(NamedTuple):
    """One message."""

    at: float
    """Seconds after the beginning."""
    agent: str
    topic: str
    size: int
    request: bool


@dataclass(frozen=True, slots=True)
class Mix:
    sends: tuple[Sends, ...]
    hears: tuple[Hears, ...]
    policy: Policy
    """That it was held against: who listens to `>` hears of it what they may."""

    def listeners(self, topic: str) -> list[Hears]:
        """The subscriptions that a message of this topic is for; of each group, one gets it."""
        return [row for row in self.hears if matches(row.pattern, topic) and self.policy.may_hear(row.agent, topic)]

    @property
    def agents(self) -> tuple[str, ...]:
        return tuple(sorted({name for row in self.sends for name in row.agents} | {row.agent for row in self.hears}))

    def schedule(self, *, rate: float, seed: int) -> Iterator[Sending]:
        """Without end, at random intervals that come to `rate` messages a second: as if all agents knew nothing of each other."""
        if not self.sends:
            return
        chance = Random(seed)  # noqa: S311  chance that can be had again, and hides nothing
        bounds, at = list(accumulate(row.share for row in self.sends)), 0.0
        while True:
            for row in chance.choices(self.sends, cum_weights=bounds, k=_AT_ONCE):
                at += chance.expovariate(rate)
                size = round(row.smallest * (row.largest / row.smallest) ** chance.random())
                yield Sending(at, chance.choice(row.agents), chance.choice(row.topics), size, row.request)


def read_mix(text: str | bytes, *, file: str, policy: Policy) -> Mix:
    """The mix of this text for the agents of this policy. Agents that are not in this fleet are left out.

    Raises PolicyError with every mistake and its place.
    """
    root, problems, _ = source.read(text, file=file)
    if root is None:
        raise PolicyError(problems)
    words, mistakes = shape(root, MixWords)
    problems += mistakes
    if words is None or problems:
        raise PolicyError(problems)
    sends, hears = [], []
    for number, send in enumerate(words.sends):
        place = place_at(root, ("sends", number))
        agents = _agents(send.who, policy, place, problems)
        problems += _cannot_send(send, agents, policy, place)
        if agents and not problems:
            smallest, largest = send.bytes
            sends.append(Sends(agents, tuple(send.topics), send.share, smallest, largest, send.kind == "request"))
    for number, hear in enumerate(words.hears):
        place = place_at(root, ("hears", number))
        agents = _agents(hear.who, policy, place, problems)
        problems += _cannot_hear(hear, agents, policy, place)
        hears += [Hears(agent, topic, hear.group, hear.durable, hear.answers) for agent in agents for topic in hear.topics]
    if (whole := sum(send.share for send in words.sends)) != WHOLE:
        problems.append(place_at(root, ("sends",)).problem(f"the shares add up to {whole} and not to {WHOLE}"))
    if problems:
        raise PolicyError(sorted(problems))
    return Mix(tuple(sends), tuple(hears), policy)


def _agents(who: Iterable[str], policy: Policy, place: Place, problems: list[Problem]) -> tuple[str, ...]:
    names = list(who)
    unknown = [name for name in names if name[:1].islower() and name not in policy.roles]
    problems += [place.problem(f"there is no role {name!r}{hint(name, policy.roles)}") for name in unknown]
    return policy.named(names)


def _cannot_send(words: SendWords, agents: Sequence[str], policy: Policy, place: Place) -> Iterator[Problem]:
    if len(words.bytes) != 2 or words.bytes[0] > words.bytes[1]:
        yield place.problem("`bytes` is the smallest and the largest body, in this order: [64B, 4KiB]")
    if not words.topics or words.share < 1:
        yield place.problem("a row of `sends` has topics, and a share of at least 1 in a thousand")
    for topic in words.topics:
        for agent in agents:
            decision = policy.decide(agent, "publish", topic)
            if not decision.allowed:
                yield place.problem(f"{agent} may not publish {topic}: {decision.rule}")
                break
        if max(words.bytes, default=0) > policy.topic_rule(topic).max_bytes:
            yield place.problem(f"{topic} takes at most {policy.topic_rule(topic).max_bytes} bytes")


def _cannot_hear(words: HearWords, agents: Sequence[str], policy: Policy, place: Place) -> Iterator[Problem]:
    for topic in words.topics:
        for agent in agents:
            decision = policy.decide(agent, "subscribe", topic)
            if not decision.allowed:
                yield place.problem(f"{agent} may not subscribe {topic}: {decision.rule}")
                break
            if words.group is not None and not policy.role_of(agent).may_join(words.group, topic):
                yield place.problem(f"{agent} may not join {words.group!r} on {topic}")
                break
        if words.durable is not None and policy.topic_rule(topic).class_ != "durable":
            yield place.problem(f"{topic} is live, so nothing of it can wait under the name {words.durable!r}")
