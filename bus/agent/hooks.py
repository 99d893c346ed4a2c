"""Functions that an application puts in the way of an agent's messages.

    publish    before a message is packed: gets a Record, and what it gives back is published
    deliver    after everything about a message was verified, before it is handed over: gets a Message
    batch      the same for a list of them, as many as came together; what it gives back has at most as many

Each gets a context and what there is, in the order in which they were added, and gives it back, or another. `bus.Drop` takes it out
quietly: it is counted, and whoever waits for what becomes of it hears so. Any other exception refuses it: `publish` raises it; on
its way in, it is counted, logged once a minute, and given back to the broker if it is durable.

Who has no hooks pays nothing for them.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar, overload

from bus.agent.message import Message
from bus.agent.record import Record
from bus.errors import Drop

Item = TypeVar("Item")
Function = TypeVar("Function", bound=Callable[..., Any])
Each = Callable[["HookContext", Item], Awaitable[Item]]
Lost = Callable[[Sequence[Item], Exception], Awaitable[None]]
"""Hears of what goes no further, and why."""


class HookContext(NamedTuple):
    """Whose message it is."""

    agent: str
    pattern: str = ""
    """Of the subscription to which it is delivered; empty where it is published, and of replies."""


class _Hook(NamedTuple):
    call: Callable[..., Any]
    is_async: bool
    is_batch: bool


class Chain(Generic[Item]):
    """All hooks of one side, at least one. `kind` is what they get and give back."""

    def __init__(self, kind: type[Item], hooks: tuple[_Hook, ...]) -> None:
        self._kind, self.hooks = kind, hooks
        only = hooks[0] if len(hooks) == 1 else None
        self.sole = only.call if only is not None and only.is_async and not only.is_batch else None
        """The usual case, one async function: whoever asks it alone, and has what is new `checked`, saves a call a message."""
        self.is_async = any(hook.is_async for hook in hooks)
        self.is_batch = any(hook.is_batch for hook in hooks)

    async def one(self, context: HookContext, item: Item) -> Item:
        """What they make of one item. Raises Drop, and whatever a hook does."""
        for call, is_async, is_batch in self.hooks:
            if is_batch:
                given = call(context, [item])
                item = self._first(await given if is_async else given, call)
                continue
            new = call(context, item)
            if is_async:
                new = await new
            if new is not item:
                item = self.checked(new, call)
        return item

    def one_nowait(self, context: HookContext, item: Item) -> Item:
        """Raises TypeError if one of them has to be waited for."""
        if self.is_async:
            raise TypeError(
                "publish_nowait waits for nothing, and a hook of this agent does: use publish, or a plain function as hook"
            )
        for call, _, is_batch in self.hooks:
            item = self._first(call(context, [item]), call) if is_batch else self.checked(call(context, item), call)
        return item

    async def many(self, context: HookContext, items: list[Item], lost: Lost[Item]) -> list[Item]:
        """Those that go on. Raises nothing of a hook's, unless `lost` does."""
        for hook in self.hooks:
            if not items:
                break
            items = await (self._whole(hook, context, items, lost) if hook.is_batch else self._each(hook, context, items, lost))
        return items

    async def _whole(self, hook: _Hook, context: HookContext, items: list[Item], lost: Lost[Item]) -> list[Item]:
        try:
            given = hook.call(context, list(items))
            return self._checked_list(await given if hook.is_async else given, len(items), hook.call)
        except Exception as error:  # noqa: BLE001  whose it is is told by `lost`
            await lost(items, error)
            return []

    async def _each(self, hook: _Hook, context: HookContext, items: list[Item], lost: Lost[Item]) -> list[Item]:
        kept = []
        for item in items:
            try:
                given = hook.call(context, item)
                kept.append(self.checked(await given if hook.is_async else given, hook.call))
            except Exception as error:  # noqa: BLE001  whose it is is told by `lost`
                await lost([item], error)
        return kept

    # ---- what they give back -------------------------------------------------------------------------------------------------

    def checked(self, item: Any, call: Callable[..., Any]) -> Item:
        if not isinstance(item, self._kind):
            wanted, given = self._kind.__name__, type(item).__name__
            raise TypeError(f"the hook {_name(call)} gave back {given}: it gives back a {wanted}, or raises Drop")
        return item

    def _checked_list(self, items: Any, most: int, call: Callable[..., Any]) -> list[Item]:
        if not isinstance(items, list) or not all(isinstance(item, self._kind) for item in items):
            raise TypeError(f"the hook {_name(call)} gives back a list of {self._kind.__name__}, or raises Drop")
        if len(items) > most:
            raise ValueError(f"the hook {_name(call)} made {len(items)} of {most}: it may take out and change, and adds none")
        return items

    def _first(self, items: Any, call: Callable[..., Any]) -> Item:
        found = self._checked_list(items, 1, call)
        if not found:
            raise Drop
        return found[0]


class Hooks:
    """Of one agent: `agent.hooks`. `changed` is called whenever there are others."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self.publishing: Chain[Record] | None = None
        self.delivering: Chain[Message] | None = None

    @overload
    def publish(self, function: Function, *, batch: bool = False) -> Function: ...
    @overload
    def publish(self, function: None = None, *, batch: bool = False) -> Callable[[Function], Function]: ...
    def publish(self, function: Any = None, *, batch: bool = False) -> Any:
        """Call this before each message is packed; also as a decorator, with or without arguments."""
        if function is None:
            return lambda function: self.publish(function, batch=batch)
        self.publishing = Chain(Record, _with(self.publishing, function, is_batch=batch))
        self._changed()
        return function

    @overload
    def deliver(self, function: Function, *, batch: bool = False) -> Function: ...
    @overload
    def deliver(self, function: None = None, *, batch: bool = False) -> Callable[[Function], Function]: ...
    def deliver(self, function: Any = None, *, batch: bool = False) -> Any:
        """Call this before each message is handed over; also as a decorator, with or without arguments."""
        if function is None:
            return lambda function: self.deliver(function, batch=batch)
        self.delivering = Chain(Message, _with(self.delivering, function, is_batch=batch))
        self._changed()
        return function

    def remove(self, function: Callable[..., Any]) -> None:
        """On both sides. Of a function that is no hook, nothing."""
        published, delivered = _without(self.publishing, function), _without(self.delivering, function)
        self.publishing = Chain(Record, published) if published else None
        self.delivering = Chain(Message, delivered) if delivered else None
        self._changed()


def _with(chain: Chain[Any] | None, function: Callable[..., Any], *, is_batch: bool) -> tuple[_Hook, ...]:
    if not callable(function):
        raise TypeError(f"a hook is a function, not {type(function).__name__}")
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  not whether: of what kind
    return (*(chain.hooks if chain is not None else ()), _Hook(function, is_async, is_batch))


def _without(chain: Chain[Any] | None, function: Callable[..., Any]) -> tuple[_Hook, ...]:
    return tuple(hook for hook in (chain.hooks if chain is not None else ()) if hook.call != function)


def _name(call: Callable[..., Any]) -> str:
    return getattr(call, "__qualname__", type(call).__qualname__)
