"""What a host asks others for: the key of an epoch, or the papers of a session. Once, then ever more rarely, and never a storm.

    asked       at once, then again after 1 s, 2 s, 4 s .. 60 s, as long as something needs it
    in flight   until it is answered, nothing needs it any more, or a second has passed; 32 at a time, the others wait their turn
    remembered  also while nothing needs it: what is delivered again and again must not begin again with "at once"
    in vain     two seconds after it was asked in vain, until it is asked again: nobody need wait for it now

Whoever makes up ids can have 32 questions a second asked, and nothing more. Pure; times are of a clock that never runs backwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final, NamedTuple

from bus.protocol.header import Header

FIRST_ASK_MS: Final = 1_000
LAST_ASK_MS: Final = 60_000
MAX_ASKS: Final = 32
ANSWER_MS: Final = 2_000
"""How long an answer is waited for."""
MAX_REMEMBERED: Final = 1_024
"""Questions that nothing needs at the moment."""


class Missing(NamedTuple):
    what: str
    """missing_key, missing_papers."""
    id: bytes
    """Of the epoch, or of the session."""


class Wanted(NamedTuple):
    """A question: to whom, and about what."""

    what: str
    id: bytes
    sender: str
    epoch: bytes
    topic: str
    """Of the first envelope that needs it."""


@dataclass(slots=True, eq=False)
class _Ask:
    header: Header
    next_ms: int
    asked_ms: int | None = None
    pause_ms: int = FIRST_ASK_MS
    needed: int = 0
    answered: bool = False
    listed: int = 0
    """The number of its entry among those that come up; 0 if it has none."""


class Asks:
    def __init__(self) -> None:
        self._known: dict[Missing, _Ask] = {}
        self._idle: dict[Missing, None] = {}
        self._coming: list[tuple[int, int, Missing]] = []
        self._flying: dict[Missing, int] = {}
        self._entries = 0
        self.asked = 0

    def __len__(self) -> int:
        """How many things are needed and not there."""
        return sum(ask.needed > 0 and not ask.answered for ask in self._known.values())

    def need(self, missing: Missing, header: Header, *, now_ms: int) -> None:
        """One more envelope, with this header, waits for it."""
        ask = self._known.get(missing)
        if ask is None:
            ask = self._known[missing] = _Ask(header, now_ms)
        elif ask.answered or now_ms - ask.next_ms > LAST_ASK_MS:  # it was there, or that was long ago
            ask.next_ms, ask.asked_ms, ask.pause_ms, ask.answered, ask.listed = now_ms, None, FIRST_ASK_MS, False, 0
        self._idle.pop(missing, None)
        ask.needed += 1
        if not ask.listed:
            self._list(missing, ask)

    def release(self, missing: Missing) -> None:
        """One envelope less waits for it."""
        ask = self._known[missing]
        ask.needed -= 1
        if ask.needed:
            return
        self._flying.pop(missing, None)
        if ask.answered:
            del self._known[missing]
            return
        self._idle[missing] = None
        if len(self._idle) > MAX_REMEMBERED:
            oldest = next(iter(self._idle))
            del self._idle[oldest], self._known[oldest]

    def answered(self, missing: Missing) -> None:
        """It is there now. What still counts as needing it will find it."""
        self._flying.pop(missing, None)
        ask = self._known.get(missing)
        if ask is not None and ask.needed:
            ask.answered = True
        elif ask is not None:
            del self._known[missing], self._idle[missing]

    def refused(self, missing: Missing) -> None:
        """Somebody said no. That may be a lie, so it is asked again when its time comes; until then others may ask."""
        self._flying.pop(missing, None)

    def due(self, *, now_ms: int) -> list[Wanted]:
        """What to ask for now."""
        while self._flying and self._flying[first := next(iter(self._flying))] <= now_ms:
            del self._flying[first]
        found = []
        while self._coming and self._coming[0][0] <= now_ms and len(self._flying) < MAX_ASKS:
            _, entry, missing = heappop(self._coming)
            ask = self._known.get(missing)
            if ask is None or ask.listed != entry:
                continue
            ask.listed = 0
            if not ask.needed or ask.answered:
                continue
            ask.asked_ms, ask.next_ms = now_ms, now_ms + ask.pause_ms
            ask.pause_ms = min(2 * ask.pause_ms, LAST_ASK_MS)
            self._list(missing, ask)
            self._flying[missing] = now_ms + FIRST_ASK_MS
            self.asked += 1
            found.append(Wanted(*missing, ask.header.sender, ask.header.epoch, ask.header.topic))
        return found

    def is_in_vain(self, missing: Missing, *, now_ms: int) -> bool:
        """Whether it was asked for, nobody answered, and it is not yet time to ask again."""
        ask = self._known.get(missing)
        if ask is None or ask.asked_ms is None or ask.answered:
            return False
        return ask.asked_ms + ANSWER_MS <= now_ms < ask.next_ms

    def again_in_ms(self, missing: Missing, *, now_ms: int) -> int:
        """When it makes sense to come back for this."""
        ask = self._known.get(missing)
        return FIRST_ASK_MS if ask is None else max(ask.next_ms - now_ms, FIRST_ASK_MS)

    def _list(self, missing: Missing, ask: _Ask) -> None:
        self._entries += 1
        ask.listed = self._entries
        heappush(self._coming, (ask.next_ms, self._entries, missing))
