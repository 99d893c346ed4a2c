"""A subscription: batches come in, messages are taken out one by one, and no task stands between.

put        by the host, whole batches; what is too much is dropped or ends it, as its overflow says (`backlog`)
taking     the next message suspends nobody while there are any, but for one checkpoint after some, where a batch
           ends: what comes in many small envelopes costs no turn of the loop for each. Several tasks may take
credit     whoever must not lose anything is sent no more than its limit, and 8 MiB of what is large; what was taken is given
           back by quarters
missed     what was lost on the way or dropped here shows as a gap in the numbers of its sender, at the next that is taken
end        an error of its own, or a quiet one; what came before is still handed out
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from operator import length_hint
from typing import Any, Final, Generic, Protocol, Self

from anyio.lowlevel import checkpoint

from bus.agent.backlog import BLOCK, Backlog, size_of
from bus.agent.message import Batch, Body, Message
from bus.errors import ClosedError, LocalProtocolError, twin
from bus.transport.bell import bell

YIELD_AFTER: Final = 16
"""Messages; so many, and the rest of their batch, are handed out without a checkpoint."""
QUARTER_BYTES: Final = 2 << 20
"""Of what a broker lets one have of large records: as much is given back at the latest."""

DeliverAll = Callable[[list[Message]], Awaitable[list[Message]]]
"""What hooks do with all that came together."""


class Hooks(Protocol):
    """What an agent's hooks and `decode` do with a message before it is handed over; see `delivering`."""

    context: Any
    each: Callable[[Any, Message], Awaitable[Message]]
    decodes: bool

    async def failed(self, message: Message, error: Exception) -> None: ...

    async def further(self, message: Message, found: Any) -> Message | None: ...


class Membership(Protocol):
    """How a subscription comes and goes, and whom it tells of what; see `subscribing`."""

    async def enter(self, one: Subscription[Any]) -> None: ...

    async def leave(self, one: Subscription[Any]) -> None: ...

    def consumed(self, one: Subscription[Any], records: int) -> None: ...

    def missed(self, one: Subscription[Any], records: int) -> None: ...


