"""What the consumers of all backbones have alike: how they are taken from, and how it is sorted what is said of their records.

One task at a time takes. It waits where there is nothing to be had, until somebody wakes it; when the consumer is closed it is told
why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import anyio

from bus.backbone.interface import ConsumerName, Delivery, Span
from bus.errors import BusError, twin

T = TypeVar("T")


class OpenConsumer:
    """What a backbone's own consumer adds: `name`, and `_take_some`."""

    def __init__(self, error: BusError | None = None) -> None:
        self.error = error
        """Why nothing is handed out; None while it is open."""
        self._allowed = 0
        self._taking = False
        self._arrived: anyio.Event | None = None
        """There while somebody waits."""

    @property
    def name(self) -> ConsumerName:
        raise NotImplementedError

    def allow(self, records: int) -> None:
        self._allowed = records
        if records > 0:
            self._wake()

    async def take(self) -> list[Delivery]:
        if self._taking:
            raise anyio.BusyResourceError(f"taking from the consumer {self.name}")
        self._taking = True
        try:
            while True:
                if self.error is not None:
                    raise twin(self.error)
                taken = await self._take_some()
                if taken:
                    return taken
                if taken is None:
                    self._arrived = anyio.Event()
                    await self._arrived.wait()
        finally:
            self._taking, self._arrived = False, None

    async def _take_some(self) -> list[Delivery] | None:
        """What there is. An empty list: ask again. None: there is nothing to be had, until it is woken."""
        raise NotImplementedError

    def _wake(self) -> None:
        if self._arrived is not None:
            self._arrived.set()


def by_last(spans: Sequence[tuple[int, int, T]]) -> dict[T, list[Span]]:
    """Spans by what is said of them."""
    found: dict[T, list[Span]] = {}
    for first, last, what in spans:
        found.setdefault(what, []).append((first, last))
    return found
