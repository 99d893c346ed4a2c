"""A program for test_fleet_papers: provisions a fleet, and is killed again and again, at moments drawn by lot.

killed_fleet.py STATE       each run goes on in the same state folder; the last one may end
"""

from __future__ import annotations

import json
import random
import sys
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from killed_child import in_a_child

from bus.clock import SystemClock
from bus.hub.fleet_papers import Order, provision_fleet
from bus.hub.state import open_state
from bus.hub.tpm_process import open_engine
from bus.identity.inbox import Inbox, InboxFolder
from bus.policy import load

KILLS = 10
NAMES = [f"AGENT{number}" for number in range(12)]
TEXTS = {
    "p.yaml": (
        "version: 1\nagents:\n"
        + "".join(f"  {name}: plain\n" for name in NAMES)
        + "roles:\n  plain: {key: ecc256/sha256, key_origin: software}\n"
    ).encode()
}


async def provision(state: Path) -> dict[str, Any]:
    opened = open_state(state)
    policy = state.parent / "p.yaml"
    async with open_engine(opened, policy=str(policy)) as engine:
        order = Order(load(TEXTS), TEXTS, NAMES)
        fleet = await provision_fleet(opened, engine, order, environ={}, clock=SystemClock(), tell=lambda *_: None)
    return {member.name: [f"{member.certificate.serial:x}", member.enrolled] for member in fleet.members if member.certificate}


async def look(state: Path) -> dict[str, str]:
    """Every inbox key that lies there opens; `NAME counter` and its id."""
    opened, found = open_state(state), {}
    async with open_engine(opened, policy=str(state.parent / "p.yaml")) as engine:
        for name in InboxFolder(opened.inbox).names():
            inbox = await Inbox.open(InboxFolder(opened.inbox), engine, name, clock=SystemClock())
            for key in inbox.record.keys:
                assert await inbox.private(key.id) is not None
                found[f"{name} {key.counter}"] = key.id.hex()
    return found


def main() -> None:
    state, seed = Path(sys.argv[1]), random.randrange(2**32)
    print(f"seed {seed}")
    (state.parent / "p.yaml").write_bytes(TEXTS["p.yaml"])
    dice, known, kills = random.Random(seed), {}, 0
    in_a_child(partial(look, state))  # starts the TPM service, which outlives those who are killed
    while kills < KILLS and in_a_child(partial(provision, state), killed_at=dice.randrange(8, 90), folder=state) is None:
        kills += 1
        found = in_a_child(partial(look, state))
        assert known.items() <= found.items(), "an inbox key was lost, or a counter given twice"
        known = found
    first = in_a_child(partial(provision, state))
    again = in_a_child(partial(provision, state))
    assert sorted(again) == sorted(NAMES)
    assert all(again[name] == [serial, False] for name, (serial, _) in first.items()), "what was complete was made again"
    last = in_a_child(partial(look, state))
    assert known.items() <= last.items()
    assert {line.partition(" ")[0] for line in last} == set(NAMES)
    print(json.dumps({"kills": kills}))


if __name__ == "__main__":
    main()
