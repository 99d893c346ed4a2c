"""From a call to a record in a lane: what `publish` does beside its quick path, for one agent.

accepted   the body is bytes, small enough, and in its lane; a full lane is waited for
sent       signed and written; what kept it from that is raised
stored     on disk at the broker, at a position
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from anyio.lowlevel import checkpoint

from bus.agent import tracing
from bus.agent.bodies import pack_body
from bus.agent.hooks import HookContext, Hooks
from bus.agent.lane import Lane, Note, Through
from bus.agent.lanes import Lanes
from bus.agent.receipts import Receipt
from bus.agent.record import NO_HEADERS, Record, checked_headers, new_record
from bus.errors import Drop, MessageTooLargeError, OverloadedError
from bus.flow.waiting import MAX_BYTES, MAX_RECORDS
from bus.identity.envelopes.seal import given_id
from bus.protocol.records import BYTES, MSGPACK

if TYPE_CHECKING:
    from bus.agent.outbox import Outbox

ACCEPTED: Final = "accepted"
SENT: Final = "sent"
STORED: Final = "stored"
TAKEN: Final = object()
"""Stands for a body with which nothing more is to be done."""
WAITS: Final = (ACCEPTED, SENT, STORED)
PAUSE_SECONDS: Final = 0.001
"""A loop that only publishes fills its lane in less, and waits for room then; a slower one need not make a record wait for that."""


class Publishing:
    def __init__(self, agent: str, lanes: Lanes, hooks: Hooks, outbox: Outbox) -> None:
        self.lanes, self.hooks, self.outbox = lanes, hooks, outbox
        self.context = HookContext(agent)
        self._agent = agent
        lanes.looked_at = self._looking

    def is_plain(self) -> bool:
        """Whether nobody looks at a record before it is packed."""
        return self.hooks.publishing is None and not tracing.is_on()

    async def publish(
        self,
        topic: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        id_: str | None = None,
        ttl: float | None = None,
        priority: str | None = None,
        wait: str | None = None,
    ) -> int | None:
        """With options, with hooks, for the first time, or where more is to be waited for."""
        lane = self.lanes.get(topic, ttl=ttl, priority=priority, single=id_ is not None)
        if len(lane.waiting) >= lane.look and await self.paused(lane):
            lane = self.lanes.get(topic, ttl=ttl, priority=priority, single=id_ is not None)
        until = until_of(lane, wait)
        if not self.is_plain():
            try:
                _, body, headers = await self.hooked(topic, body, headers)
            except Drop:
                if until == ACCEPTED:
                    return None
                raise
            lane = self.lanes.get(topic, ttl=ttl, priority=priority, single=id_ is not None)  # there may be another one by now
        if lane.waiting.is_full:
            lane = await self.lanes.with_room(topic, ttl=ttl, priority=priority, single=id_ is not None)
        receipt = None if until == ACCEPTED else Receipt(durable=lane.rule.is_durable)
        self.add(lane, body, headers, self._note(id_, receipt))
        if receipt is None:
            return None
        if until == STORED:
            return await receipt.stored()
        await receipt.sent()
        return None

    def publish_nowait(
        self, topic: str, body: Any, *, headers: Mapping[str, str] | None, ttl: float | None, priority: str | None
    ) -> None:
        lane = self.lanes.get(topic, ttl=ttl, priority=priority)
        if lane.waiting.is_full:
            raise OverloadedError(f"{self._agent} on {topic}", pending=len(lane.waiting), limit=MAX_RECORDS)
        if not self.is_plain():
            try:
                _, body, headers = self._hooked_nowait(topic, body, headers)
            except Drop:
                return
        self.add(lane, body, headers, None)

    async def publish_soon(
        self,
        topic: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None,
        id_: str | None,
        ttl: float | None,
        priority: str | None,
    ) -> Receipt:
        lane = self.lanes.get(topic, ttl=ttl, priority=priority, single=id_ is not None)
        if len(lane.waiting) >= lane.look and await self.paused(lane):
            lane = self.lanes.get(topic, ttl=ttl, priority=priority, single=id_ is not None)
        receipt = Receipt(durable=lane.rule.is_durable)
        if not self.is_plain():
            try:
                _, body, headers = await self.hooked(topic, body, headers)
            except Drop as dropped:
                receipt.failed(dropped)
                return receipt
            lane = self.lanes.get(topic, ttl=ttl, priority=priority, single=id_ is not None)
        if lane.waiting.is_full:
            lane = await self.lanes.with_room(topic, ttl=ttl, priority=priority, single=id_ is not None)
        self.add(lane, body, headers, self._note(id_, receipt))
        return receipt

    async def paused(self, lane: Lane) -> bool:
        """Let others have a turn of the loop, if this lane has waited for one. True if it did: there may be another lane now."""
        lane.look_later()
        now = self.outbox.now()
        if now - lane.since < PAUSE_SECONDS:
            return False
        lane.since = now
        await checkpoint()
        return True

    def add(self, lane: Lane, body: Any, headers: Mapping[str, str] | None, note: Note | None) -> None:
        """Into its lane. Raises what keeps the lane from being sealed, MessageTooLargeError, TypeError, ValueError."""
        lane.check()
        most = lane.most_bytes
        kind = BYTES if type(body) is bytes else MSGPACK
        payload = body if kind == BYTES else pack_body(body, most)
        header_bytes = 0
        if headers:
            headers, header_bytes = checked_headers(headers, most)
        if len(payload) + header_bytes > most:
            raise MessageTooLargeError(len(payload) + header_bytes, limit=most)
        lane.waiting.add(payload, kind, headers=headers, header_bytes=header_bytes, note=note)
        self.outbox.put(lane)

    # ---- hooks ---------------------------------------------------------------------------------------------------------------

    def _looking(self) -> Through | None:
        return None if self.is_plain() else self._through_all if tracing.is_on() else self._through_hooks

    async def _through_hooks(self, lane: Lane, body: Any) -> Any:
        """For the quick path: the body to go on with, or TAKEN if there is nothing left to do."""
        topic, chain = lane.key.topic, self.hooks.publishing
        record = new_record(Record, (topic, body, NO_HEADERS))
        if chain is not None:
            sole = chain.sole
            try:
                found = await (chain.one if sole is None else sole)(self.context, record)
            except Drop:
                self.dropped(1)
                return TAKEN
            if found is not record:
                await self._publish_record(self.check_topic(topic, found if sole is None else chain.checked(found, sole)))
                return TAKEN
        waiting = lane.waiting  # is it full, without a call
        if len(waiting.payloads) >= MAX_RECORDS or waiting.size_bytes >= MAX_BYTES or self.lanes.quick.get(topic) is not lane:
            await self._publish_record(record)
            return TAKEN
        return body

    async def _through_all(self, lane: Lane, body: Any) -> Any:
        """The same, where there may be a trace to carry along."""
        with suppress(Drop):
            await self._publish_record(await self.hooked(lane.key.topic, body, None))
        return TAKEN

    async def _publish_record(self, record: Record) -> None:
        self.add(await self.lanes.with_room(record.topic), record.body, record.headers, None)

    async def hooked(self, topic: str, body: Any, headers: Mapping[str, str] | None) -> Record:
        """What the hooks make of it. Raises Drop, and what they raise."""
        record, chain = self._traced(topic, body, headers), self.hooks.publishing
        if chain is None:
            return record
        try:
            found = await chain.one(self.context, record)
        except Drop:
            self.dropped(1)
            raise
        return found if found is record else self.check_topic(topic, found)

    def _hooked_nowait(self, topic: str, body: Any, headers: Mapping[str, str] | None) -> Record:
        record, chain = self._traced(topic, body, headers), self.hooks.publishing
        if chain is None:
            return record
        try:
            return self.check_topic(topic, chain.one_nowait(self.context, record))
        except Drop:
            self.dropped(1)
            raise

    def dropped(self, records: int) -> None:
        """Hooks took them out."""
        self.outbox.counts["dropped"] += records

    def _traced(self, topic: str, body: Any, headers: Mapping[str, str] | None) -> Record:
        if tracing.is_on():
            headers = tracing.with_trace(headers)
        return new_record(Record, (topic, body, headers or NO_HEADERS))

    def check_topic(self, topic: str, record: Record) -> Record:
        """Raises ValueError if a hook has moved it."""
        if record.topic != topic:
            raise ValueError(
                f"a hook made {record.topic} of {topic}: whether that may be said was not asked; have it publish there"
            )
        return record

    def _note(self, id_: str | None, receipt: Receipt | None) -> Note | None:
        if id_ is None and receipt is None:
            return None
        return Note(b"" if id_ is None else given_id(self._agent, id_), b"", receipt)


def until_of(lane: Lane, wait: str | None) -> str:
    """What a publisher waits for. Raises ValueError."""
    if wait is None:
        return STORED if lane.rule.is_durable else SENT if lane.by_identity else ACCEPTED
    if wait not in WAITS:
        raise ValueError(f"wait={wait!r}: one of {', '.join(WAITS)}")
    if wait == STORED and not lane.rule.is_durable:
        raise ValueError(f"wait='stored' on the live topic {lane.key.topic}: nothing is stored there; use 'sent'")
    return wait
