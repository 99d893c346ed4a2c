"""What a backbone is to a broker: it keeps accepted envelopes, and hands them to consumers until they are settled.

    append              envelopes -> positions, on disk when it returns; what was stored before is answered with its first position
    consume             a named consumer hands records out as far as it is allowed, and takes back acks, naks, terms, touches
    watch               who listens live elsewhere (one broker alone: nobody)
    keep, grants_for,   grants, and papers of senders, as long as the messages that need them
    papers_for
    retain              the retention classes, as policy has them now; what is past its time goes
    dead letters        what was given up: list, show, requeue, drop
    consumers, remove   who reads what, and how far behind
    statistics, run, aclose

Written for a journal on this machine and for NATS JetStream 2.9: one stream a *retention class*, one filter a consumer, and a
position is an opaque number that grows within a class. A backbone sees envelopes as bytes with a topic; it opens nothing.

Every verb may raise ClosedError, and BackboneError with one of these codes:

    disk_full          no room; nothing that was stored is lost, and it goes on by itself when there is room
    disk               the disk or the connection failed otherwise
    damaged            what is stored cannot be read (`path`)
    version            it was stored by another version (`path`)
    unknown_class      policy has no such retention class
    several_classes    a pattern that lies in more than one (`classes`)
    not_durable        a pattern with topics that are not kept
    consumer_differs   it exists with another pattern or start
    consumer_in_use    this broker has it open
    unknown_consumer   there is none of that name
    too_many           consumers, topics for `last`, grants: more than one owner or consumer may have
    unknown_dead       no such dead letter
    gone               its original is no longer kept
    too_large          longer than the servers of this backbone take

One event loop uses one backbone. `run` is its heartbeat: whoever opened it runs it in a task group until the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

from bus.flow.start import Start

MAX_OUTSTANDING: Final = 8_192
"""Records of one consumer that are handed out and not settled; beyond that it waits, whatever it is allowed."""
UNUSED_MS: Final = 30 * 86_400_000
"""A consumer that nobody opened for so long is removed."""
DEDUPLICATION_MS: Final = 600_000
"""How long (sender, id) is remembered: as late as a durable envelope may be sent again."""
LEAST_PUT_OFF_MS: Final = 1_000
DEAD: Final = "_dead."
"""Before a topic: its dead letters. Before a pattern, in `consume`: those of its topics."""


Span = tuple[int, int]
"""Positions, both included."""


class PutOff(NamedTuple):
    """A span that its reader could not open yet, or left without a look at it."""

    first: int
    last: int
    delay_ms: int
    """At least a second, whatever is said; of what was NOT_BEGUN, nothing."""
    reason: str


class Entry(NamedTuple):
    """One envelope to keep."""

    class_: str
    topic: str
    sender: str
    id: bytes
    expires_ms: int
    """From then on nobody accepts it. Once that is known to have passed (`retain`), it is not handed out, and may be dropped."""
    envelope: bytes


class Delivery(NamedTuple):
    """One record handed out. A dead letter is the frame [reason, deliveries, original envelope]."""

    position: int
    deliveries: int
    """How often it was handed out, this time included."""
    topic: str
    envelope: bytes


@dataclass(frozen=True, slots=True)
class RetentionClass:
    """A rule of policy for durable topics, as the backbone needs it."""

    name: str
    retention_ms: int
    ack_wait_ms: int = 30_000
    max_deliver: int = 5


class ConsumerName(NamedTuple):
    """Whose it is, and what they call it. Owners are agents (capitals) or groups (small letters), so the two never meet."""

    owner: str
    name: str

    def __str__(self) -> str:
        return f"{self.owner}/{self.name}"


@dataclass(frozen=True, slots=True)
class ConsumerFacts:
    """What an operator sees of a consumer."""

    name: ConsumerName
    class_: str
    pattern: str
    start: str
    made_ms: int
    used_ms: int
    """When somebody last had it open."""
    is_open: bool
    floor: int
    """All that is asked for at or below this position is settled."""
    behind: int
    """Positions of its class that it has not yet looked at: an upper bound of the records that wait for it."""
    outstanding: int
    """Handed out, not settled."""
    waiting: int
    """To be handed out again."""


class DeadLetter(NamedTuple):
    """What was given up, without its bytes."""

    class_: str
    position: int
    """Its own, as a record of `_dead.<topic>`."""
    topic: str
    """The original's."""
    sender: str
    id: bytes
    consumer: ConsumerName
    original: int
    reason: str
    deliveries: int
    died_ms: int


class Grant(NamedTuple):
    """A grant that belongs to durable messages."""

    epoch: bytes
    reader: str
    sender: str
    ref: bytes
    """The id of the key that opens it."""
    until_ms: int
    envelope: bytes


class Papers(NamedTuple):
    """What proves a sender's session, for as long as its messages are kept."""

    session: bytes
    sender: str
    until_ms: int
    papers: bytes


