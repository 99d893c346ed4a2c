"""An agent on the bus: what people call. It accepts messages into lanes and hands out subscriptions; all else is its host's.

`publish`, `__anext__` and `ack` do not yield when they can go on at once: half a million of them a second would otherwise be
nineteen thousand. The host yields once a turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, Self

from bus.agent.bodies import pack_body
from bus.agent.lane import Lane, Note
from bus.agent.lanes import Lanes
from bus.agent.message import Message
from bus.agent.receipts import Receipt
from bus.agent.refusals import Refusals
from bus.agent.requests import Pending
from bus.agent.settling import Place, Settling
from bus.agent.starts import encode_start
from bus.agent.subscription import BLOCK, Subscription, check_options
from bus.errors import BusError, ClosedError, MessageTooLargeError, OverloadedError, RequestTimeoutError, twin
from bus.flow.waiting import MAX_BYTES, MAX_RECORDS
from bus.identity.envelopes.reserved import AUDIT
from bus.identity.envelopes.seal import given_id
from bus.identity.envelopes.snapshot import Snapshot
from bus.protocol.header import ID_BYTES, REQUEST
from bus.protocol.records import BYTES
from bus.protocol.sampling import AuditRecord

if TYPE_CHECKING:
    from bus.agent.host import Host

ACCEPTED: Final = "accepted"
SENT: Final = "sent"
STORED: Final = "stored"
WAITS: Final = (ACCEPTED, SENT, STORED)
MOST_WAITING: Final = 1_024
"""Receipts that `publish_many` waits for at a time."""
_ONLY_BYTES: Final = {bytes}


class Agent:
    def __init__(self, host: Host, name: str, *, began_ms: int) -> None:
        self.name, self.began_ms = name, began_ms
        self.refused = Refusals()
        self.error: BusError | None = None
        self._host = host
        self._lanes = Lanes(host, name)
        self._quick = self._lanes.quick
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
        your own, by which a second one is known as a duplicate. `ttl` in seconds.
        Raises NotPermittedError, MessageTooLargeError, TrustStaleError, ValueError; once the agent has ended, what ended it.
        """
        lane = self._quick.get(topic)
        if lane is None or headers is not None or id is not None or ttl is not None or priority is not None or wait is not None:
            return await self._publish(topic, body, headers=headers, id_=id, ttl=ttl, priority=priority, wait=wait)
        waiting = lane.waiting
        if len(waiting.payloads) >= MAX_RECORDS or waiting.size_bytes >= MAX_BYTES:
            await lane.wait_for_room()
        if type(body) is bytes:
            waiting.kinds.append(BYTES)
        else:
            body = pack_body(body, lane.rule.max_bytes)
            waiting.kinds.append(1)
        size = len(body)
        if size > lane.rule.max_bytes:
            waiting.kinds.pop()
            raise MessageTooLargeError(size, limit=lane.rule.max_bytes)
        waiting.payloads.append(body)
        waiting.size_bytes += size
        if not lane.ready:
            self._host.outbox.put(lane)
        return None

    async def _publish(
        self,
        topic: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None,
        id_: str | None,
        ttl: float | None,
        priority: str | None,
        wait: str | None,
    ) -> int | None:
        """With options, for the first time, or where more is to be waited for."""
        self.check_open()
        lane = self._lanes.get(topic, ttl=ttl, priority=priority, single=id_ is not None)
        until = _until(lane, wait)
        await lane.wait_for_room()
        receipt = None if until == ACCEPTED else Receipt(durable=lane.rule.is_durable)
        self._add(lane, body, headers, self._note(id_, receipt))
        if receipt is None:
            return None
        if until == STORED:
            return await receipt.stored()
        await receipt.sent()
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
        lane = self._lanes.get(topic, ttl=ttl, priority=priority)
        if lane.waiting.is_full:
            raise OverloadedError(f"{self.name} on {topic}", pending=len(lane.waiting), limit=MAX_RECORDS)
        self._add(lane, body, headers, None)

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
        lane = self._lanes.get(topic, ttl=ttl, priority=priority, single=id is not None)
        await lane.wait_for_room()
        receipt = Receipt(durable=lane.rule.is_durable)
        self._add(lane, body, headers, self._note(id, receipt))
        return receipt

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
        lane = self._lanes.get(topic, ttl=ttl, priority=priority)
        until = _until(lane, wait)
        many = _Many(self, lane, headers, until)
        try:
            if isinstance(bodies, AsyncIterable):
                async for body in bodies:
                    await many.one(body)
            else:
                await many.all(iter(bodies))
            await many.finished(0)
        except BaseException as error:
            error.accepted = many.accepted  # type: ignore[attr-defined]  # documented: the only way to tell with any exception
            raise
        return many.accepted

    def _add(self, lane: Lane, body: Any, headers: Mapping[str, str] | None, note: Note | None) -> None:
        if lane.trouble is not None:
            raise twin(lane.trouble)
        most = lane.rule.max_bytes
        kind = BYTES if type(body) is bytes else 1
        payload = body if kind == BYTES else pack_body(body, most)
        if len(payload) > most:
            raise MessageTooLargeError(len(payload), limit=most)
        lane.waiting.add(payload, kind, headers=headers, note=note)
        self._host.outbox.put(lane)

    def _note(self, id_: str | None, receipt: Any) -> Note | None:
        if id_ is None and receipt is None:
            return None
        return Note(b"" if id_ is None else given_id(self.name, id_), b"", receipt)

    # ---- request and reply -----------------------------------------------------------------------------------------------------

    async def request(
        self,
        topic: str,
        body: Any,
        *,
        timeout: float = 2.0,  # noqa: ASYNC109  part of the API
        headers: Mapping[str, str] | None = None,
    ) -> Message:
        """Ask, and return the first answer. Raises NoRespondersError at once if nobody listens, RequestTimeoutError."""
        async with self._asking(topic, body, timeout, headers) as pending:
            try:
                with self._host.clock.fail_after(timeout):
                    return await pending.next()
            except TimeoutError as error:
                raise RequestTimeoutError(topic, timeout) from error

    async def request_many(
        self,
        topic: str,
        body: Any,
        *,
        most: int = MOST_WAITING,
        timeout: float = 2.0,  # noqa: ASYNC109  part of the API
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Message]:
        """Ask, and give each answer that comes within the time, at most so many."""
        until = self._host.clock.monotonic() + timeout
        async with self._asking(topic, body, timeout, headers) as pending:
            for _ in range(most):
                try:
                    with self._host.clock.fail_after(until - self._host.clock.monotonic()):
                        answer = await pending.next()
                except TimeoutError:
                    return
                yield answer

    @asynccontextmanager
    async def _asking(self, topic: str, body: Any, timeout: float, headers: Mapping[str, str] | None) -> AsyncIterator[Pending]:  # noqa: ASYNC109
        self.check_open()
        lane = self._lanes.get(topic, ttl=timeout, flags=REQUEST)
        await lane.wait_for_room()
        host = self._host
        id_ = host.random(ID_BYTES)
        pending = host.requests.ask(self.name, id_, topic, host.keyring.now_ms() + int(timeout * 1000))
        try:
            self._add(lane, body, headers, Note(id_, b"", pending))
            yield pending
        finally:
            host.requests.done(self.name, id_)

    async def answer(self, message: Message, body: Any, headers: Mapping[str, str] | None) -> None:
        """What `message.reply` does."""
        self.check_open()
        lane = self._lanes.reply_to(message)
        await lane.wait_for_room()
        self._add(lane, body, headers, Note(b"", message.header.id, None))

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
        dead: bool = False,
    ) -> Subscription:
        """`async with` it, then `async for`. What was published once it is entered is delivered.

        `*` stands for one token, a final `>` for the rest. Entering raises NotPermittedError.
        """
        check_options(overflow, limit)

        settling: Settling | None = None

        async def enter(one: Subscription) -> None:
            nonlocal settling
            self.check_open()
            host = self._host
            if durable:
                settling = await self._settling(Place(self.name, durable, one.number))
            begins = encode_start(start) if durable else ""
            await host.joining.join(one, host.keyring.snapshot, began_ms=self.began_ms, start=begins, settling=settling, dead=dead)

        async def leave(one: Subscription) -> None:
            if settling is not None and self._host.settling is not None:
                await self._host.settling.leave(settling)
            self._host.joining.leave(one)

        return Subscription(
            self.name, pattern, number=self._host.joining.next_number(), group=group or "", durable=durable or "", limit=limit,
            overflow=overflow, credit=self._host.give_credit, enter=enter, leave=leave,
        )  # fmt: skip

    async def _settling(self, place: Place) -> Settling:
        writer = self._host.settling
        if writer is None:
            raise ValueError("durable= needs a state folder, in which is kept what was handled: open the bus with state=")
        return await writer.open(place, self._host.send)

    def refusals(self) -> Refusals:
        """What was refused of what this agent sent, and of what came for its host, as it happens."""
        return self.refused

    # ---- life ----------------------------------------------------------------------------------------------------------------

    async def drain(self) -> None:
        """Return when everything that was accepted is sent, taken in by its readers, and where that is due, stored."""
        await self._host.outbox.drained()

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
        self._host.forget(self)

    def follow(self, snapshot: Snapshot) -> None:
        """Another policy: what may be said, and how, is asked again."""
        self._lanes.follow(snapshot)

    def disconnected(self, error: BusError) -> None:
        """The link is gone; iterators wait for the next one."""

    def audit(self, record: AuditRecord) -> None:
        """A sampled message of this agent was vouched for by its identity key: whoever audits hears of it."""
        lane = self._lanes.get(AUDIT + self.name)
        if not lane.waiting.is_full:
            lane.waiting.add(record.encode(), BYTES)
            self._host.outbox.put(lane)

    def check_open(self) -> None:
        """Raises what ended it, if it has ended."""
        if not self._is_open:
            raise twin(self.error) if self.error is not None else ClosedError(f"{self.name} is closed")

    def __repr__(self) -> str:
        return f"<Agent {self.name}{'' if self._is_open else ', closed'}>"


