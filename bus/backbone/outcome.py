"""What became of a commit, for all who wait for it."""

from __future__ import annotations

import anyio

from bus.backbone.storage import Changes, Commit, Storage
from bus.errors import BackboneError, twin


class Outcome:
    __slots__ = ("_error", "_over")

    def __init__(self) -> None:
        self._over = anyio.Event()
        self._error: BackboneError | None = None

    def tell(self, error: BackboneError | None) -> None:
        self._error = error
        self._over.set()

    async def wait(self) -> None:
        """Raises what the commit failed with, to each who waits an error of their own."""
        await self._over.wait()
        if self._error is not None:
            raise twin(self._error)


async def write(storage: Storage, changes: Changes) -> None:
    """Have changes of state on disk. Raises BackboneError."""
    outcome = Outcome()
    storage.submit(Commit(outcome.tell, changes=changes))
    await outcome.wait()
