"""Durable envelopes on their way to the disk: what comes while one commit runs goes along with the next.

kept first    grants that readers of kept messages will need, and the papers of every session that signed: on disk before an
              envelope that needs them is called stored. A turn with a grant is credited when the grant is on disk; until then
              it is tried again, and its sender has it still
stored        STORED for each turn, then the copies for those who listen live, then the turn's credit
not stored    where the disk takes nothing: refused one by one, so that whoever waits for it hears so
too much      of one link: the lanes that bring it are stopped; beyond that, and in all, it is refused
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import anyio

from bus.backbone.interface import Backbone, Entry, Grant, Papers
from bus.broker.counts import Counts
from bus.broker.crossing import Crossing
from bus.broker.durable_classes import Classes
from bus.broker.durable_recent import Recent
from bus.broker.host_link import HostLink
from bus.broker.offences import Offences
from bus.broker.pacing import Pacing, Turn
from bus.broker.stopping import Stops
from bus.clock import Clock
from bus.errors import BackboneError, BusError, VerificationError
from bus.protocol import grants
from bus.protocol.frames import MAX_ROWS, Frame

STOP_BYTES: Final = 4 << 20
"""Of one link: from there on its lanes are stopped."""
MAX_LINK_BYTES: Final = 16 << 20
MAX_BYTES: Final = 48 << 20
"""In all; a backbone takes 64 MiB."""
LOT: Final = 4_096
LOT_BYTES: Final = 8 << 20
"""Of one commit."""
RETRY_SECONDS: Final = 1.0
PAPERS_MS: Final = 2 * 86_400_000
"""An epoch of kept messages lives a day, and what is granted or signed within it needs papers until the last of it is gone."""
MAX_SESSIONS: Final = 16_384
MAX_LACKING: Final = 4_096
MAX_GRANTS: Final = 16
"""Of one epoch for one reader by one sender."""
MAX_COUNTED: Final = 16_384


@dataclass(slots=True, eq=False)
class _Lot:
    """What goes to disk together."""

    crossings: list[Crossing] = field(default_factory=list)
    grants: list[Crossing] = field(default_factory=list)


class Storing:
    """`spread` gives envelopes that are stored to those who listen live."""

    def __init__(
        self,
        backbone: Backbone,
        classes: Classes,
        clock: Clock,
        *,
        counts: Counts,
        offences: Offences,
        pacing: Pacing,
        recent: Recent,
        spread: Callable[[list[Crossing]], None],
    ) -> None:
        self._backbone, self._classes, self._clock = backbone, classes, clock
        self._counts, self._offences, self._pacing = counts, offences, pacing
        self._recent, self._spread = recent, spread
        self._next = _Lot()
        self._bytes = 0
        self._wanted, self._is_wanted = anyio.Event(), False
        self._stops: dict[HostLink, Stops] = {}
        self._sessions: dict[bytes, int] = {}
        """Whose papers are kept, and until when."""
        self._lacking: dict[bytes, None] = {}
        """Epochs of which a grant could not be kept: what is sealed in them could not be read by everybody."""
        self._granted: dict[tuple[bytes, str, str], int] = {}
        self._highest: dict[str, int] = {}
        """Of each class the last position that was given, to know again what was stored before."""

    def __len__(self) -> int:
        """Envelopes that wait for the disk."""
        return self._counts.kept - self._counts.stored - self._counts.not_stored.total()

    # ---- coming ----------------------------------------------------------------------------------------------------------------

    def publish(self, crossing: Crossing) -> None:
        """An envelope of a durable topic was admitted. Raises VerificationError("busy")."""
        if crossing.header.epoch in self._lacking:
            raise _busy(crossing, "a grant of its epoch could not be kept")
        self._take(crossing)
        self._next.crossings.append(crossing)
        self._recent.put(crossing.envelope, crossing.header)
        self._counts.kept += 1
        host = crossing.turn.host
        if crossing.lane is not None and host.storing_bytes > STOP_BYTES:
            self._stops.setdefault(host, Stops()).stop(crossing.lane)

    def keep(self, crossing: Crossing) -> None:
        """A grant. Raises VerificationError("busy")."""
        try:
            self._count(crossing)
            self._take(crossing)
        except VerificationError:
            self._lack(crossing)
            raise
        self._next.grants.append(crossing)

    def _count(self, crossing: Crossing) -> None:
        """Whoever reads gets all that is kept for it: a sender has a few keys of it to seal to, and not thousands."""
        header = crossing.header
        key = header.epoch, header.topic, header.sender
        count = self._granted[key] = self._granted.pop(key, 0) + 1
        if len(self._granted) > MAX_COUNTED:
            del self._granted[next(iter(self._granted))]
        if count > MAX_GRANTS:
            raise _busy(crossing, "more grants of one epoch for one reader than it can have keys")

    def _take(self, crossing: Crossing) -> None:
        size, host = len(crossing.envelope), crossing.turn.host
        if host.storing_bytes + size > MAX_LINK_BYTES or self._bytes + size > MAX_BYTES:
            raise _busy(crossing, "the disk is slower than what comes")
        host.storing_bytes += size
        self._bytes += size
        crossing.turn.unstored += 1
        if not self._is_wanted:
            self._want()

    def _want(self) -> None:
        self._is_wanted = True
        self._wanted.set()

    def _leave(self, crossing: Crossing) -> None:
        """It waits here no more."""
        size, host = len(crossing.envelope), crossing.turn.host
        host.storing_bytes -= size
        self._bytes -= size

    # ---- to the disk -----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted, self._is_wanted = anyio.Event(), False
            lot, rest = self._split()
            self._next = rest
            if rest.crossings or rest.grants:
                self._want()
            await self._store(lot)

    def _split(self) -> tuple[_Lot, _Lot]:
        """What goes now, and what waits for the next time."""
        lot, size, place = self._next, 0, 0
        for place, crossing in enumerate(lot.crossings):
            size += len(crossing.envelope)
            if place >= LOT or size > LOT_BYTES:
                break
        else:
            return lot, _Lot()
        place = max(place, 1)
        return _Lot(lot.crossings[:place], lot.grants), _Lot(lot.crossings[place:])

    async def _store(self, lot: _Lot) -> None:
        try:
            await self._classes.settled()
            if not await self._keep(lot):
                return
            entries = self._entries(lot)
            positions = await self._backbone.append(entries) if entries else []
        except BusError as error:
            self._not_stored(lot.crossings, error)
            return
        self._stored(lot.crossings, entries, positions)

    def _entries(self, lot: _Lot) -> list[Entry]:
        """By the classes of now; what is not durable any more goes."""
        of = self._classes.of
        entries: list[Entry] = []
        live: list[Crossing] = []
        for crossing in lot.crossings:
            header = crossing.header
            class_ = of(header.topic)
            if class_ is None or header.epoch in self._lacking:
                live.append(crossing)
            else:
                entries.append(Entry(class_, header.topic, header.sender, header.id, header.expires_ms, crossing.envelope))
        if live:
            gone = {*map(id, live)}
            lot.crossings = [crossing for crossing in lot.crossings if id(crossing) not in gone]
            self._not_stored(live, BackboneError("not_durable", "policy does not keep these topics any more"))
        return entries

    # ---- grants and papers first -----------------------------------------------------------------------------------------------

    async def _keep(self, lot: _Lot) -> bool:
        """Whether all that is needed is on disk. Else the envelopes are refused, and the grants wait."""
        papers = self._papers(lot)
        if not papers and not lot.grants:
            return True
        try:
            await self._backbone.keep(grants=[self._grant(crossing) for crossing in lot.grants], papers=papers)
        except BusError as error:
            self._not_stored(lot.crossings, error)
            if isinstance(error, BackboneError) and error.code == "too_many":
                await self._keep_apart(lot.grants)
            else:
                self._next.grants[:0] = lot.grants
                await self._clock.sleep(RETRY_SECONDS)
                self._want()
            return False
        for one in papers:
            self._sessions[one.session] = one.until_ms
        while len(self._sessions) > MAX_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        self._are_kept(lot.grants)
        return True

    async def _keep_apart(self, crossings: Iterable[Crossing]) -> None:
        """Somebody has too many: the others need not suffer for it."""
        for crossing in crossings:
            try:
                await self._backbone.keep(grants=[self._grant(crossing)])
            except BusError as error:
                self._offences.note(crossing.header.sender, "a grant is not kept", str(error), now=self._clock.monotonic())
                self._lack(crossing)
            self._are_kept([crossing])

    def _grant(self, crossing: Crossing) -> Grant:
        """For as long as it says, unless that is longer than anything is kept."""
        header = crossing.header
        until_ms = min(header.expires_ms, header.sent_ms + self._classes.longest_ms + PAPERS_MS)
        return Grant(header.epoch, grants.reader_of(header), header.sender, header.ref, until_ms, crossing.envelope)

    def _papers(self, lot: _Lot) -> list[Papers]:
        needed: dict[bytes, Papers] = {}
        longest_ms = self._classes.longest_ms
        for crossing in (*lot.crossings, *lot.grants):
            believed = crossing.believed
            if believed.id not in needed and self._sessions.get(believed.id, 0) < crossing.header.sent_ms + longest_ms:
                until_ms = believed.not_after_ms + longest_ms + PAPERS_MS
                needed[believed.id] = Papers(believed.id, believed.name, until_ms, believed.papers.encode())
        return [*needed.values()]

    def _lack(self, crossing: Crossing) -> None:
        self._lacking[crossing.header.epoch] = None
        if len(self._lacking) > MAX_LACKING:
            del self._lacking[next(iter(self._lacking))]

    def _are_kept(self, crossings: Iterable[Crossing]) -> None:
        for crossing in crossings:
            self._leave(crossing)
            self._pacing.stored(crossing.turn, 1)
        self._pacing.flush()

    # ---- afterwards ------------------------------------------------------------------------------------------------------------

    def _stored(self, crossings: list[Crossing], entries: list[Entry], positions: list[int]) -> None:
        rows: dict[Turn, list[tuple[bytes, int]]] = {}
        new: list[Crossing] = []
        highest = self._highest
        for crossing, entry, position in zip(crossings, entries, positions, strict=True):
            turn = crossing.turn
            found = rows.get(turn)
            if found is None:
                found = rows[turn] = []
            found.append((entry.id, position))
            size = len(entry.envelope)
            turn.host.storing_bytes -= size
            self._bytes -= size
            if position > highest.get(entry.class_, 0):
                highest[entry.class_] = position
                new.append(crossing)
        self._counts.stored += len(entries)
        for turn, stored in rows.items():
            for start in range(0, len(stored), MAX_ROWS):
                turn.host.send(Frame.STORED, turn.number, stored[start : start + MAX_ROWS])
        self._spread(new)
        self._done({turn: len(stored) for turn, stored in rows.items()})

    def _not_stored(self, crossings: Iterable[Crossing], error: BusError) -> None:
        why = error.code if isinstance(error, BackboneError) else type(error).__name__
        turns: Counter[Turn] = Counter()
        for crossing in crossings:
            self._leave(crossing)
            self._counts.not_stored[why] += 1
            crossing.turn.host.send(Frame.REFUSE, "busy", crossing.header.id)
            turns[crossing.turn] += 1
        if turns:
            what = f"messages on durable topics are not stored, and refused: {why}"
            self._offences.note("this broker", what, str(error), now=self._clock.monotonic())
        self._done(turns)

    def _done(self, turns: Mapping[Turn, int]) -> None:
        for turn, count in turns.items():
            self._pacing.stored(turn, count)
            stops = self._stops.get(turn.host) if self._stops else None
            if stops is not None and turn.host.storing_bytes <= STOP_BYTES // 2:
                del self._stops[turn.host]
                stops.emptied()
        self._pacing.flush()

    def lost(self, host: HostLink) -> None:
        """The link is gone. What it brought is stored all the same: the link that comes next hears so."""
        self._stops.pop(host, None)


def _busy(crossing: Crossing, detail: str) -> VerificationError:
    return VerificationError("busy", agent=crossing.header.sender, detail=detail)
