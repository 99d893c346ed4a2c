"""Writes down what changed in consumers: all that gathered while the last commit ran, as one."""

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
        self._running: dict[LocalConsumer, None] = {}
        self._outcome = Outcome()
        """Of the commit that takes what changed next."""
        self._current = self._outcome
        """Of the one that runs."""

    def changed(self, consumer: LocalConsumer) -> None:
        self._changed[consumer] = None
        self.retry()

    def retry(self) -> None:
        """What changed is written, also what could not be written the last time."""
        if self._changed and not self._running:
            self._begin()

    def forget(self, consumer: LocalConsumer) -> None:
        self._changed.pop(consumer, None)

    async def saved(self, consumer: LocalConsumer) -> None:
        """Wait until it is on disk as it is now. Raises BackboneError."""
        outcome = self._outcome
        self.changed(consumer)
        await outcome.wait()

    async def flush(self) -> None:
        """Until all is on disk, or cannot be."""
        with suppress(BackboneError):
            while self._changed or self._running:
                outcome = self._outcome if self._changed else self._current
                await outcome.wait()

    def _begin(self) -> None:
        self._running, self._changed = self._changed, {}
        outcome = self._current = self._outcome
        self._outcome = Outcome()
        rows = {consumer.name: consumer.as_row() for consumer in self._running}

        def done(error: BackboneError | None) -> None:
            if error is not None:
                self._changed = self._running | self._changed
            self._running = {}
            outcome.tell(error)
            if self._changed and error is None:
                self._begin()

        self._storage.submit(Commit(done=done, changes=Changes(consumers=rows)))
