"""What an agent says of a durable message when it is done with it, or is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bus.agent.message import Batch


class Settling(Protocol):
    """Of one durable subscription. `index`: the record's, in its envelope."""

    async def ack(self, batch: Batch, index: int, *, confirmed: bool) -> None: ...

    async def nak(self, batch: Batch, index: int, delay: float | None) -> None: ...

    async def term(self, batch: Batch, index: int, reason: str) -> None: ...

    async def touch(self, batch: Batch) -> None: ...
