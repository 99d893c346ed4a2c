"""What was said, and what became of it: how scenarios that count every message ask for that."""

from __future__ import annotations

from typing import Any

from troupe import Actor, Company


def sent(actor: Actor, what: str) -> int:
    """Of all hosts of this process."""
    return sum(host["sent"].get(what, 0) for host in actor.ask("report")["hosts"])


def until_heard(speaker: Actor, name: str, topic: str, reader: Actor, *, key: str, run: int, number: int) -> dict[str, Any]:
    """One message more, when everybody is back: what was lost before it shows as missed."""
    speaker.ask("publish", name=name, topic=topic, run=run, count=1, first=number)
    found: dict[str, Any] = reader.ask("until", key=key, run=run, number=number)
    return found


def until_outstanding(bus_of: Company, count: int) -> None:
    """So many are with their reader, and none waits for it, be it new or given back (a key took too long to come).

    Each question is a round trip to the hub, which has work to do.
    """
    while [(one["outstanding"], one["behind"], one["waiting"]) for one in bus_of.desk("consumers")] != [(count, 0, 0)]:
        pass