class _Many:
    """One `publish_many`, as far as it has come."""

    def __init__(self, agent: Agent, lane: Lane, headers: Mapping[str, str] | None, until: str) -> None:
        self._agent, self._lane, self._headers, self._until = agent, lane, headers, until
        self._receipts: deque[Receipt] = deque()
        self.accepted = 0

    async def all(self, bodies: Any) -> None:
        """As many at a time as there is room for; plain bytes without a look at each."""
        lane = self._lane
        if self._until != ACCEPTED or self._headers:
            for body in bodies:
                await self.one(body)
            return
        while True:
            await lane.wait_for_room()
            waiting = lane.waiting
            chunk = list(islice(bodies, MAX_RECORDS - len(waiting.payloads)))
            if not chunk:
                return
            if {*map(type, chunk)} == _ONLY_BYTES and max(map(len, chunk)) * len(chunk) <= MAX_BYTES and self._fit(chunk):
                waiting.payloads += chunk
                waiting.kinds += bytes(len(chunk))
                waiting.size_bytes += sum(map(len, chunk))
                self.accepted += len(chunk)
                self._put()
            else:
                for body in chunk:
                    await self.one(body)

    async def one(self, body: Any) -> None:
        await self._lane.wait_for_room()
        receipt = None if self._until == ACCEPTED else Receipt(durable=self._lane.rule.is_durable)
        note = None if receipt is None else Note(b"", b"", receipt)
        self._agent._add(self._lane, body, self._headers, note)  # noqa: SLF001  they are one
        self.accepted += 1
        if receipt is not None:
            self._receipts.append(receipt)
            await self.finished(MOST_WAITING)

    async def finished(self, most: int) -> None:
        """Return when at most so many are still waited for."""
        while len(self._receipts) > most:
            receipt = self._receipts.popleft()
            await (receipt.stored() if self._until == STORED else receipt.sent())

    def _fit(self, chunk: list[bytes]) -> bool:
        return max(map(len, chunk)) <= self._lane.rule.max_bytes and self._lane.trouble is None

    def _put(self) -> None:
        if not self._lane.ready:
            self._agent._host.outbox.put(self._lane)  # noqa: SLF001  they are one


def _until(lane: Lane, wait: str | None) -> str:
    """What a publisher waits for."""
    if wait is None:
        return STORED if lane.rule.is_durable else SENT if lane.by_identity else ACCEPTED
    if wait not in WAITS:
        raise ValueError(f"wait={wait!r}: one of {', '.join(WAITS)}")
    if wait == STORED and not lane.rule.is_durable:
        raise ValueError(f"wait='stored' on the live topic {lane.key.topic}: nothing is stored there; use 'sent'")
    return wait
