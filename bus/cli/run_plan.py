"""What `tpmbus run` is to run: which agents, with which handlers, and which traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bus.fleet.crew import Crew, Place
    from bus.fleet.mix import Mix
    from bus.policy import Policy


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for on the command line."""

    listen: tuple[str, ...]
    roster: str | None
    processes: int
    part: int | None
    """The number of this child, if it is one."""
    seconds: float | None
    rate: float
    mix: str | None
    tpm: str | None
    state: Path | None
    policy: str | None
    backbone: str | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    listed: Policy
    """As its files say."""
    texts: Mapping[str, bytes]
    roles: Mapping[str, str]
    """Of each agent to run."""
    joined: Mapping[str, str]
    """Those whom the policy's files do not list."""
    mix: Mix | None


def planned(wanted: Wanted) -> Plan:
    from bus import shipped
    from bus.fleet.mix import read_mix
    from bus.fleet.roster import with_roster
    from bus.policy import files, load

    texts = files.read(wanted.policy)
    listed = load(texts)
    policy = listed if wanted.roster in (None, "none") else with_roster(listed, Path(str(wanted.roster)))
    roles = {} if wanted.roster == "none" else dict(policy.agents)
    joined = {name: role for name, role in roles.items() if name not in listed.agents}
    is_ours = wanted.policy in (None, "default")
    path = shipped.folder("agents") / "mix.yaml" if wanted.mix is None else Path(wanted.mix)
    if wanted.mix == "none" or not roles or wanted.rate == 0 or (wanted.mix is None and not is_ours):
        return Plan(listed, texts, roles, joined, None)
    return Plan(listed, texts, roles, joined, read_mix(path.read_bytes(), file=str(path), policy=policy))


def crew_of(place: Place, plan: Plan, names: Sequence[str]) -> Crew:
    from bus import shipped
    from bus.clock import SystemClock
    from bus.fleet.crew import Crew
    from bus.fleet.handlers import load_handlers
    from bus.fleet.player import Player

    clock = SystemClock()
    player = None if plan.mix is None else Player(plan.mix, lambda name: plan.roles.get(name, "?"), clock=clock)
    does = load_handlers(shipped.folder("agents") / "handlers") if names else {}
    return Crew(place, {name: plan.roles[name] for name in names}, does, player, clock=clock)
