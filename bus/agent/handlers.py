"""Functions that are called with messages, and the subscriptions that they want: `bus.Handlers`, and `agent.on`.

    handlers = bus.Handlers()

    @handlers.on("work.build.>", group="builders", durable="builders")
    async def build(message: bus.Message) -> object:
        return {"built": message.body["ref"]}

    async with agent.serving(handlers): ...

What one returns, unless it is None, answers the request that its message was. `serving` has the rest.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeVar

from bus.agent.backlog import BLOCK, check_options
from bus.agent.decoding import decoder

ON_RETURN: Final = "on_return"
MANUAL: Final = "manual"
Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, eq=False)
class Handler:
    """One function, and what it wants to be called with."""

    call: Callable[[Any], Any]
    is_async: bool
    pattern: str
    group: str | None
    durable: str | None
    start: str | int | datetime
    limit: int
    overflow: str
    decode: Any
    concurrency: int
    acks: bool

    @property
    def name(self) -> str:
        return getattr(self.call, "__qualname__", type(self.call).__qualname__)


class Handlers:
    """A list of them. It belongs to no agent: several can serve the same."""

    def __init__(self) -> None:
        self._all: list[Handler] = []

    def __iter__(self) -> Iterator[Handler]:
        return iter(tuple(self._all))

    def __len__(self) -> int:
        return len(self._all)

    def on(
        self,
        pattern: str,
        *,
        group: str | None = None,
        durable: str | None = None,
        concurrency: int = 1,
        ack: Literal["on_return", "manual"] = ON_RETURN,
        start: str | int | datetime = "new",
        limit: int = 1_024,
        overflow: str = BLOCK,
        decode: Any = None,
    ) -> Callable[[Function], Function]:
        """Call the decorated function, a plain or an async one, with each message; the options are those of `subscribe`.

        `concurrency`: how many calls may run at a time; with more than one, their order is not that of the messages. `ack`: of
        durable messages, when it has returned, or as it says itself. Raises ValueError, TypeError.
        """
        check_options(overflow, limit, group=group, durable=durable)
        if concurrency < 1:
            raise ValueError(f"concurrency={concurrency!r}: how many calls may run at a time, from 1 on")
        if ack not in (ON_RETURN, MANUAL):
            raise ValueError(f"ack={ack!r}: {ON_RETURN} or {MANUAL}")
        if decode is not None:
            decoder(decode)

        def add(function: Function) -> Function:
            if not callable(function):
                raise TypeError(f"a handler is a function, not {type(function).__name__}")
            is_async, acks = _is_async(function), durable is not None and ack == ON_RETURN
            one = Handler(function, is_async, pattern, group, durable, start, limit, overflow, decode, concurrency, acks)
            self._all.append(one)
            return function

        return add


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  not whether: of what kind
