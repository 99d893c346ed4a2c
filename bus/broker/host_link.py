"""What a broker holds of one link: who proved itself there, what it opened and subscribed, and what it was told.

A link to a host (the agents of one process). It decides nothing; the parts that do keep their state about this link here, so that
all of it goes when the link does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from bus.identity.envelopes.believe import Believed
from bus.identity.trust_documents import TrustDocuments
from bus.protocol.frames import Frame, encode
from bus.transport.link import Link

if TYPE_CHECKING:
    from bus.broker.durable_reading import Reading, Taker
    from bus.broker.intake import Intake
    from bus.broker.interest import Barrier
    from bus.broker.lanes import Lane
    from bus.broker.outbox import Outbox
    from bus.broker.pacing import Turn

MAX_TOLD: Final = 8_192
"""Sessions whose papers a link was told of; beyond, the oldest are told again when they are needed again."""
MAX_UNREAD_BYTES: Final = 16 << 20
"""Of answers, and of what it has to know. Deliveries stop long before."""
LARGE_BYTES: Final = 8 << 10
"""For each record, from which on an envelope is large."""
MAX_LARGE_BYTES: Final = 8 << 20
"""Of large envelopes, that one subscription has and has not consumed: a thousand records of a mebibyte would be a gibibyte."""
BLOCK: Final = "block"
DISCONNECT: Final = "disconnect"
OVERFLOWS: Final = frozenset((BLOCK, DISCONNECT, "drop_oldest", "drop_newest"))


@dataclass(slots=True, eq=False)
class Subscription:
    """One of an agent on a link. `credit` (records) counts for those that block; the others drop at their own end."""

    host: HostLink = field(repr=False)
    number: int
    agent: str
    pattern: str
    group: str
    overflow: str
    limit: int
    credit: int
    is_live: bool = True
    starved_at: float | None = None
    """Since when something is held back because it has no credit."""
    held_bytes: int = 0
    large_bytes: int = 0
    """Of large envelopes that it was given and has not consumed."""
    picked: int = 0
    """When its group chose it last, as a number that grows."""
    taker: Taker | None = field(default=None, repr=False)
    """What a durable one reads, and how far it is."""
    may_stop: bool = False
    """Of one at a neighbour: that its reader there blocks, and may hold up who publishes for it."""

    _large: deque[tuple[int, int]] | None = field(default=None, repr=False)
    """Up to which of its records each of these goes, and its bytes; once there was one."""
    _consumed: int = field(default=0, repr=False)

    @property
    def may_take(self) -> bool:
        """Of one that blocks: whether it has credit, and not too much that is large."""
        return self.credit > 0 and self.large_bytes < MAX_LARGE_BYTES

    def give(self, records: int, size: int) -> None:
        """It gets an envelope. Only large ones are weighed: of others, what the usual limit lets through is no more together."""
        self.credit -= records
        if size > records * LARGE_BYTES:
            if self._large is None:
                self._large = deque()
            self._large.append((self._consumed + self.limit - self.credit, size))
            self.large_bytes += size

    def consumed(self, records: int) -> None:
        """Its reader is done with so many."""
        records = min(records, self.limit - self.credit)
        self.credit += records
        self._consumed += records
        while self._large and self._large[0][0] <= self._consumed:
            self.large_bytes -= self._large.popleft()[1]

    @property
    def blocks(self) -> bool:
        return self.overflow == BLOCK

    @property
    def durable(self) -> str:
        """Under which name it waits for it, if it is durable."""
        return "" if self.taker is None else self.taker.reading.what.name.name


class Subscriptions(dict[int, Subscription]):
    """Of one link, by number. Those of one agent are found without a look at the others, of which a neighbour has very many."""

    __slots__ = ("_of",)

    def __init__(self) -> None:
        super().__init__()
        self._of: dict[str, dict[int, None]] = {}

    def __setitem__(self, number: int, one: Subscription) -> None:
        super().__setitem__(number, one)
        self._of.setdefault(one.agent, {})[number] = None

    def __delitem__(self, number: int) -> None:
        agent = self[number].agent
        super().__delitem__(number)
        del self._of[agent][number]
        if not self._of[agent]:
            del self._of[agent]

    def of(self, agent: str) -> list[Subscription]:
        return [self[number] for number in self._of.get(agent, ())]


class Where(NamedTuple):
    """For the people who run it."""

    process: int | None
    kind: str
    """Of the link: memory, unix, tls; or neighbour."""
    address: str
    """Of a neighbour, its name and where its link goes."""


class HostLink:
    is_neighbour: ClassVar[bool] = False
    """Whether another broker is at the other end, and not a host (see `neighbour`)."""
    __slots__ = (
        "agents",
        "awaited",
        "cut_for",
        "heard_at",
        "held_epochs",
        "host_keys",
        "intake",
        "is_gone",
        "is_open",
        "junk",
        "lanes",
        "link",
        "number",
        "outbox",
        "pinged_at",
        "seen",
        "serial",
        "sessions",
        "sessions_of",
        "storing_bytes",
        "subscriptions",
        "t",
        "told",
        "told_grants",
        "told_inboxes",
        "told_papers",
        "told_trust",
        "turns",
        "unsynced",
        "writable_at",
    )

    def __init__(self, number: int, link: Link, *, now: float) -> None:
        self.number, self.link = number, link
        self.is_open = self.is_gone = False
        self.cut_for = ""
        """Why the broker ended it."""
        self.t = b""
        """Of the handshake: what host keys of later papers sign."""
        self.host_keys: dict[bytes, None] = {}
        """Proven on this link, in that order."""
        self.sessions: dict[bytes, Believed] = {}
        """By id: what agents on this link may send under. `Seats` puts them in, and takes them out."""
        self.sessions_of: dict[str, dict[bytes, Believed]] = {}
        """The same by agent."""
        self.agents: dict[str, Believed] = {}
        """Who is live here, each with its newest session."""
        self.lanes: dict[int, Lane] = {}
        self.subscriptions = Subscriptions()
        self.turns: dict[int, Turn] = {}
        """That are not credited yet."""
        self.intake: Intake
        self.outbox: Outbox
        self.told: dict[tuple[str, str, int], int] = {}
        """Interest, with the serial under which it was told."""
        self.told_papers: dict[bytes, None] = {}
        self.told_inboxes: dict[str, bytes] = {}
        self.told_grants: dict[tuple[bytes, str], None] = {}
        """Epochs and agents of this link for which it was told what is kept."""
        self.storing_bytes = 0
        """Of what it brought and what is not on disk yet."""
        self.unsynced: dict[Reading, None] = {}
        """Where something was settled since somebody last asked whether that is on disk."""
        self.told_trust: TrustDocuments | None = None
        self.held_epochs: dict[bytes, int] = {}
        """Of what is held back for want of credit: the lowest number of each epoch."""
        self.awaited: deque[tuple[int, Barrier]] = deque()
        """Subscriptions that are live once this link has seen that number."""
        self.serial = self.seen = 0
        self.heard_at = self.pinged_at = self.writable_at = now
        self.junk = 0

    @property
    def neighbour(self) -> str:
        """The name of the broker at the other end, if one is."""
        return ""

    @property
    def where(self) -> Where:
        """Its agents are."""
        peer = self.link.peer
        return Where(peer.pid, peer.kind, peer.address)

    def send(self, frame: Frame, *fields: Any) -> None:
        self.link.send(encode(frame, *fields))

    def answer(self, frame: Frame, *fields: Any) -> None:
        """What the peer can ask for as often as it likes. One that does not read its answers is cut."""
        self.link.send(encode(frame, *fields))
        if self.link.buffered > MAX_UNREAD_BYTES:
            self.cut("does_not_read")

    def refuse(self, code: str, ref: bytes) -> None:
        self.answer(Frame.REFUSE, code, ref)

    def tell_papers(self, sessions: Sequence[Believed]) -> None:
        """Those that were not told yet."""
        for one in sessions:
            if one.id not in self.told_papers:
                self.tell_session(one.id, one.papers.encode())

    def tell_session(self, session: bytes, papers: bytes) -> None:
        """Papers of a session, whether or not they were told."""
        self.is_told(session)
        self.link.send(encode(Frame.PAPERS, [papers], b""))

    def is_told(self, session: bytes) -> None:
        """Its papers are on their way."""
        self.told_papers.pop(session, None)
        self.told_papers[session] = None
        while len(self.told_papers) > MAX_TOLD:
            del self.told_papers[next(iter(self.told_papers))]

    def tell_inbox(self, agent: str, papers: bytes) -> None:
        """By which others seal to an agent that is away."""
        if self.told_inboxes.get(agent) != papers:
            self.told_inboxes[agent] = papers
            self.link.send(encode(Frame.PAPERS, [papers], b""))

    def put_aside(self, subscription: Subscription) -> None:
        """Policy has ended it. A host hears so, and knows what to do."""

    def cut(self, why: str) -> None:
        """End it; what was sent is still written."""
        if not self.is_gone and not self.cut_for:
            self.cut_for = why
            self.link.close()

    def __repr__(self) -> str:
        return f"<HostLink {self.number} {self.link.peer.kind} of {', '.join(sorted(self.agents)) or 'nobody yet'}>"
