"""What arrives is judged, or waits in its lane until it can be; a grant or papers that come release what waited for them.

    missing_key      waits for the grant of its epoch
    missing_papers   waits for the papers of its session; grants may wait for these too
    anything else    passes or is refused at once, and so is what was released, as if it came only now

Whatever was handed in comes out once: received or granted, refused, or let go. Whoever handed it in knows it by its ticket.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from bus.errors import BusError, VerificationError
from bus.identity.envelopes.granting import Granted, open_grant
from bus.identity.envelopes.held import Held
from bus.identity.envelopes.listening import Listening, Subscription
from bus.identity.envelopes.receive import Parked, Received, receive
from bus.identity.envelopes.snapshot import Snapshot
from bus.identity.epochs.asking import Asks, Missing
from bus.identity.epochs.own_keys import OwnKeys
from bus.identity.epochs.parking import LetGo, Parking
from bus.protocol import envelope as envelopes
from bus.protocol import grants
from bus.protocol import header as headers
from bus.protocol.header import Header

KEY: Final = "missing_key"
PAPERS: Final = "missing_papers"


class Arrived(NamedTuple):
    """An envelope as it came."""

    data: bytes
    ticket: Any
    dead: bool = False
    is_grant: bool = False
    named: frozenset[Subscription] | None = None
    """Those alone may get it."""


class Outcome(NamedTuple):
    """What became of one."""

    ticket: Any
    result: Received | Granted | BusError | LetGo[Arrived]


class Moment(NamedTuple):
    """What is judged by. `tick_ms` is of a clock that never runs backwards."""

    snapshot: Snapshot
    listening: Listening
    now_ms: int
    tick_ms: int


class Admitting:
    """`on_granted` is told of each grant that opened."""

    def __init__(self, held: Held, keys: OwnKeys, on_granted: Callable[[Granted], None]) -> None:
        self._held, self._keys, self._on_granted = held, keys, on_granted
        self.asks = Asks()
        self.parking: Parking[Arrived] = Parking(self.asks)
        self._news: deque[Missing] = deque()
        self.granted = 0
        self.refused: Counter[str] = Counter()
        """Grants, by reason."""

    def arrive(self, one: Arrived, moment: Moment) -> list[Outcome]:
        """What came of it, and of what it released. Nothing, if it waits now."""
        outcomes: list[Outcome] = []
        header = self._behind(one) if self.parking.parked else None
        waits: tuple[Header, Missing | None] | None = None
        if header is None:
            waits = self._judge(one, moment, outcomes)
        else:
            waits = header, self._will_miss(header)
        if waits is not None:
            gone = self.parking.park(one, waits[0], len(one.data), waits[1], now_ms=moment.tick_ms)
            if gone is not None:
                outcomes.append(Outcome(one.ticket, gone))
        if self._news:
            self._release(moment, outcomes)
        return outcomes

    def papers_came(self, session: bytes) -> None:
        """These papers are believed now; what waits for them goes on with the next call."""
        if self.parking.parked:
            self._news.append(Missing(PAPERS, session))

    def go_on(self, moment: Moment) -> list[Outcome]:
        """What came of those that need not wait any more."""
        outcomes: list[Outcome] = []
        self._release(moment, outcomes)
        return outcomes

    def expire(self, moment: Moment) -> list[Outcome]:
        """What became of those that waited too long, and of those behind them."""
        outcomes: list[Outcome] = []
        gone = self.parking.expire(self._judge_for(moment, outcomes), now_ms=moment.tick_ms)
        outcomes[:0] = [Outcome(one.item.ticket, one) for one in gone]
        self._release(moment, outcomes)
        return outcomes

    def empty(self, *, tick_ms: int) -> list[Outcome]:
        """Let go of all that waits."""
        return [Outcome(one.item.ticket, one) for one in self.parking.empty(now_ms=tick_ms)]

    # ---- one envelope --------------------------------------------------------------------------------------------------------

    def _behind(self, one: Arrived) -> Header | None:
        """Its header, if it has to queue behind another one. What has no right form is judged at once."""
        try:
            header = headers.parse(envelopes.split(one.data)[0])
            if one.is_grant:
                grants.check_size(len(one.data), header)
        except BusError:
            return None
        return header if self.parking.blocks(header) else None

    def _will_miss(self, header: Header) -> Missing | None:
        """So that it is asked for while those before it wait."""
        if header.kind == headers.DATA and header.epoch not in self._held.epochs:
            return Missing(KEY, header.epoch)
        return None if header.session in self._held.sessions else Missing(PAPERS, header.session)

    def _judge(self, one: Arrived, moment: Moment, outcomes: list[Outcome]) -> tuple[Header, Missing] | None:
        try:
            got = self._open(one, moment) if one.is_grant else self._receive(one, moment)
        except BusError as error:
            if one.is_grant:
                self.refused[str(getattr(error, "reason", type(error).__name__))] += 1
            outcomes.append(Outcome(one.ticket, error))
            return None
        if isinstance(got, Parked):
            return got.header, Missing(got.reason, got.header.epoch if got.reason == KEY else got.header.session)
        outcomes.append(Outcome(one.ticket, got))
        return None

    def _receive(self, one: Arrived, moment: Moment) -> Received | Parked:
        snapshot, listening, now_ms, _ = moment
        return receive(one.data, self._held, snapshot=snapshot, listening=listening, now_ms=now_ms, dead=one.dead, named=one.named)

    def _open(self, one: Arrived, moment: Moment) -> Granted | Parked:
        try:
            got = self._open_with(self._held, one, moment)
        except VerificationError as error:
            if error.reason != "too_many_epochs":
                raise
            # What an agent sealed itself is not for hearing: it may be granted again, however many epochs are heard.
            got = self._open_with(Held(self._held.verifier, sessions=self._held.sessions), one, moment)
            if isinstance(got, Granted) and got.reader != got.epoch.params.sender:
                raise
        if isinstance(got, Granted):
            self.granted += 1
            self._news.append(Missing(KEY, got.epoch.id))
            self._on_granted(got)
        return got

    def _open_with(self, held: Held, one: Arrived, moment: Moment) -> Granted | Parked:
        return open_grant(one.data, held, keys=self._keys.table, snapshot=moment.snapshot, now_ms=moment.now_ms)

    # ---- releasing -----------------------------------------------------------------------------------------------------------

    def _judge_for(self, moment: Moment, outcomes: list[Outcome]) -> Callable[[Arrived], Missing | None]:
        def judge(one: Arrived) -> Missing | None:
            waits = self._judge(one, moment, outcomes)
            return None if waits is None else waits[1]

        return judge

    def _release(self, moment: Moment, outcomes: list[Outcome]) -> None:
        """A grant that waited for papers brings a key, which releases others."""
        judge = self._judge_for(moment, outcomes)
        while self._news:
            self.parking.found(self._news.popleft(), judge, now_ms=moment.tick_ms)
