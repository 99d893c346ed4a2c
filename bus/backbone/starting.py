"""Where a new consumer begins: its start as a row, as if it had read and settled all before."""

from __future__ import annotations

from bus.backbone.class_log import ClassLog
from bus.backbone.consumer import MAX_KEPT, write_state
from bus.backbone.interface import ConsumerName
from bus.backbone.storage import ConsumerRow, Storage
from bus.errors import BackboneError
from bus.flow.start import Start
from bus.flow.unsettled import Kept, Written
from bus.protocol.topics import matches


async def first_row(
    name: ConsumerName, pattern: str, start: Start, log: ClassLog, storage: Storage, *, now_ms: int, passed_ms: int
) -> ConsumerRow:
    """Raises BackboneError("too_many"): more topics than `last` can begin with."""
    cursor = log.head + 1
    latest: list[int] = []
    if start.kind == "all":
        cursor = 1
    elif start.kind == "position":
        cursor = min(max(start.number, 1), cursor)
    elif start.kind == "time":
        first = await storage.first_at(log.settings.name, start.number)
        cursor = cursor if first is None else min(first, cursor)
    elif start.kind == "last":
        latest = await _latest(pattern, log, storage, passed_ms)
    state = write_state(Written([], [Kept(position, 0, 0.0) for position in latest]), now=0.0, now_ms=0)
    return ConsumerRow(name, log.settings.name, pattern, str(start), now_ms, now_ms, cursor=cursor, state=state)


async def _latest(pattern: str, log: ClassLog, storage: Storage, passed_ms: int) -> list[int]:
    """Of each topic the latest record that is not expired, up to the head as it is now."""
    found: dict[str, int] = {}
    head, position = log.head, 1
    while position <= head:
        outlines = await storage.outlines(log.settings.name, position)
        for first, topics, expires_ms in outlines:
            position = first + len(topics)
            living = [
                (topic, place)
                for place, (topic, until) in enumerate(zip(topics, expires_ms, strict=True), first)
                if until > passed_ms
            ]
            found.update((topic, place) for topic, place in living if place <= head)
        if not outlines:
            break
        found = {topic: latest for topic, latest in found.items() if matches(pattern, topic)}
        if len(found) > MAX_KEPT:
            raise BackboneError("too_many", f"{pattern!r} has more than {MAX_KEPT:,} topics: begin at a time or with all of them")
    return sorted(found.values())
