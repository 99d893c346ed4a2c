"""Where a new consumer begins: its start as a row, as if it had read and settled all before."""

from __future__ import annotations

from bus.backbone.class_log import ClassLog
from bus.backbone.consumer import MAX_KEPT, write_state
from bus.backbone.interface import ConsumerName
from bus.backbone.storage import ConsumerRow, Storage
from bus.errors import BackboneError
from bus.flow.start import Start
from bus.flow.unsettled import Kept
from bus.protocol.topics import matches


async def first_row(name: ConsumerName, pattern: str, start: Start, log: ClassLog, storage: Storage, *, now_ms: int) -> ConsumerRow:
    """Raises BackboneError("too_many"): more topics than `last` can begin with."""
    head = log.head
    latest: list[int] = []
    if start.kind == "all":
        tail = 0
    elif start.kind == "position":
        tail = max(start.number, 1) - 1
    elif start.kind == "time":
        first = await storage.first_at(log.settings.name, start.number)
        tail = head if first is None else min(first - 1, head)
    else:
        tail = head
        latest = await _latest(pattern, log, storage) if start.kind == "last" else []
    state = write_state([Kept(position, 0, 0.0) for position in latest], now=0.0, now_ms=0)
    return ConsumerRow(name, log.settings.name, pattern, str(start), now_ms, now_ms, tail=tail, seen=0, state=state)


async def _latest(pattern: str, log: ClassLog, storage: Storage) -> list[int]:
    """Of each topic the latest position, up to the head as it is now."""
    found: dict[str, int] = {}
    head, position = log.head, 1
    while position <= head:
        outlines = await storage.outlines(log.settings.name, position)
        for first, topics in outlines:
            position = first + len(topics)
            found.update(zip(topics, range(first, min(position, head + 1)), strict=False))
        if not outlines:
            break
        found = {topic: latest for topic, latest in found.items() if matches(pattern, topic)}
        if len(found) > MAX_KEPT:
            raise BackboneError("too_many", f"{pattern!r} has more than {MAX_KEPT:,} topics: begin at a time or with all of them")
    return sorted(found.values())
