"""What one process of a step does: which agents it opens, who of them sends what, and who hears what. Made by `plan`, pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from bus.bench.scenario import Scenario
from bus.fleet import sharing
from bus.fleet.mix import Mix


class Sends(NamedTuple):
    agent: str
    topic: str
    number: int
    """Of this sender, from 0: also the source in its bodies."""


class Hears(NamedTuple):
    agent: str
    pattern: str
    group: str | None = None
    durable: str | None = None
    answers: bool = False


@dataclass(frozen=True, slots=True)
class Part:
    name: str
    state: str
    scenario: Scenario
    sends: tuple[Sends, ...] = ()
    hears: tuple[Hears, ...] = ()
    mixed: tuple[str, ...] = ()
    """Agents that play the reference mix."""
    is_hub: bool = False
    policy: str = "default"
    """Of the hub."""
    agents: tuple[str, ...] = ()
    """Of the hub: names of the bench's role."""
    tpm: str | None = None
    listen: tuple[str, ...] = ()
    backbone: str | None = None
    """Of the hub: where what is durable lies, if not in its own journal."""
    url: str | None = None
    """Where to reach the hub, if not at the state folder's own socket."""

    def document(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Part:
        return cls(
            **{
                **document,
                "scenario": Scenario.of_document(document["scenario"]),
                "sends": tuple(Sends(*one) for one in document["sends"]),
                "hears": tuple(Hears(*one) for one in document["hears"]),
                "mixed": tuple(document["mixed"]),
                "listen": tuple(document["listen"]),
                "agents": tuple(document["agents"]),
            }
        )


TOPICS = {"live": "bench.live", "identity": "bench.identity", "durable": "bench.kept"}
ROLE = "bench"
FORBIDDEN = "bench.forbidden"
"""Where policy lets nobody publish: that it refuses is tried in every process that sends."""


def names(scenario: Scenario) -> tuple[str, ...]:
    """Everybody's, so that the hub can know them from the start: who joins later has a new statement made, each."""
    if scenario.kind == "mix":
        return ()
    return (*(row.agent for row in _senders(scenario)), *(row.agent for row in _readers(scenario)))


def share_out(scenario: Scenario, mix: Mix | None = None) -> list[tuple[str, dict[str, Any]]]:
    """Name and agents of each process beside the hub's. Embedded: one, with the hub in it."""
    count = scenario.processes
    if mix is not None:
        shares = sharing.share_out(mix.agents, count, mix)
        return [(f"fleet {number + 1}", {"mixed": tuple(agents)}) for number, agents in enumerate(shares)]
    sends, hears = _senders(scenario), _readers(scenario)
    if count == 1:
        return [("agents", {"sends": tuple(sends), "hears": tuple(hears)})]
    first = min(max(round(count * len(sends) / (len(sends) + len(hears))), 1), count - 1, len(sends))
    rest = min(count - first, len(hears))
    return [
        *((f"sender {number + 1}", {"sends": tuple(sends[number::first])}) for number in range(first)),
        *((f"reader {number + 1}", {"hears": tuple(hears[number::rest])}) for number in range(rest)),
    ]


def at_the_gateway(shares: Sequence[tuple[str, Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Over NATS: the processes whose agents are at another broker than the others', with these agents: who only reads, and every
    second part of the mix.
    """
    found = {}
    for number, (name, duties) in enumerate(shares):
        if "mixed" in duties and number % 2:
            found[name] = [*duties["mixed"]]
        elif "hears" in duties and "sends" not in duties:
            found[name] = [row.agent for row in duties["hears"]]
    return found


def _senders(scenario: Scenario) -> list[Sends]:
    topic = TOPICS[scenario.delivery]
    return [Sends(f"SENDER{number}", f"{topic}.s{number}", number) for number in range(scenario.senders)]


def _readers(scenario: Scenario) -> list[Hears]:
    topic, answers = f"{TOPICS[scenario.delivery]}.>", scenario.kind == "requests"
    durable = [f"reader{number}" if scenario.delivery == "durable" else None for number in range(scenario.readers)]
    return [Hears(f"READER{number}", topic, None, durable[number], answers) for number in range(scenario.readers)]
