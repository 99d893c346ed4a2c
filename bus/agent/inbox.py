"""What a host hears: envelopes are opened once, and handed to the subscriptions that are named for them and that they match.

The broker names subscriptions, so that one member of a group gets a message and a durable one is counted; who may get it at all is
decided here, by the verified topic. What is refused reaches nobody, and is reported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from bus.agent.apart import USUAL_DELAY
from bus.agent.message import Answer, Batch
from bus.agent.requests import Requests
from bus.agent.settling import Settling
from bus.agent.subscription import Subscription
from bus.errors import BusError
from bus.identity.envelopes.granting import Granted
from bus.identity.envelopes.listening import Listening
from bus.identity.envelopes.listening import Subscription as Hears
from bus.identity.envelopes.receive import Received
from bus.identity.epochs.admitting import KEY, Moment, Outcome
from bus.identity.epochs.keyring import Keyring
from bus.identity.epochs.parking import MAX_WAIT_MS, LetGo
from bus.protocol import envelope as envelopes
from bus.protocol import header as headers
from bus.protocol.envelope import is_grant
from bus.protocol.frames import numbers, parse_dead_letter
from bus.transport.soon import Soon, scheduler

STALE: Final = "trust_stale"
"""Nothing at all can be taken: to give it back one by one would only make dead letters of it."""
MAY_PASS_LATER: Final = frozenset(("from_future", "ledger_full", "too_many_epochs", "busy"))
"""Reasons that are not the envelope's own."""
NOT_GRANTED: Final = "not_granted"
"""The sender does not let this agent read that: an answer, and no reason to wait for one."""
IMPATIENT_MS: Final = 3 * MAX_WAIT_MS
"""With a shorter `ack_wait` the broker would count as delivered what only waits here for its key, or is being put off."""
MAX_COLUMNS: Final = 4_096
"""Of those who are named together, found once."""


class Ticket(NamedTuple):
    """What a delivery says beside its envelope."""

    subs: bytes
    deliveries: int
    position: int
    envelope: bytes
    reason: str = ""
    """Why it is a dead letter."""


class Named(NamedTuple):
    """Whom a delivery names."""

    subscriptions: frozenset[Subscription]
    hears: frozenset[Hears]


Unseal = Callable[[tuple[str, bytes], str, Callable[[], None]], bool]


