"""The subscriptions of one agent: made with what they go through, entered by its host, and told of other hooks."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from bus.agent.backlog import BLOCK, check_options
from bus.agent.decoding import decoder
from bus.agent.delivering import Delivering
from bus.agent.events import Event, Missed
from bus.agent.hooks import HookContext, Hooks
from bus.agent.message import Message
from bus.agent.refusals import Refusal
from bus.agent.settling import Place, Settling
from bus.agent.starts import encode_start
from bus.agent.subscription import Subscription
from bus.flow.start import NEW

if TYPE_CHECKING:
    from bus.agent.host import Host


class Subscribing:
    """`happened` hears of messages that were missed."""

    def __init__(
        self,
        agent: str,
        host: Host,
        hooks: Hooks,
        happened: Callable[[Event], None],
        check_open: Callable[[], None],
        *,
        began_ms: int,
    ) -> None:
        self._agent, self._host, self._hooks, self._began_ms = agent, host, hooks, began_ms
        self._check_open = check_open
        self._happened = happened
        self.replies = Delivering(HookContext(agent), decode=None, told=self._told)
        """What answers to requests go through."""
        self._through: WeakKeyDictionary[Subscription[Any], Delivering] = WeakKeyDictionary()

    def make(
        self,
        pattern: str,
        *,
        group: str | None,
        durable: str | None,
        start: str | int | datetime,
        limit: int,
        overflow: str,
        decode: Any,
        dead: bool,
    ) -> Subscription[Any]:
        """Raises ValueError, TypeError."""
        if not isinstance(pattern, str):
            raise TypeError(f"pattern={pattern!r}: a text, not {type(pattern).__name__}")
        check_options(overflow, limit, group=group, durable=durable)
        if durable and overflow != BLOCK:
            raise ValueError(f"overflow={overflow!r}: what a durable subscription drops comes again; leave it at {BLOCK!r}")
        begins = encode_start(start)
        if not durable and begins != str(NEW):
            raise ValueError(f"start={start!r}: nothing is kept for a subscription without durable=, it begins with what is new")
        delivering = Delivering(
            HookContext(self._agent, pattern), decode=None if decode is None else decoder(decode), told=self._told
        )
        made: Subscription[Any] = Subscription(
            self._agent, pattern, number=self._host.joining.next_number(), group=group or "", durable=durable or "", limit=limit,
            overflow=overflow, membership=_Membership(self, begins if durable else "", dead=dead),
        )  # fmt: skip
        self._through[made] = delivering
        delivering.install(made, self._hooks.delivering)
        return made

    async def enter(self, one: Subscription[Any], start: str, settling: Settling | None, *, dead: bool) -> None:
        """Return when it is live. Raises what `join` does, and what has ended the agent since it was made."""
        self._check_open()
        host = self._host
        await host.joining.join(one, host.keyring.snapshot, began_ms=self._began_ms, start=start, settling=settling, dead=dead)

    async def leave(self, one: Subscription[Any], settling: Settling | None) -> None:
        try:
            if settling is not None and self._host.settling is not None:
                await self._host.settling.leave(settling)
        finally:
            if settling is not None:
                settling.not_begun(one.not_begun)
            self._host.joining.leave(one)

    def consumed(self, one: Subscription[Any], records: int) -> None:
        self._host.give_credit(one.number, records)

    def missed(self, one: Subscription[Any], records: int) -> None:
        self._happened(Missed(one.pattern, records))

    def hooks_changed(self) -> None:
        for one, delivering in list(self._through.items()):
            delivering.install(one, self._hooks.delivering)
        self.replies.follow(self._hooks.delivering)

    def _told(self, message: Message, reason: str, error: Exception) -> None:
        refusal = Refusal("in", message.sender, message.topic, reason, message.id)
        self._host.inbox.counts[reason] += 1
        self._host.reporting.not_handed_over(self._agent, refusal, error)

    async def settling_of(self, one: Subscription[Any]) -> Settling:
        """What a durable one settles with. Raises ValueError without a state folder."""
        writer = self._host.settling
        if writer is None:
            raise ValueError("durable= needs a state folder, in which is kept what was handled: open the bus with state=")
        kept_as = f"{one.group}/{one.durable}" if one.group else one.durable  # a consumer of a group is another one
        return await writer.open(Place(self._agent, kept_as, one.number), self._host.send)


class _Membership:
    """How one of them comes and goes, and where what it says goes."""

    __slots__ = ("_dead", "_of", "_settling", "_start")

    def __init__(self, of: Subscribing, start: str, *, dead: bool) -> None:
        self._of, self._start, self._dead = of, start, dead
        self._settling: Settling | None = None

    async def enter(self, one: Subscription[Any]) -> None:
        if one.durable:
            self._settling = await self._of.settling_of(one)
        try:
            await self._of.enter(one, self._start, self._settling, dead=self._dead)
        except BaseException:
            await self.leave(one)
            raise

    async def leave(self, one: Subscription[Any]) -> None:
        await self._of.leave(one, self._settling)

    def consumed(self, one: Subscription[Any], records: int) -> None:
        self._of.consumed(one, records)

    def missed(self, one: Subscription[Any], records: int) -> None:
        self._of.missed(one, records)
