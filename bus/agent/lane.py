"""A lane: what one agent says on one topic under one set of options, so that it may travel together.

It holds what was decided once and holds for every record: the rule, the epoch, the readers who have its key. These are asked for
again when policy, trust, session or readers change, and not before.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, NamedTuple

import anyio

from bus.agent.opened_topics import OpenTopic
from bus.errors import BusError, twin
from bus.flow.rounds import MAX_ENVELOPE_BYTES
from bus.flow.waiting import MAX_RECORDS, Taken, Waiting
from bus.identity.epochs.sealing import Sealing, Use
from bus.policy import TopicRule
from bus.protocol.epochs import PRIORITIES
from bus.protocol.header import REPLY, REQUEST

MOST_RECORDS: Final = 512
"""Of one envelope."""
LOOK: Final = 128
"""Records that are put in between two looks at the clock by whoever publishes in a loop and lets nobody else have a turn."""
SINGLES: Final = 128
"""Envelopes of one record that are sealed in a turn: a millisecond's work."""
MOST_SIGNING: Final = 32
"""Envelopes of a lane that its identity key is at work on, or that gather for its next signature: half of them on average."""
MOST_SIGNING_BYTES: Final = 8 << 20
"""Of their records; one more envelope may begin below it."""

Through = Callable[["Lane", Any], Awaitable[Any]]


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
        "_trouble", "agent", "deficit", "key", "look", "most_bytes", "priority", "quick", "ready", "room", "rule", "sealing",
        "signing", "signing_bytes", "since", "takes_rest", "through", "topic", "use", "waiting",
    )  # fmt: skip

    def __init__(self, agent: str, key: LaneKey, rule: TopicRule) -> None:
        self.agent, self.key, self.rule = agent, key, rule
        self.most_bytes = rule.max_bytes
        """Of one record."""
        self.priority = PRIORITIES[key.priority]
        self.use = Use(agent, key.topic, key.priority, key.request)
        self.waiting = Waiting()
        self.since = 0.0
        """When it was listed for a turn, or whoever publishes last paused for one."""
        self.look = LOOK
        """When so many wait, whoever publishes looks whether to pause."""
        self.topic: OpenTopic | None = None
        self.sealing: Sealing | None = None
        self.ready = False
        self.deficit = 0
        self.signing = 0
        """Envelopes that are drafted, and neither sealed nor failed: its identity key is at work on them, or will be."""
        self.signing_bytes = 0
        self.takes_rest = False
        """Whether what waits goes along with these, however little it is."""
        self._trouble: BusError | None = None
        self.quick: dict[str, Lane] | None = None
        """The table in which it stands as long as records may be put in without a look at what stands here."""
        self.through: Through | None = None
        """What looks at records before they are packed."""
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

    @property
    def may_begin(self) -> bool:
        """While its key is at work, what comes gathers; a whole envelope need not wait, and is signed with the next ones."""
        if not self.signing:
            return True
        return (self._is_whole or self.takes_rest) and self.signing < MOST_SIGNING and self.signing_bytes < MOST_SIGNING_BYTES

    @property
    def trouble(self) -> BusError | None:
        """What keeps it from being sealed: no session, no news of trust, or its agent's end. Then nothing more is put in."""
        return self._trouble

    @trouble.setter
    def trouble(self, error: BusError | None) -> None:
        self._trouble = error
        if error is not None:
            if self.quick is not None and self.quick.get(self.key.topic) is self:
                del self.quick[self.key.topic]
            self._wake()

    def check(self) -> None:
        """Raises its trouble, if it has one."""
        if self._trouble is not None:
            raise twin(self._trouble)

    @property
    def _is_whole(self) -> bool:
        return len(self.waiting) >= MOST_RECORDS or self.waiting.size_bytes >= MAX_ENVELOPE_BYTES

    def take(self, most_bytes: int) -> Taken:
        """What goes into its next envelope, or its next few of one record. Whoever waits for room hears of it."""
        taken = self.waiting.take(SINGLES if self.is_single else MOST_RECORDS, most_bytes)
        self.has_room()
        self.look_later()
        return taken

    def look_later(self) -> None:
        self.look = min(len(self.waiting) + LOOK, MAX_RECORDS)

    def has_room(self) -> None:
        if not self.waiting.is_full:
            self._wake()

    def first_bytes(self) -> int:
        return self.waiting.first_bytes

    async def wait_for_room(self) -> None:
        """Until a turn took something along. Raises its trouble."""
        while self.waiting.is_full and self._trouble is None:
            if self.room is None:
                self.room = anyio.Event()
            await self.room.wait()
        self.check()

    def _wake(self) -> None:
        if self.room is not None:
            self.room.set()
            self.room = None