class Consumer(Protocol):
    """A consumer that is open. One task takes from it; anybody may settle.

    A record is outstanding from `take` until it is settled. After `ack_wait` without a word, after a nak's delay, or after the
    consumer was closed and opened again, it is handed out once more; after `max_deliver` times it becomes a dead letter
    ("max_deliver"). What was put off was not handed out. What expires meanwhile is passed over and counted.
    """

    @property
    def name(self) -> ConsumerName: ...

    @property
    def class_(self) -> str: ...

    @property
    def pattern(self) -> str: ...

    def allow(self, records: int) -> None:
        """From now on so many records may be handed out (a number that takes the place of the last one; `take` counts it down)."""

    async def take(self) -> list[Delivery]:
        """The next records, at least one, as many as are allowed; waits until there are some. Raises BackboneError: "damaged",
        "disk", for what it should read now; others are not concerned.
        """

    def settle_nowait(
        self,
        *,
        acks: Sequence[Span] = (),
        naks: Sequence[tuple[int, int, int | None]] = (),
        terms: Sequence[tuple[int, int, str]] = (),
        touches: Sequence[Span] = (),
        put_off: Sequence[PutOff] = (),
    ) -> None:
        """Settle spans of positions, at once; it goes to disk with the next commit. What is not outstanding is counted, no more.

        naks: [first, last, delay in ms]; None for the usual delay, 1 s doubling to 60 s. terms: [first, last, reason]: a dead
        letter. touches: `ack_wait` begins anew. put_off: as a nak, but this delivery does not count, because nobody could take
        it; where that went on for `put_off_seconds`, or there are `MAX_PUT_OFF` of them, it is a dead letter with this reason.
        What is put off as NOT_BEGUN was there in time and nobody looked at it: it is handed out again at once, however often.
        """

    async def settle(
        self,
        *,
        acks: Sequence[Span] = (),
        naks: Sequence[tuple[int, int, int | None]] = (),
        terms: Sequence[tuple[int, int, str]] = (),
        touches: Sequence[Span] = (),
        put_off: Sequence[PutOff] = (),
    ) -> None:
        """The same, and wait until it is on disk. Until then a crash may bring the records again. Raises BackboneError."""

    async def aclose(self) -> None:
        """Hand out no more. What is outstanding goes to whoever opens it next. It stays, with all it has settled."""


class Backbone(Protocol):
    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Keep these, in this order; their positions. They are on disk when it returns, and whoever consumes them may have them
        earlier. (sender, id) that was stored within ten minutes is answered with its first position. Raises BackboneError,
        OverloadedError; then, or when it is cancelled, some may be stored: appending all of them again does no harm.
        """

    async def consume(
        self, name: ConsumerName, class_: str, pattern: str, start: Start, *, kept: bool = True, allowed: int = 0
    ) -> Consumer:
        """Open a consumer, made if there is none of that name. Not `kept`: it is forgotten when it is closed.

        Raises BackboneError: "consumer_differs", "consumer_in_use", "unknown_class", "too_many". ValueError: no name.
        """

    async def watch(self, pattern: str, group: str, heard: Callable[[str, bytes], None]) -> Callable[[], None]:
        """Have live envelopes of other brokers on topics of this pattern; of a group, each goes to one of its members anywhere.

        `heard` gets topic and envelope. Gives what ends it. Across brokers live topics are at most once. One alone hears nothing.
        """

    async def keep(self, grants: Sequence[Grant] = (), papers: Sequence[Papers] = ()) -> None:
        """Keep these until their time; on disk when it returns. The same one again changes nothing."""

    async def grants_for(self, epoch: bytes, reader: str) -> list[bytes]:
        """The grants of this epoch for this reader, the newest last."""

    async def papers_for(self, session: bytes) -> list[bytes]:
        """What is kept as papers under this id, the newest last. Where others may write as well, none of it need be any."""

    async def retain(self, classes: Sequence[RetentionClass], *, passed_ms: int) -> None:
        """The classes that there are now; an instant that is known to have passed, and never goes back. By it things end.

        Not by a clock: what one that is ahead takes for over, nobody can have again. A class that is not among them keeps what it
        has until that expires, and takes nothing new.
        """

    async def dead_letters(self, *, class_: str = "", after: int = 0, most: int = 100) -> list[DeadLetter]:
        """Those of one class, or of all, by class and position; `after` that position."""

    async def show_dead(self, class_: str, position: int) -> bytes:
        """The frame [reason, deliveries, original envelope]. Raises BackboneError: "unknown_dead"."""

    async def requeue_dead(self, class_: str, position: int) -> None:
        """Hand the original to its consumer again, as if for the first time; the dead letter goes.

        Raises BackboneError: "unknown_dead", "unknown_consumer", "gone"; "consumer_differs": it reads other topics now, or in
        another class, where a position means something else.
        """

    async def drop_dead(self, class_: str, position: int) -> None:
        """Raises BackboneError: "unknown_dead"."""

    async def consumers(self) -> list[ConsumerFacts]: ...

    async def remove_consumer(self, name: ConsumerName) -> None:
        """Raises BackboneError: "unknown_consumer", "consumer_in_use"."""

    def statistics(self) -> dict[str, int]: ...

    async def run(self) -> None:
        """Redeliveries, housekeeping in idle moments; until it is cancelled."""

    async def aclose(self) -> None:
        """What was appended is stored; then everything is let go of."""
