"""Where a consumer reads, when policy may have moved its topics from one retention class to another.

What was stored before lies where it was stored. So a consumer that is there already is read to its end; then it is made anew in
the class of now, from that one's beginning: what it holds of these topics was stored since they were moved, or is known to the
ledgers of its readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from bus.backbone.interface import ConsumerFacts, ConsumerName
from bus.flow.start import Start, parse_start

MOVED: Final = Start("position", 1)
"""How it is written down where a consumer began that was moved: its readers may ask for the start that they always had."""


class Place(NamedTuple):
    class_: str
    start: Start


class Stands(NamedTuple):
    """A consumer as it was made."""

    class_: str
    pattern: str
    start: str


def place_of(known: Stands | None, *, class_: str, pattern: str, start: Start) -> Place:
    """Where to open it that somebody asks for."""
    if known is None or known.pattern != pattern:
        return Place(class_, start)
    if known.start == str(MOVED):
        start = parse_start(known.start)
    return Place(known.class_, start)


def is_read(facts: ConsumerFacts) -> bool:
    """Whether nothing is left for it there."""
    return not (facts.behind or facts.outstanding or facts.waiting)


def found(name: ConsumerName, facts: list[ConsumerFacts]) -> ConsumerFacts | None:
    return next((one for one in facts if one.name == name), None)


def stands(facts: list[ConsumerFacts]) -> Mapping[ConsumerName, Stands]:
    return {one.name: Stands(one.class_, one.pattern, one.start) for one in facts}
