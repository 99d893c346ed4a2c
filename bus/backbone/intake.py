"""The way in: entries get positions, duplicates their first one's, and what is stored goes to whoever waits for it.

Positions are given here, before anything is written, so that a thread that writes need not answer. Those of a commit that failed
are never given again: they are gaps, which nobody can tell from records of other topics.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from bus.backbone.class_log import ClassLog, Ring
from bus.backbone.interface import DEAD, DEDUPLICATION_MS, Entry
from bus.backbone.outcome import Outcome
from bus.backbone.storage import Block, Changes, Commit, Storage
from bus.backbone.tally import Tally
from bus.clock import Clock
from bus.errors import BackboneError, twin
from bus.flow.duplicates import Duplicates, Key

if TYPE_CHECKING:
    from bus.backbone.consumer import LocalConsumer


class Intake:
    def __init__(self, storage: Storage, clock: Clock, tally: Tally, *, ring: Ring, recent: Sequence[Block]) -> None:
        self.logs: dict[str, ClassLog] = {}
        self.consumers: dict[str, dict[LocalConsumer, None]] = {}
        """The open ones of each class."""
        self._storage, self._clock, self._tally, self._ring = storage, clock, tally, ring
        self._failure: BackboneError | None = None
        """Of the last commit that failed."""
        self._duplicates = Duplicates(keep_ms=DEDUPLICATION_MS)
        for block in recent:
            found = zip(block.topics, block.senders, block.ids, range(block.first, block.last + 1), strict=True)
            known = [((sender, id_), position) for topic, sender, id_, position in found if not topic.startswith(DEAD)]
            self._duplicates.known.update(known)
            self._duplicates.stored([key for key, _ in known], now_ms=block.stored_ms)

    def log(self, class_: str) -> ClassLog:
        """Raises BackboneError("unknown_class")."""
        log = self.logs.get(class_)
        if log is None:
            raise BackboneError(
                "unknown_class", f"no durable topics of policy are kept as {class_!r}: give `retain` the classes first"
            )
        return log

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        blocks = {class_: self._open_block(class_) for class_ in {entry.class_ for entry in entries}}
        known, positions, fresh = self._duplicates.known, [], []
        for class_, topic, sender, id_, expires_ms, envelope in entries:
            key = (sender, id_)
            position = known.get(key)
            if position is None:
                position = known[key] = blocks[class_].add(topic, sender, id_, expires_ms, envelope)
                fresh.append(key)
            positions.append(position)
        self._tally.duplicates += len(positions) - len(fresh)
        failure = self._failure
        await self.store([block for block in blocks.values() if block.envelopes], keys=fresh).wait()
        if len(fresh) < len(positions):
            self._check_first_ones(entries, failure)
        return positions

    def store(self, blocks: Sequence[Block], *, keys: Sequence[Key] = (), changes: Changes | None = None) -> Outcome:
        """Have these blocks on disk, with these changes."""
        outcome = Outcome()
        now_ms = self._clock.now_ms()
        for block in blocks:
            log = self.logs[block.class_]
            log.next_position = block.last + 1
            block.stored_ms = log.stamp(now_ms)
        self._storage.submit(Commit(partial(self._done, blocks, keys, outcome), blocks, changes=changes))
        return outcome

    def new_block(self, class_: str) -> Block:
        log = self.logs[class_]
        return Block(class_, log.next_position)

    def statistics(self) -> dict[str, int]:
        return {
            "remembered": len(self._duplicates.known),
            "forgotten_early": self._duplicates.forgotten_early,
            "ring_bytes": self._ring.size_bytes,
        }

    def _open_block(self, class_: str) -> Block:
        if not self.log(class_).takes:
            raise BackboneError("unknown_class", f"policy keeps nothing as {class_!r} any more: what is there can still be read")
        return self.new_block(class_)

    def _done(self, blocks: Sequence[Block], keys: Sequence[Key], outcome: Outcome, error: BackboneError | None) -> None:
        if error is not None:
            self._tally.failures += 1
            self._failure = error
            self._duplicates.forget(keys)
        else:
            self._tally.appended += len(keys)
            self._duplicates.stored(keys, now_ms=self._clock.now_ms())
            for block in blocks:
                self._ring.add(self.logs[block.class_], block)
                topics = frozenset(block.topics)
                for consumer in self.consumers.get(block.class_, ()):
                    consumer.stored(block, topics)
        outcome.tell(error)

    def _check_first_ones(self, entries: Sequence[Entry], failure: BackboneError | None) -> None:
        """Whoever brought a duplicate waited behind the first one. Raises what that failed with, if it did meanwhile."""
        if self._failure is not failure and self._failure is not None:
            known = self._duplicates.known
            if any((entry.sender, entry.id) not in known for entry in entries):
                raise twin(self._failure)
