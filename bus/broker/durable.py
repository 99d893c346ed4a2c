"""What is kept: the narrow place between a broker and the backbone that stores envelopes and owns consumers. It binds.

    storing      envelopes and grants on their way to disk          kept        what readers need to open them, from there
    consuming    who takes what, and what they say of it            syncing     who asks whether that is on disk
    classes      retention, as policy has it                        standing    who will read, also while away
                                                                    inboxes     by which others seal to them

Without a backbone what must be kept is refused: nobody is told that something is on disk that is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import anyio

from bus.backbone.interface import Backbone
from bus.broker.asking import Asking
from bus.broker.counts import Counts
from bus.broker.crossing import Crossing
from bus.broker.durable_classes import Classes
from bus.broker.durable_consuming import Consuming, End
from bus.broker.durable_inboxes import Inboxes
from bus.broker.durable_kept import Find, Kept
from bus.broker.durable_recent import Recent
from bus.broker.durable_standing import Standing
from bus.broker.durable_storing import Storing
from bus.broker.durable_syncing import Syncing
from bus.broker.host_link import HostLink, Subscription
from bus.broker.interest import Interest
from bus.broker.offences import Offences
from bus.broker.pacing import Pacing
from bus.broker.requests import Requests
from bus.broker.router import Router
from bus.broker.subscribing import Subscribing
from bus.clock import Clock
from bus.errors import VerificationError
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.envelopes.verifier import Verifier
from bus.protocol.frames import Frame

Spread = Callable[[list[Crossing]], None]


class Durable(Protocol):
    """What a broker asks of whatever keeps."""

    def publish(self, crossing: Crossing) -> None:
        """An envelope of a durable topic was admitted. Raises VerificationError("busy")."""

    def keep(self, crossing: Crossing) -> None:
        """A grant is to be on disk before its turn is credited. Raises VerificationError("busy")."""

    def begin(self, one: Subscription, *, durable: str, start: str) -> str | None:
        """A durable subscription, or one to dead letters. Why not, if it cannot be; it may be refused later too."""

    def leave(self, one: Subscription) -> None: ...

    def credit(self, one: Subscription, records: int) -> None: ...

    def settle(self, host: HostLink, fields: list[Any]) -> None: ...

    def ping(self, host: HostLink, number: int) -> None: ...

    def ask(self, host: HostLink, agent: str, epoch: bytes, papers: bytes) -> bool:
        """Whether it is looked for here."""

    def ask_papers(self, host: HostLink, session: bytes) -> bool: ...

    def show_inbox(self, host: HostLink, papers: bytes) -> None: ...

    def hear_inbox(self, papers: bytes) -> None:
        """A neighbour tells of one that was shown there; it has been verified."""

    def go_on(self, host: HostLink) -> None:
        """Its link has room again."""

    def lost(self, host: HostLink) -> None: ...

    def follow(self, snapshot: Snapshot) -> None: ...

    def tick(self, now: float) -> None: ...

    async def prepare(self) -> None:
        """Before the first link."""

    async def run(self) -> None: ...

    def statistics(self) -> dict[str, object]: ...


class Nothing:
    """Without a backbone."""

    def publish(self, crossing: Crossing) -> None:
        raise _busy(crossing)

    def keep(self, crossing: Crossing) -> None:
        raise _busy(crossing)

    def begin(self, one: Subscription, *, durable: str, start: str) -> str | None:
        return "busy"

    def leave(self, one: Subscription) -> None: ...

    def credit(self, one: Subscription, records: int) -> None: ...

    def settle(self, host: HostLink, fields: list[Any]) -> None: ...

    def ping(self, host: HostLink, number: int) -> None:
        host.answer(Frame.PONG, number)

    def ask(self, host: HostLink, agent: str, epoch: bytes, papers: bytes) -> bool:
        return False

    def ask_papers(self, host: HostLink, session: bytes) -> bool:
        return False

    def show_inbox(self, host: HostLink, papers: bytes) -> None:
        """Nobody asks for one where nothing is kept."""

    def hear_inbox(self, papers: bytes) -> None: ...

    def go_on(self, host: HostLink) -> None: ...

    def lost(self, host: HostLink) -> None: ...

    def follow(self, snapshot: Snapshot) -> None: ...

    def tick(self, now: float) -> None: ...

    async def prepare(self) -> None: ...

    async def run(self) -> None: ...

    def statistics(self) -> dict[str, object]:
        return {}


class Keeping:
    """With one. Whoever opened the backbone runs and closes it."""

    def __init__(
        self,
        backbone: Backbone,
        snapshot: Snapshot,
        clock: Clock,
        *,
        asking: Asking,
        counts: Counts,
        end: End,
        find: Find,
        interest: Interest,
        now_ms: Callable[[], int],
        offences: Offences,
        pacing: Pacing,
        passed_ms: Callable[[], int],
        requests: Requests,
        router: Router,
        spread: Spread,
        subscribing: Subscribing,
        verifier: Verifier,
    ) -> None:
        self._backbone = backbone
        self._classes = Classes(backbone, snapshot, clock, passed_ms=passed_ms)
        self._inboxes = Inboxes(backbone, clock, verifier, now_ms, offences)
        self._inboxes.changed = interest.inbox_renewed
        interest.inbox_papers = self._inboxes.papers
        self._kept = Kept(backbone, asking, find, clock, verifier=verifier, now_ms=now_ms, offences=offences)
        self._standing = Standing(backbone, self._classes, self._inboxes, interest=interest, router=router, subscribing=subscribing)
        recent = Recent()
        self._storing = Storing(
            backbone, self._classes, clock, counts=counts, offences=offences, pacing=pacing, recent=recent, spread=spread
        )
        self._consuming = Consuming(
            backbone, self._classes, self._kept, self._standing, clock,
            counts=counts, end=end, interest=interest, now_ms=now_ms, offences=offences, passed_ms=passed_ms,
            recent=recent, requests=requests,
        )  # fmt: skip
        self._syncing = Syncing(clock)
        self.publish, self.keep = self._storing.publish, self._storing.keep
        self.begin, self.leave, self.credit = self._consuming.begin, self._consuming.leave, self._consuming.credit
        self.settle, self.go_on = self._consuming.settle, self._consuming.go_on
        self.ping = self._syncing.ping
        self.ask, self.ask_papers = self._kept.ask, self._kept.ask_papers
        self.show_inbox, self.hear_inbox = self._inboxes.show, self._inboxes.hear

    def lost(self, host: HostLink) -> None:
        self._storing.lost(host)
        if host.is_neighbour:
            self._standing.look_again()

    def follow(self, snapshot: Snapshot) -> None:
        self._classes.follow(snapshot)
        self._standing.follow()
        self._consuming.follow()

    def tick(self, now: float) -> None:
        self._classes.tick(now)

    async def prepare(self) -> None:
        await self._classes.settled()
        await self._standing.refresh()

    async def run(self) -> None:
        async with anyio.create_task_group() as group:
            for part in (self._storing, self._kept, self._inboxes, self._standing, self._consuming, self._syncing):
                group.start_soon(part.run)
            group.start_soon(self._classes.run, self._standing.refresh)

    def statistics(self) -> dict[str, object]:
        return {
            "storing": len(self._storing),
            "consumers_open": len(self._consuming),
            "backbone": self._backbone.statistics(),
        }


def _busy(crossing: Crossing) -> VerificationError:
    return VerificationError("busy", agent=crossing.header.sender, detail="this broker keeps nothing: open it with a state folder")
