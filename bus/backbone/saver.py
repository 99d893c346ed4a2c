"""Writes down what changed in consumers: all that gathered while the last commit ran, as one.

Where nobody waits for it, it waits for company on the disk, some milliseconds. A crash brings back what was acknowledged meanwhile,
and agents know what they finished.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from bus.backbone.outcome import Outcome
from bus.backbone.storage import Changes, Commit, Storage
from bus.errors import BackboneError

if TYPE_CHECKING:
    from bus.backbone.consumer import LocalConsumer


class Saver:
    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._changed: dict[LocalConsumer, None] = {}
        self._running: Commit | None = None
        self._is_awaited = False
        """Whether somebody waits for what changed."""
        self._outcome = Outcome()
        """Of the commit that takes what changed next."""
        self._current = self._outcome
        """Of the one that runs."""

    def changed(self, consumer: LocalConsumer) -> None:
        self._changed[consumer] = None
        self.retry()

    def retry(self) -> None:
        """What changed is written, also what could not be written the last time."""
        if self._changed and self._running is None:
            self._begin()

    def forget(self, consumer: LocalConsumer) -> None:
        self._changed.pop(consumer, None)

    async def saved(self, consumer: LocalConsumer) -> None:
        """Wait until it is on disk as it is now. Raises BackboneError."""
        outcome, self._is_awaited = self._outcome, True
        self.changed(consumer)
        self._hurry()
        await outcome.wait()

    async def flush(self) -> None:
        """Until all is on disk, or cannot be."""
        with suppress(BackboneError):
            while self._changed or self._running is not None:
                self._is_awaited = bool(self._changed)
                outcome = self._outcome if self._changed else self._current
                self._hurry()
                await outcome.wait()

    def _hurry(self) -> None:
        """What waits for company waits no longer."""
        if self._running is not None and self._running.is_patient:
            self._storage.submit(Commit(lambda _: None))

    def _begin(self) -> None:
        consumers, self._changed = self._changed, {}
        outcome = self._current = self._outcome
        self._outcome = Outcome()
        rows = {consumer.name: consumer.as_row() for consumer in consumers}

        def done(error: BackboneError | None) -> None:
            if error is not None:
                self._changed = {consumer: None for consumer in (*consumers, *self._changed) if consumer.kept}
            self._running = None
            outcome.tell(error)
            if self._changed and error is None:
                self._begin()

        commit = self._running = Commit(done, changes=Changes(consumers=rows), is_patient=not self._is_awaited)
        self._is_awaited = False
        self._storage.submit(commit)
