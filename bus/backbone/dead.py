"""What consumers gave up: buried as records of `_dead.<topic>`, in the class of the original, with an entry in a list.

A record that was given up is neither outstanding nor settled until its dead letter is stored: a full disk or a crash between the
two brings it again. The list is bounded for each class; past that the oldest letter makes room.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

import anyio

from bus.backbone.intake import Intake
from bus.backbone.interface import DEAD, DeadLetter, Entry
from bus.backbone.storage import Block, Changes
from bus.backbone.tally import Tally
from bus.clock import Clock
from bus.errors import BackboneError
from bus.flow.unsettled import Given
from bus.protocol.codec import pack

if TYPE_CHECKING:
    from bus.backbone.consumer import LocalConsumer

MAX_DEAD: Final = 16_384
"""Dead letters of one class."""
MAX_REASON: Final = 64
_AT_ONCE: Final = 64


class _Grave(NamedTuple):
    consumer: LocalConsumer
    given: Given
    reason: str


class Cemetery:
    def __init__(self, intake: Intake, clock: Clock, tally: Tally, letters: Sequence[DeadLetter]) -> None:
        self._intake, self._clock, self._tally = intake, clock, tally
        self._graves: deque[_Grave] = deque()
        self._busy = anyio.Lock()
        self._letters: dict[str, dict[int, DeadLetter]] = {}
        for letter in sorted(letters, key=lambda letter: letter.position):
            self._letters.setdefault(letter.class_, {})[letter.position] = letter

    def __len__(self) -> int:
        return sum(map(len, self._letters.values()))

    def holds(self, class_: str, position: int) -> bool:
        return position in self._letters.get(class_, {})

    def listed(self, *, class_: str, after: int, most: int) -> list[DeadLetter]:
        chosen = [class_] if class_ else sorted(self._letters)
        found = [letter for name in chosen for letter in self._letters.get(name, {}).values() if letter.position > after]
        return found[:most]

    def letter(self, class_: str, position: int) -> DeadLetter:
        """Raises BackboneError("unknown_dead")."""
        found = self._letters.get(class_, {}).get(position)
        if found is None:
            raise BackboneError(
                "unknown_dead", f"there is no dead letter {position} in the class {class_!r}; list them to see which there are"
            )
        return found

    def remove(self, letter: DeadLetter) -> None:
        self._letters[letter.class_].pop(letter.position, None)

    def ended(self, class_: str, *, before_ms: int) -> list[DeadLetter]:
        """Those of one class that died before."""
        return [letter for letter in self._letters.get(class_, {}).values() if letter.died_ms <= before_ms]

    # ---- burying ---------------------------------------------------------------------------------------------------------------

    def gave_up(self, consumer: LocalConsumer, given: Sequence[Given], reason: str) -> None:
        self._graves += [_Grave(consumer, one, reason) for one in given]

    async def bury(self) -> None:
        """Store the dead letters of all that was given up. Raises BackboneError; then they wait for the next time."""
        async with self._busy:
            while self._graves:
                lot = [self._graves[place] for place in range(min(_AT_ONCE, len(self._graves)))]
                await self._bury(lot)
                for _ in lot:
                    self._graves.popleft()

    async def _bury(self, lot: Sequence[_Grave]) -> None:
        letters: list[DeadLetter] = []
        found = [(await grave.consumer.log.fetch([grave.given.position])).get(grave.given.position) for grave in lot]
        blocks: dict[str, Block] = {}
        for grave, record in zip(lot, found, strict=True):
            if record is not None and not grave.consumer.reads_dead:
                letters.append(self._letter(blocks, grave, record))
        self._tally.lost += len(lot) - len(letters)
        if letters:
            await self._keep(blocks, letters)
        for grave in lot:
            grave.consumer.buried(grave.given.position)

    def _letter(self, blocks: dict[str, Block], grave: _Grave, record: Entry) -> DeadLetter:
        log, (original, deliveries) = grave.consumer.log, grave.given
        class_, now_ms, reason = log.settings.name, self._clock.now_ms(), grave.reason[:MAX_REASON]
        block = blocks.get(class_) or blocks.setdefault(class_, self._intake.new_block(class_))
        frame = pack([reason, deliveries, record.envelope])
        position = block.first + len(block.entries)
        until_ms = now_ms + log.settings.retention_ms
        block.entries.append(Entry(class_, DEAD + record.topic, record.sender, record.id, until_ms, frame))
        return DeadLetter(
            class_, position, record.topic, record.sender, record.id, grave.consumer.name, original, reason, deliveries, now_ms
        )

    async def _keep(self, blocks: dict[str, Block], letters: list[DeadLetter]) -> None:
        for letter in letters:  # before consumers of dead letters hear of the block
            self._letters.setdefault(letter.class_, {})[letter.position] = letter
        surplus = [letter for class_ in blocks for letter in [*self._letters[class_].values()][: -MAX_DEAD or None]]
        undead = [(letter.class_, letter.position) for letter in surplus]
        try:
            await self._intake.store([*blocks.values()], changes=Changes(dead=letters, undead=undead)).wait()
        except BackboneError:
            for letter in letters:
                self.remove(letter)
            raise
        for letter in surplus:
            self.remove(letter)
        self._tally.dead += len(letters)
        self._tally.lost += len(surplus)
