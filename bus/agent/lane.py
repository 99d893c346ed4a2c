"""A lane: what one agent says on one topic under one set of options, so that it may travel together.

It holds what was decided once and holds for every record: the rule, the epoch, the readers who have its key. These are asked for
again when policy, trust, session or readers change, and not before.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import anyio

from bus.agent.opened_topics import OpenTopic
from bus.errors import BusError
from bus.flow.waiting import Waiting
from bus.identity.epochs.sealing import Sealing, Use
from bus.policy import TopicRule
from bus.protocol.epochs import PRIORITIES
from bus.protocol.header import REPLY, REQUEST

MOST_RECORDS: Final = 512
"""Of one envelope."""


class LaneKey(NamedTuple):
    """All that keeps two records apart."""

    topic: str
    priority: str
    ttl_ms: int
    flags: int = 0
    request: str | None = None
    """The topic of the request, in a lane of replies."""
    single: bool = False
    """Each record in an envelope of its own: it has an id that the caller gave."""


class Note(NamedTuple):
    """What is known of one record beside its content."""

    id: bytes = b""
    ref: bytes = b""
    receipt: Any = None


class Lane:
    __slots__ = (
        "agent", "deficit", "key", "most_bytes", "priority", "ready", "room", "rule", "sealing", "signing", "topic", "trouble", "use", "waiting",
    )  # fmt: skip

    def __init__(self, agent: str, key: LaneKey, rule: TopicRule) -> None:
        self.agent, self.key, self.rule = agent, key, rule
        self.most_bytes = rule.max_bytes
        """Of one record."""
        self.priority = PRIORITIES[key.priority]
        self.use = Use(agent, key.topic, key.priority, key.request)
        self.waiting = Waiting()
        self.topic: OpenTopic | None = None
        self.sealing: Sealing | None = None
        self.ready = False
        self.deficit = 0
        self.signing = False
        """Whether its identity key is at work on some of it: the others wait, so that order stays."""
        self.trouble: BusError | None = None
        """What keeps it from being sealed: no session, or no news of trust. Then nothing more is put in."""
        self.room: anyio.Event | None = None

    @property
    def is_single(self) -> bool:
        """Whether each of its records travels alone."""
        return (
            self.key.single
            or self.key.flags in (REQUEST, REPLY)
            or self.rule.unit == "record"
            or (self.topic is not None and self.topic.record_units)
        )

    @property
    def by_identity(self) -> bool:
        return self.rule.needs_identity

    def first_bytes(self) -> int:
        return len(self.waiting.payloads[0]) if self.waiting.payloads else 0

    async def wait_for_room(self) -> None:
        """Until a turn took something along."""
        while self.waiting.is_full:
            if self.room is None:
                self.room = anyio.Event()
            await self.room.wait()

    def has_room(self) -> None:
        if self.room is not None and not self.waiting.is_full:
            self.room.set()
            self.room = None