class Inbox:
    """`refused` hears of what was refused: the envelope and why; `credit` of records that did not reach a subscription."""

    def __init__(
        self,
        keyring: Keyring,
        requests: Requests,
        *,
        answer: Answer,
        credit: Callable[[int, int], None],
        unseal: Unseal,
        refused: Callable[[bytes, str, BusError | None], None],
    ) -> None:
        self._keyring, self._requests, self._answer, self._refused = keyring, requests, answer, refused
        self._unseal, self._credit = unseal, credit
        self._dead: set[int] = set()
        """Numbers of the subscriptions to dead letters."""
        self._open: dict[int, tuple[Subscription, Hears]] = {}
        self._of: dict[Hears, Subscription] = {}
        self._settling: dict[int, Settling] = {}
        """Of durable subscriptions, by number."""
        self._named: dict[bytes, Named] = {}
        self._moment: Moment | None = None
        """By which all is judged that comes at once: clocks are not read for each."""
        self._soon: Soon | None = None
        self.taken = 0
        """Deliveries that the broker was not told of yet."""
        self.counts: Counter[str] = Counter()
        self.why_missing: Callable[[bytes], str] = lambda _epoch: KEY
        """Why the key of an epoch never came."""
        self.granted: Callable[[bytes], None] = lambda _epoch: None
        """Told of each epoch that a grant brought."""
        self.stale: Callable[[int], None] = lambda _number: None
        """Told of each durable subscription for which something came that cannot be judged, for want of news of trust."""
        keyring.listening = Listening((), *requests.view())

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Any:
        return iter([subscription for subscription, _ in self._open.values()])

    # ---- who listens ---------------------------------------------------------------------------------------------------------

    def add(self, one: Subscription, hears: Hears, settling: Settling | None = None) -> None:
        self._open[one.number] = one, hears
        if settling is not None:
            self._settling[one.number] = settling
        if hears.dead:
            self._dead.add(one.number)
        self._of[hears] = one
        self._keyring.listening.add(hears)
        self._named.clear()

    def remove(self, number: int) -> Subscription | None:
        found = self._open.pop(number, None)
        if found is None:
            return None
        one, hears = found
        settling = self._settling.pop(number, None)
        if settling is not None and self._keyring.waiting:
            self._put_off_parked(settling, number)
        self._dead.discard(number)
        del self._of[hears]
        self._keyring.listening.remove(hears)
        self._named.clear()
        return one

    def find(self, number: int) -> Subscription | None:
        found = self._open.get(number)
        return None if found is None else found[0]

    # ---- what comes ----------------------------------------------------------------------------------------------------------

    def deliver(self, subs: bytes, deliveries: int, position: int, envelope: bytes) -> None:
        self.taken += 1
        ticket = Ticket(subs, deliveries, position, envelope)
        if not subs and is_grant(envelope):
            self._grant(ticket)
        else:
            self._named_ones(ticket)

    def _named_ones(self, ticket: Ticket) -> None:
        """It is for those whom it names, and for nobody else whom it reaches. A reply is for who asked, and names nobody."""
        _, named = self._named_by(ticket.subs)
        moment = self._now()
        if ticket.subs and not named:
            self.counts["late"] += 1  # they have just ended
        elif ticket.position and self._dead and numbers(ticket.subs[:4])[0] in self._dead:
            reason, deliveries, original = parse_dead_letter(ticket.envelope)
            ticket = Ticket(ticket.subs, deliveries, ticket.position, original, reason)
            self.take(self._keyring.arrive(original, ticket, dead=True, named=named, moment=moment))
        else:
            self.take(self._keyring.arrive(ticket.envelope, ticket, named=named, moment=moment))

    def take(self, outcomes: list[Outcome]) -> None:
        """What came of this delivery, and of those that it released."""
        for ticket, result in outcomes:
            if type(result) is Received:
                self._received(ticket, result)
            elif isinstance(result, BusError):
                reason = str(getattr(result, "reason", type(result).__name__))
                self.counts["refused"] += 1
                self._refused(ticket.envelope, reason, result)
                self._not_handed_over(ticket, reason)
                self._give_back(ticket)
            elif isinstance(result, LetGo):
                self.counts["let_go"] += 1
                self._refused(ticket.envelope, result.reason, None)
                for settling in self._durable(ticket):
                    self._put_off(settling, ticket, result)
                self._give_back(ticket)
            elif isinstance(result, Granted):
                self.counts["grants"] += 1
                self.granted(result.epoch.id)

    def _grant(self, ticket: Ticket) -> None:
        """Opened with a key in memory, or with one that has to be unsealed first."""

        def go_on() -> None:
            self.take(self._keyring.arrive(ticket.envelope, ticket, is_grant=True))

        try:
            place = self._keyring.sealed_to(ticket.envelope)
            sender = headers.parse(envelopes.split(ticket.envelope)[0]).sender
        except BusError:
            place, sender = None, ""  # it is judged as it is, and refused
        if place is None or not self._unseal(place, sender, go_on):
            go_on()

    def _received(self, ticket: Ticket, received: Received) -> None:
        if received.answers is not None:
            agent, _ = received.answers
            self._requests.answered(agent, received.header.ref, Batch(received, agent))
            return
        header = received.header
        named, _ = self._named_by(ticket.subs)
        records = 0
        for hears, indexes, redelivered in received.hearings:
            one = self._of.get(hears)
            if one is None or one not in named:
                continue
            settling = self._settling.get(one.number)
            batch = Batch(
                received,
                one.agent,
                indexes=indexes,
                redelivered=redelivered,
                deliveries=ticket.deliveries,
                position=ticket.position or None,
                answer=self._answer,
                settling=settling,
                dead_reason=ticket.reason,
            )
            count = len(batch)
            if not one.put(batch):
                self._not_asked_for(ticket, settling)
                continue
            records += count
            if settling is not None:
                settling.arrived(header, ticket.position)
        self.counts["delivered"] += records
        if received.refused or received.done:
            self._not_for_all(ticket, received, named)
        if records != header.records * len(named):
            self._give_back_rest(received, named)
            for settling in self._durable(ticket):
                settling.came_again(header, ticket.position)

    def _not_asked_for(self, ticket: Ticket, settling: Settling | None) -> None:
        """A broker that does not keep to the credit that it got."""
        self.counts["refused"] += 1
        self._refused(ticket.envelope, "busy", None)
        if settling is not None:
            settling.put_back(ticket.position, USUAL_DELAY)

    def _not_for_all(self, ticket: Ticket, received: Received, named: frozenset[Subscription]) -> None:
        """Some of those who are named may not have it, or had it before."""
        for hears, error in received.refused:
            if self._of.get(hears) in named:  # others of this host that match and may not hear it are nobody's business
                self.counts["refused"] += 1
                self._refused(ticket.envelope, error.reason, error)
        for hears in received.done:
            done = self._of.get(hears)
            if done in named and (settling := self._settling.get(done.number)) is not None:
                settling.ack_again(ticket.position)

    def _now(self) -> Moment:
        """The same for all that comes in one turn of the loop, unless policy or trust change."""
        moment = self._moment
        if moment is None or moment.snapshot is not self._keyring.snapshot:
            if moment is None:
                if self._soon is None:
                    self._soon = scheduler()
                self._soon(self._is_over)
            moment = self._moment = self._keyring.moment()
        return moment

    def _is_over(self) -> None:
        self._moment = None

    # ---- credit --------------------------------------------------------------------------------------------------------------

    def _give_back(self, ticket: Ticket) -> None:
        """What reaches nobody was counted by the broker all the same."""
        records = _records(ticket.envelope)
        for one in self._named_by(ticket.subs)[0]:
            self._credit(one.number, records)

    def _give_back_rest(self, received: Received, named: Collection[Subscription]) -> None:
        """The same of what did not reach all who were named, or not whole."""
        whole, got = received.header.records, Counter[Subscription]()
        for hears, indexes, _ in received.hearings:
            one = self._of.get(hears)
            if one is not None:
                got[one] += whole if indexes is None else len(indexes)
        for one in named:
            if got[one] < whole:
                self._credit(one.number, whole - got[one])

    # ---- what durable subscriptions say --------------------------------------------------------------------------------------

    def _durable(self, ticket: Ticket) -> list[Settling]:
        if not ticket.position:
            return []
        return [self._settling[number] for number in numbers(ticket.subs) if number in self._settling]

    def _not_handed_over(self, ticket: Ticket, reason: str) -> None:
        """What will be refused whenever it comes is ended; the rest may come again."""
        for settling in self._durable(ticket):
            if reason == STALE:
                self.stale(settling.place.number)
            elif reason in MAY_PASS_LATER:
                self._put_back(settling, ticket, USUAL_DELAY, reason)
            else:
                settling.end(ticket.position, reason)

    def _put_off(self, settling: Settling, ticket: Ticket, gone: LetGo[Any]) -> None:
        """It cannot be opened yet, so this was no delivery. That its sender does not grant it is an answer, and is counted."""
        header = headers.parse(envelopes.split(ticket.envelope)[0])
        why = self.why_missing(header.epoch) if gone.reason == KEY else gone.reason
        if why == NOT_GRANTED:
            self._put_back(settling, ticket, gone.again_in_ms, why)
        else:
            settling.put_off(ticket.position, gone.again_in_ms, why)

    def _put_off_parked(self, settling: Settling, number: int) -> None:
        """What still waits for its key here when a subscription goes comes to whoever opens that next."""
        for ticket in self._keyring.parked():
            if ticket.position and number in numbers(ticket.subs):
                settling.put_off(ticket.position, 0, KEY)

    def touch_parked(self) -> None:
        """To be called several times a second: what waits for its key stays ours until it is opened or put off."""
        if not (self._settling and self._keyring.waiting):
            return
        held: dict[Settling, list[int]] = {}
        for ticket in self._keyring.parked():
            for settling in self._durable(ticket):
                if settling in held or self._is_impatient(ticket):
                    held.setdefault(settling, []).append(ticket.position)
        for settling, positions in held.items():
            settling.still_here(positions)

    def _is_impatient(self, ticket: Ticket) -> bool:
        """All topics of a durable subscription are kept by one rule."""
        topic = headers.parse(envelopes.split(ticket.envelope)[0]).topic
        return self._keyring.snapshot.rule(topic).ack_wait_ms < IMPATIENT_MS

    def _put_back(self, settling: Settling, ticket: Ticket, delay_ms: int, reason: str) -> None:
        """The last time it is ended instead, so that its dead letter says why, and not only how often it was tried."""
        header = headers.parse(envelopes.split(ticket.envelope)[0])
        if ticket.deliveries < self._keyring.snapshot.rule(header.topic).max_deliver:
            settling.put_back(ticket.position, delay_ms)
        else:
            settling.end(ticket.position, reason)

    def _named_by(self, subs: bytes) -> Named:
        named = self._named.get(subs)
        if named is None:
            found = [self._open[number] for number in numbers(subs) if number in self._open]
            named = Named(frozenset(one for one, _ in found), frozenset(hears for _, hears in found))
            if 4 * len(named.hears) == len(subs):  # whatever else is named may be anything, and of any length
                if len(self._named) >= MAX_COLUMNS:
                    self._named.clear()
                self._named[subs] = named
        return named


def _records(envelope: bytes) -> int:
    """As the broker counted them."""
    try:
        return headers.parse(envelopes.split(envelope)[0]).records
    except BusError:
        return 1
