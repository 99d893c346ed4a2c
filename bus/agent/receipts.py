"""What became of a record after `publish` took it: sent, stored, or refused with a reason; of many together, one word for all."""

from __future__ import annotations

from bus.errors import BusError, twin
from bus.transport.bell import Bell, bell


class Receipt:
    """Of one record. `await receipt.sent()`, `await receipt.stored()`."""

    __slots__ = ("_bell", "_done", "_error", "_position", "durable", "id")

    def __init__(self, *, durable: bool) -> None:
        self.durable = durable
        self.id = ""
        """The message's id, as its readers see it, once it is sent."""
        self._done = 0
        self._position: int | None = None
        self._error: BusError | None = None
        self._bell: Bell | None = None
        """Where somebody waits."""

    async def sent(self) -> None:
        """Return when it is signed and written to the link. Raises what kept it from that."""
        await self._until(1)

    async def stored(self) -> int:
        """Return its position when it is on disk. Raises what kept it from that.

        TypeError on a live topic, where nothing is stored.
        """
        if not self.durable:
            raise TypeError("nothing on a live topic is stored: wait until it is sent, or publish on a durable topic")
        await self._until(2)
        return self._position or 0

    async def _until(self, step: int) -> None:
        while self._done < step and self._error is None:
            if self._bell is None:
                self._bell = bell()
            await self._bell.wait()
        if self._error is not None:
            raise twin(self._error)

    # ---- what the outbox says ------------------------------------------------------------------------------------------------

    def was_sent(self, id_: str) -> None:
        self.id = id_
        self._move(1)

    def was_stored(self, position: int) -> None:
        self._position = position
        self._move(2)

    def failed(self, error: BusError) -> None:
        if self._error is None:
            self._error = error
            self._wake()

    def _move(self, step: int) -> None:
        if step > self._done:
            self._done = step
            self._wake()

    def _wake(self) -> None:
        if self._bell is not None:
            self._bell.ring()


class Together:
    """Of many records that are waited for until they are sent: how many are not yet, and what kept one of them from it."""

    __slots__ = ("_bell", "_error", "pending")

    def __init__(self) -> None:
        self.pending = 0
        self._error: BusError | None = None
        self._bell: Bell | None = None

    async def sent(self) -> None:
        """Return when all of them are. Raises what kept one of them from it, as soon as that is known."""
        while self.pending > 0 and self._error is None:
            if self._bell is None:
                self._bell = bell()
            await self._bell.wait()
        self.check()

    def check(self) -> None:
        """Raises what kept one of them from being sent, if that is known."""
        if self._error is not None:
            raise twin(self._error)

    # ---- what the outbox says ------------------------------------------------------------------------------------------------

    def were_sent(self, records: int) -> None:
        self.pending -= records
        if self.pending <= 0:
            self._wake()

    def failed(self, error: BusError) -> None:
        """Some of them, also of those that were sent: then a broker has refused them."""
        if self._error is None:
            self._error = error
            self._wake()

    def _wake(self) -> None:
        if self._bell is not None:
            self._bell.ring()
