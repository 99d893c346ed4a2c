"""An agent on the bus: what people call. It accepts messages into lanes and hands out subscriptions; all else is its host's.

`publish`, `__anext__` and `ack` do not yield when they can go on at once: half a million of them a second would otherwise be
nineteen thousand. The host yields once a turn.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from bus.agent.asking import MOST_ANSWERS, Answers, Asking
from bus.agent.authority import Authority
from bus.agent.backlog import BLOCK
from bus.agent.bodies import pack_body
from bus.agent.events import Events, PolicyChanged, Renewed
from bus.agent.handlers import Handlers
from bus.agent.hooks import Hooks
from bus.agent.lanes import Lanes
from bus.agent.many import Many
from bus.agent.message import Body, Message
from bus.agent.publishing import TAKEN, Publishing
from bus.agent.receipts import Receipt
from bus.agent.refusals import Refusals
from bus.agent.serving import Serving
from bus.agent.subscribing import Subscribing
from bus.agent.subscription import Subscription
from bus.errors import BusError, ClosedError, MessageTooLargeError, twin
from bus.flow.waiting import MAX_BYTES
from bus.identity.envelopes.reserved import AUDIT
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol.records import BYTES
from bus.protocol.sampling import AuditRecord

if TYPE_CHECKING:
    from bus.agent.host import Host


class Agent:
    def __init__(self, host: Host, name: str, *, began_ms: int) -> None:
        self.name, self.began_ms = name, began_ms
        self.hooks = Hooks(self._hooks_changed)
        self.refused, self.happened = Refusals(is_logged=False), Events()
        self.error: BusError | None = None
        self._not_sent: BusError | None = None
        self._host = host
        self._session = host.sessions.held.get(name)
        self._lanes = Lanes(host, name)
        self._quick = self._lanes.quick
        self._publishing = Publishing(name, self._lanes, self.hooks, host.outbox)
        self._subscribing = Subscribing(name, host, self.hooks, self.happened.add, self.check_open, began_ms=began_ms)
        self._asking = Asking(name, host, self._publishing, self._subscribing.replies)
        self._own, self.authority = Handlers(), Authority(name, host.petitions, self.check_open)
        self.on = self._own.on
        """A decorator: handlers of this agent alone, for `serving()`."""
        self._is_open = True

    # ---- publish -------------------------------------------------------------------------------------------------------------

    async def publish(
        self,
        topic: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002  as readers call it
        ttl: float | None = None,
        priority: str | None = None,
        wait: str | None = None,
    ) -> int | None:
        """Say something; returns when it is accepted, sent or stored, as `wait` says: its position, if it was stored.

        By default that is `accepted`; `sent` where policy wants the identity's signature; `stored` on durable topics. `id`: one of
        your own; on a durable topic, a second one with it within ten minutes has the first one's position. `ttl` in seconds.
        Raises NotPermittedError, MessageTooLargeError, TrustStaleError, ValueError; once the agent has ended, what ended it.
        """
        lane = self._quick.get(topic)
        if lane is None or headers is not None or id is not None or ttl is not None or priority is not None or wait is not None:
            return await self._publishing.publish(topic, body, headers=headers, id_=id, ttl=ttl, priority=priority, wait=wait)
        waiting = lane.waiting
        if len(waiting.payloads) >= lane.look or waiting.size_bytes >= MAX_BYTES:
            return await self._publishing.publish(topic, body)
        if lane.through is not None and (body := await lane.through(lane, body)) is TAKEN:
            return None
        if type(body) is not bytes:
            body = pack_body(body, lane.most_bytes)
            waiting.packed.append(len(waiting.payloads))
        size = len(body)
        if size > lane.most_bytes:
            raise MessageTooLargeError(size, limit=lane.most_bytes)
        waiting.payloads.append(body)
        waiting.size_bytes += size
        if not lane.ready:
            self._host.outbox.put(lane)
        return None

    def publish_nowait(
        self,
        topic: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        priority: str | None = None,
    ) -> None:
        """Accepted, or OverloadedError if the lane is full. Raises as `publish` does."""
        self.check_open()
        self._publishing.publish_nowait(topic, body, headers=headers, ttl=ttl, priority=priority)

    async def publish_soon(
        self,
        topic: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        id: str | None = None,  # noqa: A002  as readers call it
        ttl: float | None = None,
        priority: str | None = None,
    ) -> Receipt:
        """Accepted; what becomes of it is told by the receipt, so that many can be on their way without a task each."""
        self.check_open()
        return await self._publishing.publish_soon(topic, body, headers=headers, id_=id, ttl=ttl, priority=priority)

    async def publish_many(
        self,
        topic: str,
        bodies: Iterable[Any] | AsyncIterable[Any],
        *,
        headers: Mapping[str, str] | None = None,
        ttl: float | None = None,
        priority: str | None = None,
        wait: str | None = None,
    ) -> int:
        """All of these, in their order; how many that were. It takes no more of them than there is room for.

        An error carries `accepted`: how many were taken before it. Raises as `publish` does.
        """
        self.check_open()
        many = Many(self._publishing, topic, headers=headers, ttl=ttl, priority=priority, wait=wait)
        try:
            await many.all(bodies)
        except BaseException as error:
            error.accepted = many.accepted  # type: ignore[attr-defined]  # documented: the only way to tell with any exception
            raise
        return many.accepted

    # ---- request and reply -----------------------------------------------------------------------------------------------------

    async def request(
        self,
        topic: str,
        body: Any,
        *,
        timeout: float = 2.0,  # noqa: ASYNC109  part of the API
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Ask, and return the first answer.

        Raises NoRespondersError at once if nobody listens, RequestTimeoutError, RequestFailedError, and what `publish` raises.
        """
        self.check_open()
        return await self._asking.request(topic, body, timeout=timeout, headers=headers)

    def request_many(
        self,
        topic: str,
        body: Any,
        *,
        most: int = MOST_ANSWERS,
        timeout: float = 2.0,
        headers: Mapping[str, str] | None = None,
    ) -> Answers:
        """Ask, and give each answer that comes within the time, at most so many. A failed one says so in `message.error`."""
        self.check_open()
        return self._asking.request_many(topic, body, most=most, timeout=timeout, headers=headers)

    async def answer(self, message: Message, body: Any, headers: Mapping[str, str] | None) -> None:
        """What `message.reply` does."""
        self.check_open()
        await self._asking.answer(message, body, headers)

    # ---- subscribe -----------------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        pattern: str,
        *,
        group: str | None = None,
        durable: str | None = None,
        start: str | int | datetime = "new",
        limit: int = 1_024,
        overflow: str = BLOCK,
        decode: type[Body] | Callable[[Any], Body] | None = None,
        dead: bool = False,
    ) -> Subscription[Body]:
        """`async with` it, then `async for`. What was published once it is entered is delivered.

        `*` stands for one token, a final `>` for the rest. `decode` makes of each body what is wanted: a function, a dataclass, a
        class of msgspec or pydantic; a message of which that cannot be made is refused. Entering raises NotPermittedError.
        """
        self.check_open()
        return self._subscribing.make(
            pattern, group=group, durable=durable, start=start, limit=limit, overflow=overflow, decode=decode, dead=dead
        )

    def serving(self, handlers: Handlers | None = None) -> Serving:
        """`async with` it: these handlers are called until the block is left, or without any, those of `agent.on`."""
        self.check_open()
        return Serving(self, self._host, self._own if handlers is None else handlers)

    def refusals(self) -> Refusals:
        """What was refused of what this agent sent, and of what came for its host, as it happens: an async iterator."""
        return self.refused

    def events(self) -> Events:
        """What happens to it: Connected, Disconnected, Renewed, PolicyChanged, Missed: an async iterator."""
        return self.happened

    def _hooks_changed(self) -> None:
        self._lanes.hooks_changed()
        self._subscribing.hooks_changed()

    # ---- life ----------------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Return when everything that was accepted is sent, taken in by its readers, and where that is due, stored.

        Raises what kept some of it from that since the last time, unless somebody heard of it in another way: `wait`, a receipt.
        """
        was_open = self._is_open
        if was_open:
            await self._host.outbox.drained(self.name, self._lanes)
        error, self._not_sent = self._not_sent, None
        if error is not None and (was_open or self.error is not None):  # who closes it does without what waits
            raise twin(error)

    async def aclose(self) -> None:
        """Nothing more; what is already sealed is still sent."""
        self.end(None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def end(self, error: BusError | None) -> None:
        """It is over: its subscriptions end with this, and whatever waits in its lanes fails with it."""
        if not self._is_open:
            return
        self._is_open, self.error = False, error
        self._host.joining.close(self.name, error)
        self._lanes.close(error or ClosedError(f"{self.name} is closed"))
        self.refused.close()
        self.happened.close()
        self._host.forget(self)

    def follow(self, snapshot: Snapshot) -> None:
        """Another policy or trust: what may be said, and how, is asked again."""
        if snapshot.policy is not self._lanes.snapshot.policy:
            self.happened.add(PolicyChanged())
        self._lanes.follow(snapshot)

    def not_sent(self, error: BusError) -> None:
        """Something that was accepted is not sent, and nobody waits to hear of it."""
        self._not_sent = self._not_sent or error

    def sessions_changed(self) -> None:
        """Its own may be another one."""
        session = self._host.sessions.held.get(self.name)
        if session is not None and session is not self._session:
            self._session = session
            self.happened.add(Renewed())

    def audit(self, record: AuditRecord) -> None:
        """A sampled message of this agent was vouched for by its identity key: whoever audits hears of it."""
        lane = self._lanes.get(AUDIT + self.name, is_ours=True)
        if not lane.waiting.is_full:
            lane.waiting.add(record.encode(), BYTES)
            self._host.outbox.put(lane)

    def check_open(self) -> None:
        """Raises what ended it, if it has ended."""
        if not self._is_open:
            raise twin(self.error) if self.error is not None else ClosedError(f"{self.name} is closed")

    def __repr__(self) -> str:
        return f"<Agent {self.name}{'' if self._is_open else ', closed'}>"