class Subscription(Backlog, Generic[Body]):
    """Made by `agent.subscribe`. An async context manager and an async iterator of messages."""

    def __init__(
        self,
        agent: str,
        pattern: str,
        *,
        number: int,
        group: str,
        durable: str,
        limit: int,
        overflow: str,
        membership: Membership,
    ) -> None:
        super().__init__(pattern, limit=limit, overflow=overflow)
        self.agent, self.group, self.durable, self.number = agent, group, durable, number
        self.hooks: Hooks | None = None
        self.batch_hooks: DeliverAll | None = None
        self._membership = membership
        self._it: Iterator[Message] = iter(())
        """What is left of the batch that was begun."""
        self._was_entered = False
        self._unyielding = 0
        """Messages since others had their turn."""
        self._begun_bytes = self._taken_bytes = 0
        self._begun = self._taken = 0
        """Messages in that batch; and in those before it for which no credit was given back."""
        self._delivered = 0

    # ---- for the host --------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing is handed out any more."""
        self.end()
        self._delivered = self.delivered
        self._leave_behind(self._batches)
        self._batches.clear()
        self._queued, self._bytes, self._it = 0, 0, iter(())

    @property
    def is_open(self) -> bool:
        return not self._ended

    @property
    def pending(self) -> int:
        """Messages that wait to be taken."""
        return self._queued + length_hint(self._it)

    @property
    def delivered(self) -> int:
        """Messages that were taken, or taken out by hooks."""
        return self._delivered - length_hint(self._it)

    # ---- for the agent -------------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._was_entered or self._ended:
            raise ClosedError(f"the subscription to {self.pattern} was entered once already: call subscribe() again")
        self._was_entered = True
        try:
            await self._membership.enter(self)
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Nothing is delivered any more; what was not taken is forgotten, or, if it is kept, comes to whoever is next."""
        self.stop()
        await self._membership.leave(self)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message[Body]:
        """The next message. No checkpoint, unless a new batch begins or has to be waited for."""
        while True:
            batch = self._it
            for message in batch:
                hooks = self.hooks
                if hooks is None:
                    return message
                try:
                    given = await hooks.each(hooks.context, message)
                    kept = given if given is message and not hooks.decodes else await hooks.further(message, given)
                except BaseException as error:  # noqa: BLE001  raised again there, unless it is the hook's
                    kept = await self._failed(hooks, message, error, back=[message])
                if kept is not None:
                    return kept
            await self._begin_batch(batch)

    def batches(self) -> Batches[Body]:
        """The same in bulk: whole envelopes, as they come."""
        return Batches(self)

    async def next_batch(self) -> list[Message[Body]]:
        """What is left of the current envelope, or the next one."""
        while True:
            batch = self._it
            found = [*batch]
            if self.hooks is not None:
                found = await self._all_hooked(self.hooks, found)
            if found:
                return found
            await self._begin_batch(batch)

    async def _begin_batch(self, done: Iterator[Message]) -> None:
        """Another one than this, of which nothing is left; if another task has begun one meanwhile, that."""
        self._finish_batch(done)
        if self._batches and self._unyielding >= YIELD_AFTER:
            self._unyielding = 0
            await checkpoint()
        while self._it is done and not self._batches:
            await self._wait()
        if self._it is not done:
            return
        batch = self._batches.popleft()
        came = len(batch.indexes)
        self._queued -= came
        self._bytes -= 0 if self.overflow == BLOCK else size_of(batch)
        if batch.settling is not None:  # it may have come twice, and the first one was finished while this one waited
            batch.indexes = batch.settling.unfinished(batch)
        self._begun = len(batch.indexes)
        self._taken += came - self._begun
        if not self._begun:
            self._it = iter(())
            return
        self._delivered += self._begun
        self._begun_bytes = batch.size_bytes if self.overflow == BLOCK else 0
        self._tell_missed(batch)
        messages: list[Message] = [*map(Message, (batch,) * self._begun, batch.indexes)]
        if self.batch_hooks is None:
            self._it = iter(messages)
        else:
            await self._hook_batch(self.batch_hooks, batch, messages)

    async def _wait(self) -> None:
        """For something to come; raises its end."""
        if self._ended:
            if self._end is not None:
                raise twin(self._end)
            raise StopAsyncIteration
        if not self._was_entered:
            how = "`async with agent.subscribe(..) as messages`, and then `async for message in messages`"
            raise LocalProtocolError(f"nothing comes to the subscription to {self.pattern} before it is entered: {how}")
        if self._wake is None:
            self._wake = bell()
        await self._wake.wait()

    def _tell_missed(self, batch: Batch) -> None:
        if batch.settling is None and not self.group:
            missed = self._gap(batch)
        else:
            missed, self._lost = self._lost, 0
        if missed:
            batch.missed += missed
            self._membership.missed(self, missed)

    def _finish_batch(self, done: Iterator[Message]) -> None:
        if self._it is done:
            self._taken += self._begun
            self._taken_bytes += self._begun_bytes
            self._unyielding += self._begun
            self._begun = self._begun_bytes = 0
            is_quarter = self._taken * 4 >= self.limit or self._taken_bytes >= QUARTER_BYTES
            if is_quarter and self.overflow == BLOCK and not self._ended:
                self._membership.consumed(self, self._taken)
                self._taken = self._taken_bytes = 0

    # ---- hooks ---------------------------------------------------------------------------------------------------------------

    async def _all_hooked(self, hooks: Hooks, messages: list[Message]) -> list[Message]:
        found = []
        for message in messages:
            try:
                given = await hooks.each(hooks.context, message)
                kept = given if given is message and not hooks.decodes else await hooks.further(message, given)
            except BaseException as error:  # noqa: BLE001  raised again there, unless it is the hook's
                kept = await self._failed(hooks, message, error, back=messages)
            if kept is not None:
                found.append(kept)
        return found

    async def _failed(self, hooks: Hooks, message: Message, error: BaseException, *, back: list[Message]) -> Any:
        """A hook's own error is told. A task that is cancelled within one has taken nothing: those go back."""
        try:
            if isinstance(error, Exception):
                return await hooks.failed(message, error)
        except BaseException as another:  # noqa: BLE001  raised below
            error = another
        self._it = iter([*back, *self._it])
        raise error

    async def _hook_batch(self, hooks: DeliverAll, batch: Batch, messages: list[Message]) -> None:
        count = len(messages)
        self._it = iter(())  # who else takes goes on with the batch after it
        try:
            kept = await hooks(messages)
        except BaseException:
            self._batches.appendleft(batch)
            self._queued += count
            self._bytes += 0 if self.overflow == BLOCK else size_of(batch)
            self._delivered -= count
            self._begun = 0
            raise
        self._it = iter([*kept, *self._it])

    def __repr__(self) -> str:
        return f"<Subscription of {self.agent} to {self.pattern}, {self.pending} waiting>"


class Batches(Generic[Body]):
    """An async iterator of lists of messages."""

    __slots__ = ("_subscription",)

    def __init__(self, subscription: Subscription[Body]) -> None:
        self._subscription = subscription

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[Message[Body]]:
        return await self._subscription.next_batch()
