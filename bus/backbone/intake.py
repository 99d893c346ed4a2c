"""The way in: entries get positions, duplicates their first one's, and what is stored goes to whoever waits for it.

Positions are given here, before anything is written, so that a thread that writes need not answer. Those of a commit that failed
are never given again: they are gaps, which nobody can tell from records of other topics.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from bus.backbone.class_log import ClassLog, Ring
from bus.backbone.interface import DEAD, DEDUPLICATION_MS, Entry
from bus.backbone.outcome import Outcome
from bus.backbone.storage import Block, Changes, Commit, Storage
from bus.backbone.tally import Tally
from bus.clock import Clock
from bus.errors import BackboneError, OverloadedError, twin
from bus.flow.duplicates import Duplicates, Key

if TYPE_CHECKING:
    from bus.backbone.consumer import LocalConsumer

BLOCK_BYTES: Final = 1 << 20
RECORD_BYTES: Final = 1 << 10
"""Charged for each record, so that a block has at most 1,024."""
MAX_WAITING_BYTES: Final = 64 << 20
"""Of what is not on disk yet; a broker lets less than that wait."""


class Intake:
    def __init__(self, storage: Storage, clock: Clock, tally: Tally, *, ring: Ring, recent: Sequence[Block]) -> None:
        self.logs: dict[str, ClassLog] = {}
        self.passed_ms = 0
        """The latest instant that is known to have passed."""
        self.consumers: dict[str, dict[LocalConsumer, None]] = {}
        """The open ones of each class."""
        self._storage, self._clock, self._tally, self._ring = storage, clock, tally, ring
        self._waiting_bytes = 0
        self._failure: BackboneError | None = None
        """Of the last commit that failed."""
        self._duplicates = Duplicates(keep_ms=DEDUPLICATION_MS)
        for block in recent:
            if not block.entries[0].topic.startswith(DEAD):
                self._duplicates.stored(block.keys, block.first, now_ms=block.stored_ms)

    def log(self, class_: str) -> ClassLog:
        """Raises BackboneError("unknown_class")."""
        log = self.logs.get(class_)
        if log is None:
            raise BackboneError(
                "unknown_class", f"no durable topics of policy are kept as {class_!r}: give `retain` the classes first"
            )
        return log

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        if self._waiting_bytes > MAX_WAITING_BYTES:
            raise OverloadedError("the journal", pending=self._waiting_bytes, limit=MAX_WAITING_BYTES)
        pending, failure = self._duplicates.pending, self._failure
        keys = [(entry.sender, entry.id) for entry in entries]
        known = self._duplicates.find(keys, now_ms=self._clock.now_ms())
        new: dict[Key, Entry] = {}
        for key, entry in zip(keys, entries, strict=True):
            if key not in pending and key not in new and key not in known:
                new[key] = entry
        blocks = self._blocks(new.values())
        for block in blocks:
            pending.update(zip(block.keys, range(block.first, block.last + 1), strict=True))
        self._tally.duplicates += len(keys) - len(new)
        positions = [known.get(key) or pending[key] for key in keys]
        await self.store(blocks).wait()
        if len(new) < len(keys):
            self._check_first_ones(keys, failure)
        return positions

    def store(self, blocks: Sequence[Block], *, changes: Changes | None = None) -> Outcome:
        """Have these blocks on disk, with these changes."""
        outcome, now_ms = Outcome(), self._clock.now_ms()
        for block in blocks:
            log = self.logs[block.class_]
            log.next_position = block.last + 1
            block.stored_ms, block.lane = log.stamp(now_ms), log.settings.retention_ms
            self._waiting_bytes += block.measure()
        commit = Commit(lambda error: self._done(commit, outcome, error), blocks, changes=changes)
        self._storage.submit(commit)
        return outcome

    def _blocks(self, entries: Iterable[Entry]) -> list[Block]:
        """Of each class one after the other, none too large to be read back at once."""
        by_class: dict[str, list[Entry]] = {}
        for entry in entries:
            by_class.setdefault(entry.class_, []).append(entry)
        blocks: list[Block] = []
        for log in [self._taking(class_) for class_ in by_class]:
            for some in _in_parts(by_class[log.settings.name]):
                blocks.append(Block(log.settings.name, log.next_position, some))
                log.next_position = blocks[-1].last + 1
        return blocks

    def new_block(self, class_: str) -> Block:
        log = self.logs[class_]
        return Block(class_, log.next_position, [])

    def statistics(self) -> dict[str, int]:
        return {
            "remembered": self._duplicates.count,
            "forgotten_early": self._duplicates.forgotten_early,
            "waiting_bytes": self._waiting_bytes,
            "ring_bytes": self._ring.size_bytes,
        }

    def _taking(self, class_: str) -> ClassLog:
        log = self.log(class_)
        if not log.takes:
            raise BackboneError("unknown_class", f"policy keeps nothing as {class_!r} any more: what is there can still be read")
        return log

    def _done(self, commit: Commit, outcome: Outcome, error: BackboneError | None) -> None:
        if error is not None:
            self._tally.failures += 1
            self._failure = error
        now_ms = self._clock.now_ms()
        for block in commit.blocks:
            self._waiting_bytes -= block.size_bytes
            stored = block not in commit.failed
            if not block.entries[0].topic.startswith(DEAD):  # a dead letter has the id of its original
                self._remember(block, now_ms, stored=stored)
            if not stored:
                continue
            self._ring.add(self.logs[block.class_], block)
            topics = frozenset([entry.topic for entry in block.entries])
            for consumer in self.consumers.get(block.class_, ()):
                consumer.stored(block, topics)
        outcome.tell(error)

    def _remember(self, block: Block, now_ms: int, *, stored: bool) -> None:
        keys = block.keys
        if stored:
            self._tally.appended += len(keys)
            self._duplicates.stored(keys, block.first, now_ms=now_ms)
        else:
            self._duplicates.forget(keys)

    def _check_first_ones(self, keys: Sequence[Key], failure: BackboneError | None) -> None:
        """Whoever brought a duplicate waited behind the first one. Raises what that failed with, if it did meanwhile."""
        if self._failure is None or self._failure is failure:
            return
        known = self._duplicates.find(keys, now_ms=self._clock.now_ms())
        if any(key not in known and key not in self._duplicates.pending for key in keys):
            raise twin(self._failure)


def _in_parts(entries: list[Entry]) -> Iterator[list[Entry]]:
    """In their order, each part of at most so many bytes, or of one entry."""
    room, start = BLOCK_BYTES, 0
    for place, entry in enumerate(entries):
        room -= len(entry.envelope) + RECORD_BYTES
        if room < 0 and place > start:
            yield entries[start:place]
            start, room = place, BLOCK_BYTES - len(entry.envelope) - RECORD_BYTES
    yield entries[start:]
